"""What stands between two markers of a page: the figures and tables of an experiment, and what is no experiment's.

NAME             shown
an experiment    its figures, captions and tables: SHOWN, or one figure and one table
rung_v1, ...     the rung's header, launch, registers and times (course.py)
other_rungs      the same of all rungs that have no block of their own on the page
registers        what the compiler makes of each rung; sanitizers, crosscheck: the records of these names
llm              a language model decoded in several ways (llm_bench_page.py)
"""
from __future__ import annotations

import os
from pathlib import Path

from . import (
    compiled,
    conditions,
    course,
    crosscheck,
    llm_bench_page,
    plot,
    plot_grid,
    plot_ladder,
    plot_logits,
    plot_shapes,
    reading,
    results,
    sanitize,
    tables,
)
from .experiments import SEED_BATCHES, SEED_GPU, SEED_VOCABS, TODAY
from .parts import SMALL_VOCAB, take_apart
from .parts import table as parts_table
from .sampler import load_sampler


def figure(records) -> plot.Chart:
    """Bars for one problem; else lines over batch (over vocabulary where only that varies), the rest at its commonest."""
    x = "batch" if len({r["problem"]["batch"] for r in records}) > 1 else "vocab"
    for key in sorted({"batch", "vocab", "draft_len", "dtype", "kind", "acceptance_requested", "flush", "seed", "shape"} - {x}):
        values = [repr(r.get(key, r["problem"].get(key))) for r in records]
        kept = max(sorted(set(values)), key=values.count)
        records = [r for r, value in zip(records, values) if value == kept]
    return plot.bars(records) if all(plot.same_problem(records[0], r) for r in records) else plot.lines(records, x)


def _rungs(records) -> list[str]:
    return [name for name in reading.kernels_first(records) if any(r["sampler"] == name and r.get("sampler_kind") == "kernel" for r in records)]


def _ladder(records) -> tuple[dict, str]:
    return {"figure": plot_ladder.ladder(records)}, tables.ladder(records)


def _grid(records) -> tuple[dict, str]:
    ours = _rungs(records)[-1]
    peer = max((n for n in reading.kernels_first(records) if n != ours), key=lambda n: n == "flashinfer_chain")
    figures = {"figure": plot.heatmap(records, peer, ours), "bytes": plot_grid.against_bytes(records), "shares": plot_grid.shares(records, ours, peer)}
    text = tables.ratios(reading.ratios(records, ours)) + "\n" + tables.shares(records, ours)
    return figures, text + _left_out(records)


def _profile(records) -> tuple[dict, str]:
    parts = take_apart(records)
    return ({"figure": plot_ladder.taken_apart(parts, records)} if parts else {}), parts_table(parts) + "\n" + tables.host(
        [r for r in records if r["problem"]["vocab"] > SMALL_VOCAB])


def _scaling(x: str, seed: dict):
    """Time and speedup over x, as its notebook draws them, and the seed's table above the whole one."""
    def shown(records) -> tuple[dict, str]:
        rungs = _rungs(records)
        drawn = records if x == "batch" else reading.where(records, batch=16, draft_len=4)
        peer = next((name for name in TODAY if any(r["sampler"] == name and reading.value(r) for r in drawn)), None)
        figures = {"figure": plot.lines(drawn, x)} if drawn else {}
        figures |= {"speedup": plot.lines(drawn, x, baseline=peer)} if peer else {}
        ours = dict.fromkeys([*rungs[:1], *rungs[-1:]])
        return figures, tables.beside_the_seed(records, seed, SEED_GPU, *ours) + "\n" + tables.side_by_side(records) + _left_out(records)
    return shown


def _logits(records) -> tuple[dict, str]:
    text = tables.side_by_side(records) + "\n" + plot_logits.bytes_table(records)
    return {"figure": plot_shapes.by_shape(records)}, text + _left_out(records)


def _acceptance(records) -> tuple[dict, str]:
    text = tables.side_by_side(records, "acceptance") + "\n" + plot_logits.bytes_table(records)
    return {"figure": plot_logits.against_acceptance(records)}, text + _left_out(records)


def _condition(experiment: str, column: str):
    """A figure, a sentence and a table of a sampler under other conditions."""
    def shown(records) -> tuple[dict, str]:
        figures = {"figure": plot_shapes.by_shape(records, column)} if any(map(reading.value, records)) else {}
        return figures, f"{conditions.sentence(experiment, records)}\n\n{tables.side_by_side(records, column)}{_left_out(records)}"
    return shown


def _left_out(records) -> str:
    out = tables.left_out(records)
    return f"\n{out}\n" if out else ""


SHOWN = {"ladder": _ladder, "grid": _grid, "profile": _profile, "batch_scaling": _scaling("batch", SEED_BATCHES),
         "vocab_scaling": _scaling("vocab", SEED_VOCABS), "flush_modes": _condition("flush_modes", "flush"),
         "misaligned": _condition("misaligned", "row_padding"), "dtypes": _condition("dtypes", "dtype"), "logits": _logits, "logits_lse": _logits, "acceptance": _acceptance}  # others: `figure` and `plot.table`


def shown(experiment: str, records) -> tuple[dict, str]:
    """({name of a figure: figure}, Markdown table) of an experiment's records."""
    return SHOWN[experiment](records) if experiment in SHOWN else ({"figure": figure(records)}, plot.table(records))


def block(folder: Path, name: str, root: Path, hashes: dict | None = None, on_page=()) -> tuple[str, dict]:
    """(Markdown, {path without suffix: figure}) of the block of that name, over all GPUs recorded below folder.

    root: the folder of the page, for its links. on_page: all blocks of the page (those of rungs are not shown again).
    """
    if name in OTHERS:
        return OTHERS[name](Path(folder), on_page, hashes), {}
    if name == "llm":
        return _loops(folder, root, hashes)
    if name.startswith("rung_"):
        return course.section(load_sampler(name.removeprefix("rung_")), gpus(folder), compiled.load(folder), hashes), {}
    return _experiment(folder, name, root, hashes)


def _experiment(folder, experiment: str, root, hashes) -> tuple[str, dict]:
    parts, figures = [], {}
    for gpu in gpus(folder):
        if not (records := reading.latest(results.load_records(gpu / experiment, experiment, hashes))):
            continue
        drawn, table = shown(experiment, records)
        stems = {name: gpu / experiment / name for name in drawn}
        figures |= {stems[name]: chart for name, chart in drawn.items()}
        captions = {chart.caption_text: name for name, chart in drawn.items()} or {reading.caption(records): None}  # said once, below its last figure
        parts += [f"![{experiment} on {gpu.name}]({Path(os.path.relpath(stems[name], root)).as_posix()}.svg)\n"
                  + (f"\n{chart.caption_text}\n" if captions[chart.caption_text] == name else "") for name, chart in drawn.items()]
        parts += [table] + ([] if drawn else [*captions, ""])
    return "\n".join(parts) or f"No times are recorded for `{experiment}` yet: `make gpu` writes them on a GPU.\n", figures


def _loops(folder, root, hashes) -> tuple[str, dict]:
    """On a page: the sentences and the first figure of each GPU; all figures are written. The tables are in the report."""
    parts, figures = [], {}
    for gpu, records in llm_bench_page.gpus(folder, hashes).items():
        drawn = llm_bench_page.shown(records)[0]
        figures |= {gpu / "llm" / name: chart for name, chart in drawn.items()}
        parts += [f"* {sentence}" for sentence in llm_bench_page.answer(records, brief=True)]
        for name, chart in list(drawn.items())[:1]:
            parts += [f"\n![{name} on {gpu.name}]({Path(os.path.relpath(gpu / 'llm' / name, root)).as_posix()}.svg)\n\n{chart.caption_text}\n"]
    return "\n".join(parts) or llm_bench_page.EMPTY, figures


def gpus(folder) -> list[Path]:
    """The folders of GPUs below the folder of results."""
    return sorted(p for p in Path(folder).glob("*") if p.is_dir() and p.name not in ("cpu", "compiled"))


def _registers(folder, _, hashes) -> str:
    found = compiled.load(folder)
    return compiled.table(found, hashes) if found else "Nothing is compiled yet: `python -m spec_toolkit.compiled` does it, on any machine.\n"


def _sanitizers(folder, _, hashes) -> str:
    made = [m for gpu in gpus(folder) if (m := sanitize.load(gpu))]
    return "\n".join(sanitize.page(m, hashes) for m in made) or "No run is recorded yet: `make gpu-sanitize` on a GPU writes one.\n"


def _crosscheck(folder, _, hashes) -> str:
    compared = [c for gpu in gpus(folder) if (c := crosscheck.load_crosscheck(gpu))]
    return "\n".join(map(crosscheck.table, compared)) or "No cross-check is recorded yet: `spec-toolkit crosscheck` on a GPU writes one.\n"


def _other_rungs(folder, on_page, hashes) -> str:
    return course.rest({name.removeprefix("rung_") for name in on_page}, gpus(folder), compiled.load(folder), hashes) or "There are none.\n"


OTHERS = {"registers": _registers, "sanitizers": _sanitizers, "crosscheck": _crosscheck, "other_rungs": _other_rungs}
