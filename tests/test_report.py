"""The report: made from records alone, complete, self-contained, and honest about what is stale or cannot be drawn."""
import base64
import re
import sys
import xml.etree.ElementTree as xml
from html.parser import HTMLParser

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("mistune")
from made_up import record

from spec_toolkit import blocks, cli, experiments, plot, report, report_page, results

GPUS = {"paper": ("NVIDIA Paper", 1.0), "cardboard": ("NVIDIA Cardboard", 2.0)}


def write(folder, names=("ladder", "batch_scaling"), gpus=GPUS):
    """Made-up records of every problem of these experiments, on two GPUs, the second twice as slow."""
    ours = experiments.best_rung("probs")
    for slug, (gpu, slower) in gpus.items():
        for name in names:
            for arguments in experiments.EXPERIMENTS[name].problems:
                megabytes = arguments["batch"] * arguments["vocab"] * 6e-6
                for sampler, us in ((ours, 6 + megabytes / 4), ("v1", 900 + megabytes), ("flashinfer_chain", 60 + megabytes)):
                    made = record(sampler, us * slower, experiment=name, megabytes=megabytes, limit_us=slower * (4 + megabytes / 4.5), gpu=gpu, **arguments)
                    path = folder / slug / name / f"{sampler}-{results.slug(str(arguments))}.json"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(results.to_text(made))
    return ours


class Page(HTMLParser):
    """What a page asks for, holds and says."""
    def __init__(self, text):
        super().__init__()
        self.asked, self.images, self.anchors, self.links, self.words, self.open = [], [], set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.asked += [given[key] for key in ("src", "srcset", "data", "action") if key in given] + ([given["href"]] if tag == "link" else [])
        self.images += [given] * (tag == "img")
        self.anchors |= {given["id"]} if "id" in given else set()
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    ours = write(folder / "results")
    hashes = {ours: ours, "v1": "another source", "flashinfer_chain": None}
    return ours, report.write(folder / "results", folder / "out", hashes, progress=False)


def test_every_figure_is_written_twice_and_stands_in_the_page(made):
    _, path = made
    files = sorted(file.relative_to(path.parent / "figures").as_posix() for file in (path.parent / "figures").rglob("*.*"))
    wanted = {f"{gpu}/{name}" for gpu in GPUS for name in ("ladder/figure", "batch_scaling/figure", "batch_scaling/speedup")}
    assert set(files) == {f"{stem}.{kind}" for stem in wanted for kind in ("png", "svg")}
    page = Page(path.read_text())
    assert len(page.images) == len(wanted)
    for image in page.images:
        assert image["alt"].endswith(".") and any(gpu in image["alt"] for gpu, _ in GPUS.values()) and "µs" not in image["src"]
        drawn = xml.fromstring(base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")))
        assert drawn.tag.endswith("svg") and not list(drawn.iter("{http://www.w3.org/2000/svg}text"))  # letters as outlines


def test_the_page_asks_nobody_for_anything(made):
    _, path = made
    text = path.read_text()
    page = Page(text)
    assert page.asked and all(url.startswith("data:") for url in page.asked) and not page.open and "<script" not in text
    assert "default-src 'none'" in text and "url(" not in text and "@import" not in text
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= page.anchors  # the contents lead somewhere


def test_the_page_says_what_the_records_say(made):
    ours, path = made
    page = Page(path.read_text())
    words = " ".join(" ".join(page.words).split())
    assert f"B=1, K=4, V=128,256: {ours} takes 6.2 µs, where a plain read of the same bytes takes 4.2 (67%)" in words
    assert f"B=1, K=4, V=128,256: {ours} takes 12.4 µs" in words  # the other GPU, and no ratio of the two
    assert "Stale: v1" in words and "older than today's source v1 v1" in words and "v1 (stale)" in words
    assert "The same problems on both" in words and "NVIDIA Cardboard, GPU µs of the limit NVIDIA Paper, GPU µs" in words
    assert "Is every sampler exact?" in words and "Would it be seen if one were wrong?" in words
    assert "What does each rung of the ladder buy?" in words and "V1 - one thread per request" in words and "driver 580 580" in words


def test_one_gpu_has_nobody_beside_it_and_none_gives_a_page_too(tmp_path):
    write(tmp_path / "one", names=("ladder",), gpus={"paper": GPUS["paper"]})
    (section,) = report.gather(tmp_path / "one")
    assert report.side_by_side(section) == "" and section.question == "What does each rung of the ladder buy?"
    assert "on both" not in report.write(tmp_path / "one", tmp_path / "out", {}, progress=False).read_text()
    (tmp_path / "empty").mkdir()
    empty = report.write(tmp_path / "empty", tmp_path / "none", {}, progress=False)
    assert "No times are recorded yet" in empty.read_text() and not Page(empty.read_text()).images


def test_what_cannot_be_drawn_is_said_and_loses_nobody(tmp_path, monkeypatch):
    write(tmp_path, gpus={"paper": GPUS["paper"]})

    def cannot(records):
        raise ValueError("two at one place")
    monkeypatch.setitem(blocks.SHOWN, "ladder", cannot)
    ladder, scaling = report.gather(tmp_path)
    assert ladder.shown[0].problem == "ValueError: two at one place" and scaling.shown[0].figures and not scaling.shown[0].problem
    assert "Not drawn: ValueError: two at one place" in report_page.page([ladder, scaling], tmp_path)


def test_long_tables_are_folded():
    table = lambda rows: report_page.text("| a |\n|---|\n" + "| <b> |\n" * rows)
    assert "<details>" not in table(report_page.FOLDED) and f"the table, {report_page.FOLDED + 1} rows" in table(report_page.FOLDED + 1)
    assert "<b>" not in table(1) and "&lt;b&gt;" in table(1)


def test_the_command(tmp_path, capsys):
    write(tmp_path / "results", names=("ladder",), gpus={"paper": GPUS["paper"]})
    assert cli.main(["report", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html") and re.search("<h2", (tmp_path / "out" / "index.html").read_text())
    assert cli.main(["report", "--results", str(tmp_path / "nowhere")]) == 2 and "no such folder" in capsys.readouterr().err


def test_a_missing_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mistune", None)
    assert cli.main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "mistune is missing; it comes with: pip install 'spec-toolkit[notebooks]'" in capsys.readouterr().err


def test_side_by_side_tells_problems_of_one_size_apart(tmp_path):
    write(tmp_path, names=("misaligned",))
    (section,) = report.gather(tmp_path)
    rows = [line for line in report.side_by_side(section).splitlines() if "| v1 |" in line and "B=1," in line and "V=32,001" in line]
    assert sorted(line.split(" | ")[0].split("V=32,001")[1] for line in rows) == [", padding 0", ", padding 1"]


def test_the_kernels_from_logits_are_told_in_short():
    at = [{"batch": batch, "experiment": "logits", "megabytes": batch} for batch in (1, 8)]
    times = [("v8", 13.5, 20.1), ("v9", 10.0, 30.0), ("v10", 14.0, 20.0), ("softmax+v7", 48.0, 60.0)]
    records = [record(name, us, **where) for name, *both in times for us, where in zip(both, at)]
    section = report.Section("logits", "?", [report.Shown("NVIDIA Paper", "paper", records, {}, "")])
    assert report.in_short([section]) == {"NVIDIA Paper": [
        "From logits, B=8, K=4, V=128,256: v10 takes 20.0 µs, where a plain read of the same bytes takes 4.0 (20%); 3.0 times less than softmax+v7.",
        "From logits, the fastest kernel of each problem: v9 at B=1, K=4, V=128,256; v8 and v10 at B=8, K=4, V=128,256."]}


def test_a_caption_is_text_of_the_page_and_stays_in_the_figure(made):
    text = made[1].read_text()
    assert text.count("<figcaption>") == text.count("<img ") > 0
    chart = plot.lines([record("v2", 10.0), record("v2", 20.0, batch=8)])
    before = chart._repr_png_()
    shown = report_page.figure(chart)
    assert f"<figcaption>{chart.caption_text}</figcaption>" in shown and chart._repr_png_() == before
