"""Records -> figures. Sees only records (dicts as `results.load_records` gives them), never a sampler.

Medians with p10 to p90. A stale record is hatched and marked "(stale)". Ratios are formed only within one run_id.
"""
from __future__ import annotations

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import Rectangle

from .chart import BLACK, BLUE, CYCLE, DASHES, MARKERS, ORANGE, RED, SKY, Chart, finish, one_panel, save  # noqa: F401  (notebooks draw with them)
from .reading import (
    METRICS,
    TIMES,
    is_stale,
    kernels_first,
    label,
    lengths,
    number,
    of_the_limit,
    same_problem,
    some,
    speedup,
    tick,
    times,
    value,
)
from .tables import table  # noqa: F401  (the table beside a figure is found where the figure is)


def _slowest_first(records, metric: str = "call_us") -> list:
    return sorted(records, key=lambda r: -(value(r, metric) or value(r, "gpu_us") or 0))


def bars(records, baseline: str = "python_loop") -> Chart:
    """One problem, all its samplers: whole call and GPU time on a log axis, the limit, speedup of the call.

    The call is what all samplers have (a sampler that synchronises has no GPU time), so the speedup is of calls.
    """
    records = _slowest_first(r for r in some(records) if value(r, "call_us"))
    if not records:
        raise ValueError("these records hold checks but no times: bars needs times measured on a GPU")
    if not all(same_problem(records[0], r) for r in records):
        raise ValueError("bars shows one problem, these records hold several: filter them, or use lines or heatmap")
    chart, axes = one_panel(7.2, 1.7 + 0.55 * len(records))
    right = max(value(r, "call_us", "p90") for r in records)
    for row, record in enumerate(records):
        faster = speedup(record, records, baseline)
        text = "" if faster is None else f"  {number(faster)}x" if record["sampler"] != baseline else "  1x (baseline)"
        _bar(axes, row - 0.19, record, "call_us", SKY, text)
        _bar(axes, row + 0.19, record, "gpu_us", BLUE, "")
    for colour, text in ((SKY, "whole eager call, synchronised"), (BLUE, "on the GPU (graph replay)")):
        axes.barh([0], [0], color=colour, edgecolor=BLACK, linewidth=0.5, label=text)
    floors = [v for r in records if (v := value(r, "stream_read_us"))]
    if floors:
        axes.axvline(np.median(floors), color=RED, linestyle="--", linewidth=1.3,
                     label=f"limit: plain read of the same bytes, {number(float(np.median(floors)))} µs")
    low = min([*floors, *(v for r in records for m in ("gpu_us", "call_us") if (v := value(r, m)))])
    axes.set(xscale="log", xlim=(low / 2, right * (2 * right / low) ** 0.25), yticks=range(len(records)), yticklabels=[label(r) for r in records],
             xlabel=f"µs (log scale); 2x: the call of {baseline} takes twice as long, same run")
    axes.xaxis.set_major_formatter(tick)
    axes.invert_yaxis()
    chart.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return finish(chart, records)


def _bar(axes, y: float, record, metric: str, colour: str, text: str) -> None:
    middle = value(record, metric)
    if middle is None:
        axes.annotate("no GPU time: it synchronises with the host" if "synchronises" in str(record.get("gpu_us_missing"))
                      else "no GPU time", (0.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=5)
        return
    low, high = value(record, metric, "p10"), value(record, metric, "p90")
    hatch = "////" if is_stale(record) else None
    axes.barh(y, middle, height=0.36, color=colour, edgecolor=BLACK, linewidth=0.5, hatch=hatch)
    axes.errorbar(middle, y, xerr=[[max(0, middle - low)], [max(0, high - middle)]], color=BLACK, capsize=2, linewidth=1)
    axes.annotate(f"{number(middle)}{text}", (high, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def lines(records, x: str = "batch", metric: str = "gpu_us", baseline: str | None = None) -> Chart:
    """One line per sampler over x ("batch" or "vocab"), with the limit; with a baseline, speedup over it instead of time.

    The limit of a speedup is that of a sampler which takes no longer than the plain read. ValueError if two records of a
    sampler share an x: filter to one K, dtype, acceptance and flush first.
    """
    if x not in ("batch", "vocab"):
        raise ValueError(f"x={x!r}: accepted are 'batch' and 'vocab'")
    records = some(records)
    chart, axes = one_panel(7.2, 4.6)
    for name, style in styles(records).items():
        mine = sorted((r for r in records if r["sampler"] == name), key=lambda r: r["problem"][x])
        one_each(mine, x, name)
        _line(axes, mine, records, x, metric, baseline, style | {"markersize": 5, "linewidth": 1.4})
    above = [r for r in records if r["sampler"] == baseline] if baseline else records
    floors = {r["problem"][x]: (value(r) or 0) / v if baseline else v for r in above if (v := value(r, "stream_read_us"))}
    if any(floors.values()) and metric == "gpu_us":
        axes.plot(*zip(*sorted(floors.items())), color=BLACK, linestyle=":", linewidth=2, label="limit: plain read, same bytes")
    if baseline:
        axes.axhline(1, color=BLACK, linewidth=0.8)
    ticks = sorted({r["problem"][x] for r in records})
    axes.set(xscale="log", yscale="log", xlabel={"batch": "batch B", "vocab": "vocabulary V"}[x],
             ylabel=f"times faster than {baseline} ({TIMES[metric]})" if baseline else METRICS[metric])
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks], **{"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if x == "vocab" else {})
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(tick)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    chart.legend(loc="outside right upper", fontsize=8, frameon=False)
    return finish(chart, records)


def styles(records) -> dict[str, dict]:
    """sampler -> colour, marker and dash, the same in every figure of these records; the rungs first."""
    return {name: {"color": CYCLE[i % len(CYCLE)], "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i // 2 % len(DASHES)]}
            for i, name in enumerate(kernels_first(records))}


def one_each(records, x: str, name: str) -> None:
    at = [r["problem"][x] for r in records]
    if len(set(at)) != len(at):
        raise ValueError(f"{name} has several records at the same {x} ({at}): filter to one K, dtype, acceptance and flush")


def _line(axes, mine, records, x, metric, baseline, style) -> None:
    points = [(r["problem"][x], r, speedup(r, records, baseline, metric) if baseline else value(r, metric)) for r in mine]
    points = [p for p in points if p[2] is not None]
    if not points:
        return
    at, shown = [p[0] for p in points], [p[2] for p in points]
    stale = any(is_stale(p[1]) for p in points)
    axes.plot(at, shown, label=mine[0]["sampler"] + (" (stale)" if stale else ""),
              markerfacecolor="white" if stale else style["color"], **style)
    if not baseline:
        axes.fill_between(at, [value(p[1], metric, "p10") for p in points], [value(p[1], metric, "p90") for p in points],
                          color=style["color"], alpha=0.2, linewidth=0, hatch="////" if stale else None)


def heatmap(records, baseline: str, sampler: str, metric: str = "gpu_us") -> Chart:
    """Speedup of sampler over baseline, a panel for each K: batch down, vocabulary across. White is even, a cross slower.

    Below each GPU speedup stands the limit: that of a sampler which takes no longer than the plain read of the same bytes.
    ValueError if the sampler has two records at one place: filter to one dtype, acceptance and flush first.
    """
    records = some(records)
    cells = {}
    for record in some(r for r in records if r["sampler"] == sampler):
        place = lengths(record), record["problem"]["batch"], record["problem"]["vocab"]
        if place in cells:
            raise ValueError(f"{sampler} has several records at K, batch, vocab = {place}: filter to one dtype, acceptance and flush")
        factor, most = speedup(record, records, baseline, metric), of_the_limit(record) if metric == "gpu_us" else None
        cells[place] = factor or np.nan, is_stale(record), factor / most if factor and most else None
    panels = sorted({place[0] for place in cells}, key=lambda k: (len(k), k))
    batches, vocabs = (sorted({place[i] for place in cells}) for i in (1, 2))
    most = max(0.1, np.nanmax(np.abs(np.log2([cell[0] for cell in cells.values()])), initial=0.1))
    wide = (0.6 + 0.58 * len(vocabs)) * len(panels) + 1.2
    chart = Chart(wide, 1.9 + 0.46 * len(batches))
    all_axes = chart.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, k in zip(all_axes, panels):
        image = _panel(axes, {place[1:]: cell for place, cell in cells.items() if place[0] == k}, batches, vocabs, most)
        axes.set_title(f"K={k}", fontsize=9)
    all_axes[0].set_ylabel("batch B")
    bar = chart.colorbar(image, ax=all_axes, format=lambda v, _: f"{2 ** v:.3g}x")
    bar.ax.tick_params(labelsize=8)
    limit = "; below it, the limit" if any(cell[2] for cell in cells.values()) else ""
    chart.suptitle(f"{sampler}: times faster than {baseline} ({TIMES[metric]}, same run){limit}", fontsize=9)
    return finish(chart, [r for r in records if r["sampler"] in (sampler, baseline)], width=int(15 * wide))


def _panel(axes, cells: dict, batches: list, vocabs: list, most: float):
    """One K of a heat map. cells: (batch, vocab) -> (times faster or NaN, is it stale, the limit or None)."""
    absent = (np.nan, False, None)
    grid = np.array([[cells.get((b, v), absent)[0] for v in vocabs] for b in batches])
    image = axes.imshow(np.log2(grid), cmap="PuOr_r", norm=TwoSlopeNorm(0, -most, most), aspect="auto")
    for (row, column), _ in np.ndenumerate(grid):
        _cell(axes, row, column, *cells.get((batches[row], vocabs[column]), absent), most)
    axes.set_xticks(range(len(vocabs)), [f"{v:,}" for v in vocabs], rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(batches)), batches)
    axes.set_xlabel("vocabulary V")
    return image


def _cell(axes, row, column, factor, stale, limit, most) -> None:
    if np.isnan(factor):
        axes.text(column, row, "not run", ha="center", va="center", fontsize=7, color="#666666")
        return
    text = times(factor) + (" ×" if factor < 1 else "") + ("\n(stale)" if stale else "")
    colour = "white" if abs(np.log2(factor)) > 0.6 * most else BLACK
    axes.text(column, row - (0.14 if limit else 0), text, ha="center", va="center", fontsize=8, color=colour)
    if limit:
        axes.text(column, row + 0.24, times(limit), ha="center", va="center", fontsize=6, color=colour)
    if stale:
        axes.add_patch(Rectangle((column - .5, row - .5), 1, 1, fill=False, hatch="///", linewidth=0,
                                 edgecolor="#888888"))
