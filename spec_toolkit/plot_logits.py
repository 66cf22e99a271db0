"""Figures and tables of the experiments from logits: times against acceptance, row pairs against acceptance, bytes, draft_lse.

Like plot.py it sees only records (and `laziness.Count`s, numbers of the CPU), and shares its colours, marks and captions.
"""
from __future__ import annotations

import numpy as np

from . import plot
from .chart import BLACK, BLUE, ORANGE, RED, Chart, finish, one_panel
from .laziness import ITEMSIZE, needed_bytes, predicted_bytes, predicted_pairs, recorded_pairs
from .plot_shapes import legend_name, log_axis, samplers
from .reading import lengths, normalised, sizes, some, value


def newest_gpu(records, flush: str | None = None) -> list:
    """The records with a GPU time, of the GPU (and the flush, where none is given) that was recorded last; [] if none is."""
    timed = [r for r in records if value(r)]
    newest = max(timed, key=lambda r: r["created"], default=None)
    same = lambda r: r["environment"]["gpu"] == newest["environment"]["gpu"] and r["flush"] == (flush or newest["flush"])
    return [r for r in timed if same(r)]


def against_acceptance(records) -> Chart:
    """GPU time of every sampler over the measured acceptance, with the limit: a plain read of the rows that are needed.

    ValueError if a sampler has two records at one acceptance: filter to one batch, K, vocabulary and flush.
    """
    records, asked = some(records), lambda r: r["problem"]["acceptance_requested"]
    chart, axes = one_panel(7.2, 4.8)
    at = lambda r: r["problem"]["acceptance_measured"]
    for name, style in samplers(records).items():
        mine = sorted((r for r in records if r["sampler"] == name), key=at)
        if len({asked(r) for r in mine}) != len(mine):
            raise ValueError(f"{name} has several records at one acceptance: filter to one batch, K, vocabulary and flush")
        face = "white" if any(map(plot.is_stale, mine)) else style["color"]
        axes.plot([at(r) for r in mine], [value(r) for r in mine], label=legend_name(mine), markerfacecolor=face, markersize=5, linewidth=1.4, **style)
        axes.fill_between([at(r) for r in mine], *([value(r, what=what) for r in mine] for what in ("p10", "p90")),
                          color=style["color"], alpha=0.2, linewidth=0)
    floors = sorted({at(r): v for r in records if (v := value(r, "stream_read_us"))}.items())
    if floors:
        axes.plot(*zip(*floors), color=BLACK, linestyle=":", linewidth=2, label="limit: plain read of the rows needed")
    axes.set(yscale="log", xlim=(0, 1), xlabel="acceptance (measured mean of the sum over ids of min(target, draft))", ylabel=plot.METRICS["gpu_us"])
    return log_axis(chart, axes, records, "y")


def row_pairs(counts, draft_len: int, records=()) -> Chart:
    """Row pairs per request over acceptance: the prediction, counts of the reference, and of the steps that were timed."""
    chart, axes = one_panel(7.2, 4.2)
    a = np.linspace(0, 1, 201)
    axes.axhline(draft_len, color=RED, linestyle="--", linewidth=1.3, label=f"all {draft_len} row pairs: read without stopping")
    axes.plot(a, [predicted_pairs(x, draft_len) for x in a], color=BLACK, label="predicted: $(1 - a^K) / (1 - a)$")
    axes.errorbar([c.acceptance for c in counts], [c.counted for c in counts], yerr=[2 * c.error for c in counts], color=BLUE,
                  marker="o", linestyle="none", capsize=3, label="counted: the reference, on the CPU (2 standard errors)")
    timed = {r["problem"]["acceptance_measured"]: recorded_pairs(r) for r in records}
    if timed:
        axes.plot(list(timed), list(timed.values()), color=ORANGE, marker="x", markersize=9, markeredgewidth=2, linestyle="none",
                  label="counted: the steps that were timed")
    axes.set(xlim=(0, 1), ylim=(0, draft_len * 1.08), xlabel="acceptance $a$ of one drafted token", ylabel=f"row pairs per request, K={draft_len}")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.94), fontsize=8, frameon=False)
    return finish(chart, records) if records else chart


def fastest(records, samplers) -> str:
    """Which of the samplers took the least GPU time on each problem: "v9 and v10 at B=1, K=4, V=32,000; v10 at ...". Several,
    where their medians lie below the 90th percentile of the least."""
    here = {}
    for r in sorted((r for r in records if r["sampler"] in samplers), key=value):
        here.setdefault((r["problem"]["batch"], lengths(r), r["problem"]["vocab"]), []).append(r)
    found = {}
    for shape in sorted(here):
        first, *others = here[shape]
        level = [first, *(r for r in others if value(r) <= value(first, what="p90"))]
        found.setdefault(" and ".join(sorted(map(plot.label, level), key=lambda name: (len(name), name))), []).append(sizes(first))
    return "; ".join(f"{name} at {' and '.join(at)}" for name, at in found.items())


def bytes_table(records) -> str:
    """A Markdown table: predicted and counted megabytes of rows for each problem of the records."""
    rows = {}
    for r in some(records):
        p = r["problem"]
        key = (p["batch"], p["draft_len"], p["vocab"], p["acceptance_requested"])
        predicted = predicted_bytes(p["acceptance_measured"], p["batch"], p["draft_len"], p["vocab"], ITEMSIZE[p["dtype"]], normalised(r))
        rows[key] = f"| {p['batch']} | {p['draft_len']} | {p['vocab']:,} | {p['acceptance_measured']:.3f} | {predicted / 1e6:.1f} | {needed_bytes(r) / 1e6:.1f} |"
    return "\n".join(["| B | K | V | acceptance | MB predicted | MB counted |", "|---:|---:|---:|---:|---:|---:|", *(rows[k] for k in sorted(rows))]) + "\n"


def lse_table(records, with_lse) -> str:
    """A Markdown table: GPU time of each sampler and problem that is in both, without and with draft_lse. Two runs: no ratio."""
    key = lambda r: (r["problem"]["batch"], lengths(r), r["problem"]["vocab"], r["sampler"])
    given = {key(r): r for r in with_lse}
    lines = ["| B | K | V | sampler | µs | µs with draft_lse | plain read of the row pairs, µs |", "|---:|---:|---:|---|---:|---:|---:|"]
    for r in sorted((r for r in records if key(r) in given), key=key):
        pair, (batch, length, vocab, _) = (r, given[key(r)]), key(r)
        times = [f"{us:.1f}" if us else "–" for us in (*map(value, pair), value(r, "stream_read_us"))]
        lines.append(f"| {batch} | {length} | {vocab:,} | {plot.label(r)} | " + " | ".join(times) + " |")
    return "\n".join(lines) + "\n"


def lse_bytes(shapes, acceptance: float, dtype: str = "bfloat16") -> str:
    """A Markdown table: megabytes that a step needs on average, predicted, without and with draft_lse. shapes: (batch, K, vocab)."""
    needed = lambda shape, given: f"{predicted_bytes(acceptance, *shape, ITEMSIZE[dtype], given) / 1e6:,.1f}"
    lines = [f"| {b} | {k} | {v:,} | {needed((b, k, v), False)} | {needed((b, k, v), True)} |" for b, k, v in shapes]
    return "\n".join([f"| B | K | V | MB predicted, acceptance {acceptance:g} | with draft_lse |", "|---:|---:|---:|---:|---:|", *lines]) + "\n"
