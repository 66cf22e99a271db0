"""Figures of one step: what it did to each request, who is how fast on it, and what share of a decoding step that is."""
from __future__ import annotations

import numpy as np

from . import plot, step
from .chart import BLACK, BLUE, ORANGE, RED, Chart, finish, one_panel
from .reading import distinct, is_stale, kernels_first, label, number, of_the_limit, percent, sizes, some, tick, value

LEADING = 16  # requests that a picture of an outcome shows


def panels(count: int = 2, width: float = 5.2, height: float = 4.2):
    """(chart, [axes]) side by side."""
    chart = Chart(width * count, height)
    found = chart.subplots(1, count, squeeze=False)[0]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
    return chart, found


def outcome(axes, draft_len, accepted, note: str = "") -> None:
    """One bar for each request, the first LEADING of them: drafted, accepted, and the token drawn at the end. Two lists of numbers."""
    shown, requests = accepted[:LEADING], range(min(LEADING, len(accepted)))
    axes.barh(requests, draft_len[:LEADING], color="none", edgecolor=BLACK, label="drafted")
    axes.barh(requests, shown, color=BLUE, label="accepted")
    axes.barh(requests, [1] * len(shown), left=shown, color=ORANGE, hatch="//", label="recovered or bonus")
    axes.set(yticks=requests, ylabel="request", xlabel="tokens")
    axes.set_title(f"{sum(accepted) + len(accepted)} tokens for {len(accepted)} requests{note}", fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.invert_yaxis()
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5, ncols=3, fontsize=8)


def race(axes, records, title: str = "", marked: str | None = None) -> None:
    """The GPU times of one problem's samplers on a log axis, the rungs first, with the limit. marked: the one to look at."""
    records = some(r for r in records if value(r))
    ordered = [next(r for r in records if r["sampler"] == name) for name in kernels_first(records)]
    for row, record in enumerate(ordered):
        share = of_the_limit(record)
        axes.barh(row, value(record), color=ORANGE if record["sampler"] == marked else BLUE, edgecolor=BLACK, linewidth=0.5,
                  hatch="//" if record["sampler"] == marked else "xxxx" if is_stale(record) else "")
        axes.annotate(number(value(record)) + (f" · {percent(share)}" if share else ""), (value(record), row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    limit = next((v for r in ordered if (v := value(r, "stream_read_us"))), None)
    if limit:
        axes.axvline(limit, color=RED, linestyle="--", linewidth=1.3, label=f"limit: plain read, {number(limit)} µs")
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5, fontsize=8)
    longest, shortest = max(map(value, ordered)), min([*map(value, ordered), *([limit] if limit else [])])
    axes.set(xscale="log", xlim=(shortest / 2, longest * 4), xlabel="GPU time, µs (log scale)", yticks=range(len(ordered)), yticklabels=[label(r) for r in ordered])
    axes.xaxis.set_major_formatter(tick)
    axes.set_title(title, fontsize=9)
    axes.invert_yaxis()


def shares(records, longest: float = 60.0) -> Chart:
    """The sampler's share of a step over the length of its models' part, 1 ms to `longest`: captured in a graph, and called eagerly.

    records: of one problem. A sampler that cannot be captured stands in the right panel only.
    """
    records = some(records)
    if len(problems := distinct(records, sizes)) > 1:
        raise ValueError(f"shares shows one problem, these records hold {len(problems)}: {', '.join(problems[:4])}; filter them")
    chart, axes = panels()
    lengths = np.geomspace(1, longest, 60)
    styles = plot.styles(records)
    for panel, metric, title in zip(axes, ("gpu_us", "call_us"), ("captured in a graph: GPU time", "eager: the whole call, synchronised")):
        for name in kernels_first(records):
            record = next(r for r in records if r["sampler"] == name)
            if us := value(record, metric):
                panel.plot(lengths, [100 * step.share(us, ms) for ms in lengths], label=label(record), markevery=12, markersize=5, linewidth=1.5, **styles[name])
        panel.axhline(100 * step.PART, color=BLACK, linestyle=":", linewidth=1.3)
        panel.annotate(f" {step.PART:.0%}", (1, 100 * step.PART), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        panel.set(xscale="log", yscale="log", xlabel="models' part of the step, ms (log scale)")
        panel.set_xticks([ms for ms in (1, 2, 5, 10, 20, 60, 200) if ms <= longest])
        panel.minorticks_off()
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(tick)
        panel.grid(color="#DDDDDD", linewidth=0.6)
        panel.set_title(title, fontsize=9)
    low, high = (f(panel.get_ylim()[i] for panel in axes) for i, f in ((0, min), (1, max)))
    for panel in axes:
        panel.set_ylim(low, high)
    axes[0].set_ylabel("sampler's share of the step, % (log scale)")
    entries = {text: handle for panel in axes for handle, text in zip(*panel.get_legend_handles_labels())}
    chart.legend(entries.values(), entries, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return finish(chart, records, width=150)


def matters(records, metric: str = "gpu_us") -> Chart:
    """Over the batch: the length of a step below which each sampler takes more than PART of it. One record per sampler and batch."""
    styles = plot.styles(records)  # of all of them, so that a sampler has the colour that it has in `shares`
    records = some(r for r in records if value(r, metric))
    chart, axes = one_panel(7.2, 4.4)
    for name, style in ((name, styles[name]) for name in kernels_first(records)):
        mine = sorted((r for r in records if r["sampler"] == name), key=lambda r: r["problem"]["batch"])
        plot.one_each(mine, "batch", name)
        axes.plot([r["problem"]["batch"] for r in mine], [step.matters_below(value(r, metric)) for r in mine], markersize=5, linewidth=1.4,
                  label=name + (" (stale)" if any(map(is_stale, mine)) else ""), **style)
    ticks = sorted({r["problem"]["batch"] for r in records})
    axes.set(xscale="log", yscale="log", xlabel="batch B", ylabel=f"step length with a share of {step.PART:.0%}, ms")
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(tick)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    chart.legend(loc="outside right upper", fontsize=8, frameon=False)
    return finish(chart, records, "Below a line the sampler takes a larger share; above it, a smaller one.")
