"""laziness.py and plot_logits.py on numbers made up here, and the notebooks 07 and 08 with and without recorded times."""
import json
from types import SimpleNamespace

import matplotlib
import pytest
import torch

import spec_toolkit
from spec_toolkit import bench, check, laziness, make_problem, notebooks, paths, plot_logits, plot_shapes, reading, readme, results, tables
from spec_toolkit.baselines import load_baseline
from spec_toolkit.composed import Composed
from spec_toolkit.reference import reference

pytest.importorskip("spec_toolkit.sampler")
SAMPLERS = {"v8": 20.0, "softmax+torch_vectorised": 200.0}


def test_prediction_is_the_closed_form():
    for a, k in ((0.1, 1), (0.5, 4), (0.95, 8)):
        assert laziness.predicted_pairs(a, k) == pytest.approx((1 - a**k) / (1 - a))
    assert laziness.predicted_pairs(1.0, 8) == 8 and laziness.predicted_pairs(0.0, 8) == 1 and laziness.predicted_pairs(0.7, 0) == 0
    assert laziness.predicted_bytes(1.0, 3, 8, 100, 2) == 3 * 17 * 100 * 2      # every pair, and the bonus row
    assert laziness.predicted_bytes(0.0, 3, 8, 100, 2) == 3 * 2 * 100 * 2
    assert laziness.predicted_bytes(0.0, 3, 8, 100, 2, draft_lse=True) == 3 * 2 * 100 * 2  # rejected at once: its row is needed
    assert laziness.predicted_bytes(1.0, 3, 8, 100, 2, draft_lse=True) == 3 * 9 * 100 * 2  # no draft row at all


@pytest.mark.parametrize("acceptance, other", [(0.1, 0.3), (0.7, 0.5), (0.95, 0.75)])
def test_counts_meet_the_prediction(acceptance, other):
    count = laziness.count(acceptance, batch=150, vocab=100)
    assert count.acceptance == pytest.approx(acceptance, abs=0.005)
    assert abs(count.counted - count.predicted) < 4 * count.error < 0.3 * count.predicted
    assert abs(count.counted - laziness.predicted_pairs(other, 8)) > 4 * count.error  # it could have failed


def test_counted_pairs_are_those_of_the_accepted_lengths():
    problem = make_problem(6, 3, vocab=50, acceptance=0.6, logits=True, dtype=torch.bfloat16)
    accepted = torch.tensor([0, 1, 2, 3, 3, 0])
    nbytes = bench.touched_bytes(problem, accepted)
    assert laziness.counted_pairs(nbytes, 6, 50, 2, rejected=4) == pytest.approx((1 + 2 + 3 + 3 + 3 + 1) / 6)


class Named:
    """A baseline in the clothes of a kernel from logits."""
    kind, input, draw, reports_status, contract = "kernel", "logits", "cdf", False, SimpleNamespace(notes="V8 - made up")

    def __init__(self, name):
        self.name, self.inner, self.source_hash = name, load_baseline("torch_vectorised"), f"hash of {name}"
        self.ulps, self.bind = self.inner.ulps, self.inner.bind

    def __call__(self, problem):
        return self.bind(problem)()

    def predicted_bytes(self, problem, rejected):
        return problem.target.nbytes


def write(folder, experiment, problem, created="2026-11-24T00:00:00+00:00", flush="write", faster=1.0):
    accepted = reference(problem).num_accepted
    rejected = int((accepted < torch.tensor(problem.draft_len)).sum())
    for name, us in SAMPLERS.items():
        sampler = Named("v8") if name == "v8" else Composed(load_baseline("torch_vectorised"))
        limits = {"stream_read_us": [9.0, 10.0], "empty_launch_us": [3.0, 3.0]}
        timing = bench.Timing(name, check(sampler, problem), flush, f"run {problem!r}", created, [us / faster, 1.1 * us / faster], None, [us + 30.0],
                              [9.0], bench.touched_bytes(problem, accepted), rejected, limits)
        results.record(experiment, sampler, problem, timing.check, timing, folder)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Made-up times of two shapes and three acceptances, as if from a GPU called Paper."""
    monkeypatch.setattr(results, "environment", lambda *_: {"gpu": "Paper", "torch": "2", "git": "0" * 40})
    for batch, vocab in ((2, 40), (4, 60)):
        arguments = {"batch": batch, "draft_len": 4, "vocab": vocab, "acceptance": 0.69, "logits": True, "dtype": torch.bfloat16}
        write(tmp_path / "results", "logits", make_problem(**arguments))
        write(tmp_path / "results", "logits_lse", make_problem(**arguments, draft_lse=True), faster=2.0)
    for acceptance in (0.1, 0.5, 0.9):
        write(tmp_path / "results", "acceptance", make_problem(30, 8, 50, acceptance, logits=True, dtype=torch.bfloat16))
    return tmp_path / "results"


def test_figures_and_tables_say_what_the_records_hold(folder):
    records = results.load_records(folder, "logits")
    chart = plot_shapes.by_shape(records)
    assert [t.get_text() for t in chart.axes[0].get_yticklabels()] == ["B=2, K=4, V=40", "B=4, K=4, V=60"]
    assert "Paper" in chart.caption_text and "flushed by writing" in chart.caption_text
    (drawn,) = [line for line in chart.axes[0].lines if line.get_marker() == "o"]
    assert list(drawn.get_xdata()) == pytest.approx([21.0, 21.0])  # v8 is a kernel, so the first mark; the median
    assert list(drawn.get_ydata()) != list(chart.axes[0].lines[3].get_ydata()), "no sampler lies on another"
    acceptance = results.load_records(folder, "acceptance")
    lines = {line.get_label(): line for line in plot_logits.against_acceptance(acceptance).axes[0].lines}
    assert set(lines) == {*SAMPLERS, "limit: plain read of the rows needed"} and len(lines["v8"].get_xdata()) == 3
    assert list(lines["limit: plain read of the rows needed"].get_ydata()) == [9.5] * 3
    with pytest.raises(ValueError, match="several records at one acceptance"):
        plot_logits.against_acceptance(records)
    with pytest.raises(ValueError, match="no records"):
        plot_shapes.by_shape([])
    for table, word in ((plot_logits.bytes_table(acceptance), "| 30 | 8 | 50 |"), (
            plot_logits.lse_table(records, results.load_records(folder, "logits_lse")), "| 4 | 4 | 60 | v8 | 21.0 | 10.5 | 9.5 |")):
        assert word in table, table
    given = results.load_records(folder, "logits_lse")
    assert not any(map(reading.of_the_limit, given)) and all(map(reading.of_the_limit, records)), "the plain read is no limit where less is needed"
    assert "of the limit" in tables.side_by_side(records) and "of the limit" not in tables.side_by_side(given)
    problem, (row, batch) = given[0]["problem"], (given[0]["problem"]["vocab"] * 2, given[0]["problem"]["batch"])
    tested = laziness.recorded_pairs(given[0]) * batch  # pairs that were looked at; the last of each rejected request was not accepted
    assert laziness.needed_bytes(given[0]) == pytest.approx((tested - problem["rejected"] + batch + problem["rejected"]) * row)
    assert laziness.needed_bytes(records[0]) == records[0]["bytes"]
    assert plot_logits.fastest(records, {"v8"}) == "v8 at B=2, K=4, V=40 and B=4, K=4, V=60" and plot_logits.fastest(records, set()) == ""
    counted = [laziness.recorded_pairs(r) for r in acceptance if r["sampler"] == "v8"]
    predicted = [laziness.predicted_pairs(r["problem"]["acceptance_measured"], 8) for r in acceptance if r["sampler"] == "v8"]
    assert counted == pytest.approx(predicted, rel=0.35) and counted != pytest.approx(counted[::-1], rel=0.35)


def test_bytes_are_predicted_where_no_time_is_recorded():
    count = laziness.Count(0.5, 1.75, 1.7, 0.1, 1.8)  # 3 drafts of 1000 ids in 2 bytes for 500 requests: a row of each is 1 MB
    assert laziness.bytes_table([count], 500, 3, 1000).splitlines()[2] == "| 0.500 | 4 | 3 | 7 |"  # 2 * 1.75 + 1/8; 1.75 + 1; 2 * 3 + 1
    assert plot_logits.lse_bytes([(500, 3, 1000)], 0.5).splitlines()[2] == "| 500 | 3 | 1,000 | 3.6 | 2.8 |"


def test_a_stale_record_is_drawn_hollow(folder):
    records = results.load_records(folder, "acceptance", {"v8": "another"} | dict.fromkeys(["softmax+torch_vectorised"]))
    lines = {line.get_label(): line for line in plot_logits.against_acceptance(records).axes[0].lines}
    assert lines["v8 (stale)"].get_markerfacecolor() == "white" and "softmax+torch_vectorised" in lines


def test_the_newest_gpu_is_shown(folder, monkeypatch):
    problem = make_problem(2, 4, 40, logits=True, dtype=torch.bfloat16)
    monkeypatch.setattr(results, "environment", lambda *_: {"gpu": "Card", "torch": "2", "git": "0" * 40})
    write(folder, "logits", problem, created="2027-01-01T00:00:00+00:00", flush="read")
    records = results.load_records(folder, "logits")
    assert {r["environment"]["gpu"] for r in plot_logits.newest_gpu(records)} == {"Card"}
    assert plot_logits.newest_gpu(records, "write") == [] or {r["flush"] for r in plot_logits.newest_gpu(records, "write")} == {"write"}
    assert plot_logits.newest_gpu([]) == []


def run_cells(name, monkeypatch, **parameters):
    """Run a notebook's cells here, as on a machine without a GPU; -> its names."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    matplotlib.use("agg")
    names = {}
    for cell in json.loads(notebooks.find_notebook(name).read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)  # noqa: S102 (a notebook of ours, as Jupyter would)
            if cell["id"] == "parameters":
                assert set(parameters) <= set(names)
                names |= parameters
    return names


COMPOSITES = {"composites": ["softmax+torch_vectorised"]}


@pytest.mark.parametrize("name, parameters, said", [
    ("logits", {"draft_len": 2, "check_vocab": 65}, "for want of a GPU"),
    ("acceptance", {"count_batch": 20, "count_vocab": 50, "acceptances": [0.3, 0.7]}, "for want of a GPU")])
def test_without_a_gpu_or_a_record_a_notebook_says_so(name, parameters, said, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paths, "results_dir", lambda: tmp_path / "nothing")
    monkeypatch.setattr("spec_toolkit.sampler.list_kernels", list)
    monkeypatch.setattr(readme, "current_hashes", dict)
    names = run_cells(name, monkeypatch, **parameters | COMPOSITES, out=str(tmp_path / "out"))
    printed = capsys.readouterr().out
    assert said in names["sentence"] and "No GPU here" in printed and "No time has been recorded" in printed
    assert (tmp_path / "out" / "row_pairs.svg").is_file() == (name == "acceptance")


@pytest.mark.parametrize("name, parameters, said, figures", [
    ("logits", {"draft_len": 2, "check_vocab": 65}, "at B=4 and V=60 the kernel v8 took 21.0 µs, 10.0 times less than softmax+torch_vectorised on Paper",
     {"logits_by_shape"}),
    ("acceptance", {"count_batch": 20, "count_vocab": 50, "acceptances": [0.7]}, "; v8 took 21 µs at 0.11 and 21 µs at 0.90 on Paper.",
     {"row_pairs", "acceptance"})])
def test_without_a_gpu_a_notebook_shows_the_records(name, parameters, said, figures, folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paths, "results_dir", lambda: folder)
    monkeypatch.setattr("spec_toolkit.sampler.list_kernels", lambda: ["v8"])
    monkeypatch.setattr(readme, "current_hashes", lambda: {"v8": "hash of v8"})
    monkeypatch.setattr(spec_toolkit, "load_sampler", lambda name: Named(name) if name == "v8" else load_baseline(name))
    names = run_cells(name, monkeypatch, **parameters | COMPOSITES, out=str(tmp_path / "out"))
    assert said in names["sentence"] and "Recorded on Paper" in capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "out").iterdir()} == figures
