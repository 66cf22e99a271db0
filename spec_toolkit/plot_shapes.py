"""One row for each problem: the GPU time of every sampler beside the limit, for any records. Sees only records, like plot.py."""
from __future__ import annotations

import numpy as np
from matplotlib.ticker import NullLocator

from . import tables
from .chart import BLACK, CYCLE, DASHES, MARKERS, Chart, finish, one_panel
from .reading import METRICS, distinct, is_stale, kernels_first, lengths, normalised, some, tick, value

FLUSHES = {"read": "flushed by reading", "write": "flushed by writing", "written": "rows just written"}
SAID = {"flush": lambda text: f"\n{FLUSHES.get(text, text)}", "row_padding": lambda text: f", padded by {text}" if int(text) else "",
        "acceptance": lambda text: f", acceptance {text}"}  # columns whose values need a word beside them
SPREAD = 0.6  # of a row: the samplers stand one below the other in it, so that none hides another


def samplers(records) -> dict[str, dict]:
    """sampler -> its colour, marker and dash: the kernels in the order of the ladder, then the others, the fastest first."""
    ordered = kernels_first(sorted(records, key=value))
    return {name: {"color": CYCLE[i % len(CYCLE)], "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i // 2 % len(DASHES)]}
            for i, name in enumerate(ordered)}


def legend_name(records) -> str:
    return records[0]["sampler"] + (" (stale)" if any(map(is_stale, records)) else "")


def by_shape(records, *columns: str) -> Chart:
    """A row for each batch, K, vocabulary and value of the columns (keys of `tables.DETAILS`); the GPU time on a log axis."""
    records = some(r for r in records if value(r))
    shape = lambda r: (r["problem"]["batch"], lengths(r), r["problem"]["vocab"], *(str(tables.detail(r, column)) for column in columns))
    shapes, styles = sorted({shape(r) for r in records}), samplers(records)
    chart, axes = one_panel(7.2, 2.1 + (0.6 if "flush" in columns else 0.5) * len(shapes))
    for place, (name, style) in enumerate(styles.items()):
        mine = [r for r in records if r["sampler"] == name]
        middle, low, high = (np.array([value(r, what=what) for r in mine]) for what in ("median", "p10", "p90"))
        down = SPREAD * (place / max(1, len(styles) - 1) - 0.5)
        axes.errorbar(middle, [shapes.index(shape(r)) + down for r in mine], xerr=[np.maximum(0, middle - low), np.maximum(0, high - middle)],
                      label=legend_name(mine), capsize=2, markersize=5, markerfacecolor="white" if any(map(is_stale, mine)) else style["color"],
                      **style | {"linestyle": "none"})
    for row, this in enumerate(shapes):
        floors = [v for r in records if shape(r) == this and (v := value(r, "stream_read_us"))]
        if floors:
            axes.plot([np.median(floors)], [row], color=BLACK, marker="|", markersize=22, linestyle="none")
    axes.plot([], [], color=BLACK, marker="|", markersize=8, linestyle="none", label="plain read of the row pairs, of which draft_lse spares the draft's" if all(map(normalised, records))
              else "limit: plain read of the rows needed")
    varying = [column for column in columns if len(distinct(records, lambda r, column=column: tables.detail(r, column))) > 1]
    said = lambda s: "".join(SAID.get(c, lambda text: f", {text}")(text) for c, text in zip(columns, s[3:]) if c in varying)
    axes.set(xscale="log", xlabel=METRICS["gpu_us"].replace(", cold L2", "" if "flush" in varying else ", cold L2"), ylim=(len(shapes) - 0.5, -0.5), yticks=range(len(shapes)),
             yticklabels=[f"B={s[0]}, K={s[1]}, V={s[2]:,}{said(s)}" for s in shapes])
    for between in range(1, len(shapes)):
        axes.axhline(between - 0.5, color="#EEEEEE", linewidth=0.6, zorder=0)
    return log_axis(chart, axes, records, "x")


def log_axis(chart, axes, records, along: str) -> Chart:
    """Finish a chart whose x or y axis is logarithmic: ticks at 1, 2 and 5 of each power (at 1 alone over many), legend and caption."""
    axes.grid(axis=along, color="#DDDDDD", linewidth=0.6)
    axis = axes.xaxis if along == "x" else axes.yaxis
    axis.set_major_formatter(tick)
    axis.set_minor_locator(NullLocator())
    low, high = np.log10(axes.get_xlim() if along == "x" else axes.get_ylim())
    steps = (1.0, 2.0, 5.0) if high - low < 3 else (1.0,)
    axis.set_ticks([t for power in range(int(low) - 1, int(high) + 2) for t in (step * 10.0**power for step in steps) if low <= np.log10(t) <= high])
    chart.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return finish(chart, records)
