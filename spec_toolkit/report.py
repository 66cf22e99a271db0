"""`spec-toolkit report`: records -> every figure (PNG and SVG), and one self-contained page of figures, tables and method.

Needs no GPU: it sees the records, the kernels' headers, and nothing else. What is shown of an experiment is decided in
blocks.py, for the README and for this page alike. Where two GPUs have records, they stand side by side, never divided: a
ratio is formed only within one run.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import blocks, notebooks, paths, plot, plot_logits, reading, results
from .experiments import EXPERIMENTS
from .tables import NONE, markdown

QUESTIONS = {  # of the experiments that have no notebook of their own name
    "grid": "How does it stand over batch, draft length and vocabulary?",
    "flush_modes": "What if the L2 is not clean?",
    "misaligned": "What do odd rows cost?",
    "dtypes": "What do half-precision rows save?",
    "logits_lse": "What does a drafter's log-normaliser save?",
}


@dataclass(frozen=True)
class Shown:
    """What one GPU's records of one experiment give. figures: name -> Chart. problem: why something could not be drawn."""
    gpu: str
    slug: str
    records: Sequence
    figures: dict
    table: str
    problem: str | None = None

    @property
    def stale(self) -> list[str]:
        """Samplers whose source is not the one that was timed."""
        return _stale(self.records)


def _stale(records) -> list[str]:
    return reading.kernels_first([r for r in records if r.stale])


@dataclass(frozen=True)
class Section:
    experiment: str
    question: str
    shown: list[Shown] = field(default_factory=list)


def question(experiment: str) -> str:
    """The title of the notebook of that name; else the one given here."""
    if path := notebooks.list_notebooks().get(experiment):
        text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        return text.splitlines()[0].lstrip("# ")
    return QUESTIONS.get(experiment, experiment.replace("_", " "))


def gather(folder: Path, hashes: dict | None = None) -> list[Section]:
    """A Section for each experiment that has times, in the order of EXPERIMENTS, then the others by name."""
    found: dict[str, list[Shown]] = {}
    for gpu in blocks.gpus(folder):
        loaded = results.load_records(gpu, current_hashes=hashes)
        for experiment in reading.distinct(loaded, lambda r: r["experiment"]):
            if records := reading.latest(r for r in loaded if r["experiment"] == experiment):
                found.setdefault(experiment, []).append(_shown(gpu.name, experiment, records))
    order = [*(name for name in EXPERIMENTS if name in found), *sorted(set(found) - set(EXPERIMENTS))]
    return [Section(name, question(name), found[name]) for name in order]


def _shown(slug: str, experiment: str, records) -> Shown:
    gpu = records[0]["environment"]["gpu"] or slug
    try:
        return Shown(gpu, slug, records, *blocks.shown(experiment, records))
    except (ValueError, KeyError, IndexError) as error:  # one experiment that cannot be drawn must not lose the others
        return Shown(gpu, slug, records, {}, plot.table(records), f"{type(error).__name__}: {error}")


def side_by_side(section: Section) -> str:
    """A Markdown table: each problem and sampler, its GPU time and share of the limit on each GPU; "" for fewer than two GPUs."""
    if len(section.shown) < 2:
        return ""
    everyone = [r for shown in section.shown for r in shown.records]
    names, said = reading.kernels_first(everyone), _telling(everyone)
    place = lambda r: (r["problem"]["batch"], reading.lengths(r), r["problem"]["vocab"], results.problem_slug(r["problem"], r.get("flush")), names.index(r["sampler"]))
    at = [{place(r): r for r in shown.records} for shown in section.shown]
    rows = []
    for key in sorted({key for held in at for key in held}):
        here = [held.get(key) for held in at]
        one = next(r for r in here if r)
        rows.append([reading.sizes(one) + said(one), reading.label(one), *(text for r in here for text in _times(r))])
    head = ["problem", "sampler", *(text for shown in section.shown for text in (f"{shown.gpu}, GPU µs", "of the limit"))]
    return markdown(head, rows, texts=2)


def _telling(records):
    """A function of a record: what its sizes do not say and other records have otherwise, as ", float16, flush write"."""
    of = {"": lambda r: r["problem"]["dtype"], "padding ": lambda r: r["problem"]["spec"].get("row_padding", 0), "flush ": lambda r: r.get("flush"),
          "acceptance ": lambda r: r["problem"].get("acceptance_requested")}
    varying = {word: get for word, get in of.items() if len({get(r) for r in records}) > 1}
    return lambda r: "".join(f", {word}{get(r)}" for word, get in varying.items())


def _times(record) -> tuple[str, str]:
    us, share = record and reading.value(record), record and reading.of_the_limit(record)
    return NONE if us is None else reading.number(us), NONE if share is None else reading.percent(share)


def in_short(sections) -> dict[str, list[str]]:
    """GPU -> sentences made from its records of the ladder, of the grid, and of the kernels from logits."""
    said: dict[str, list[str]] = {}
    for section in (s for s in sections if s.experiment in SENTENCES):
        for shown in section.shown:
            ours = [r for r in shown.records if r["sampler"] == _last_rung(shown.records) and reading.value(r)]
            said.setdefault(shown.gpu, []).extend(SENTENCES[section.experiment](shown, ours))
    return {gpu: sentences for gpu, sentences in said.items() if sentences}


def _last_rung(records) -> str:
    rungs = [name for name in reading.kernels_first(records) if any(r["sampler"] == name and r.get("sampler_kind") == "kernel" for r in records)]
    return rungs[-1] if rungs else ""


def _rung_sentence(record, shown: Shown) -> str:
    share = reading.of_the_limit(record)
    text = f"{reading.sizes(record)}: {reading.label(record)} takes {reading.number(reading.value(record))} µs"
    text += f", where a plain read of the same bytes takes {reading.number(reading.value(record, 'stream_read_us'))} ({reading.percent(share)})" if share else ""
    faster = {name: reading.speedup(record, shown.records, name, "gpu_us") for name in FIRST}
    return text + "".join(f"; {reading.number(times)} times less than {name}" for name, times in faster.items() if times and name != record["sampler"]) + "."


def _grid_sentences(shown: Shown, ours) -> list[str]:
    found = reading.ratios(shown.records, ours[0]["sampler"]) if ours else []
    return [f"{r.cells} problems: {ours[0]['sampler']} is {reading.number(r.mean)} times faster than {r.peer} (geometric mean of the "
            f"{reading.TIMES[r.metric]}); the least is {r.least:.2f} times, at {reading.sizes(r.worst)}." for r in found]


def _logits_sentences(shown: Shown, ours) -> list[str]:
    if not ours:
        return []
    kernels = {r["sampler"] for r in shown.records if r.get("sampler_kind") == "kernel"}
    return [f"From logits, {_rung_sentence(max(ours, key=lambda r: r['bytes']), shown)}",
            f"From logits, the fastest kernel of each problem: {plot_logits.fastest([r for r in shown.records if reading.value(r)], kernels)}."]


FIRST = ("v1", "flashinfer_chain", "softmax+v7", "softmax+flashinfer_chain", "torch_compile")  # what a rung's sentence compares it with
SENTENCES = {"ladder": lambda shown, ours: [_rung_sentence(r, shown) for r in ours], "grid": _grid_sentences, "logits": _logits_sentences}


def environments(sections) -> list[dict]:
    """One for each GPU, of its newest record, with the number of records, the commits and the days."""
    found = {}
    for shown in (shown for section in sections for shown in section.shown):
        found.setdefault(shown.slug, []).extend(shown.records)
    made = []
    for records in found.values():
        newest, days = max(records, key=lambda r: r["created"]), sorted({r["created"][:10] for r in records})
        commits = reading.distinct(records, reading.commit_of)
        made.append({key: value for key, value in newest["environment"].items() if key not in ("git", "git_clean")}
                    | {"commit": ", ".join(commits), "recorded": " to ".join(dict.fromkeys((days[0], days[-1]))), "records": len(records),
                       "older than today's source": ", ".join(_stale(records)) or "none"})
    return made


def write(folder: Path | None = None, out: str | Path = "outputs/report", hashes: dict | None = None, progress: bool = True) -> Path:
    """Write OUT/index.html and OUT/figures/<gpu>/<experiment>/<figure>.png and .svg; the page's path.

    folder None: the committed results. hashes: name -> source_hash of today's samplers, None = as this checkout has them.
    """
    from tqdm import tqdm

    from . import readme, report_page

    folder, out = Path(folder or paths.results_dir()), Path(out)
    hashes = readme.current_hashes() if hashes is None else hashes
    sections = gather(folder, hashes)
    drawn = [(section, shown, name, chart) for section in sections for shown in section.shown for name, chart in shown.figures.items()]
    for section, shown, name, chart in tqdm(drawn, desc="figures", unit="figure", disable=not progress or not drawn):
        plot.save(chart, out / "figures" / shown.slug / section.experiment / name)
    for stem, chart in blocks.block(folder, "llm", folder, hashes)[1].items():
        plot.save(chart, out / "figures" / stem.relative_to(folder))
    out.mkdir(parents=True, exist_ok=True)
    results.write_atomically(out / "index.html", report_page.page(sections, folder, hashes))
    return out / "index.html"
