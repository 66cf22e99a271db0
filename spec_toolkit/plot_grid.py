"""Figures over many problems at once: time against the bytes touched, and the share of the limit that is reached."""
from __future__ import annotations

import numpy as np

from . import plot
from .chart import BLACK, Chart, finish, one_panel
from .plot import styles
from .reading import GOALS, is_stale, of_the_limit, some, tick, value


def against_bytes(records) -> Chart:
    """GPU time of every sampler against the bytes that its problem touches, log-log, with the limit as it was measured."""
    records = some(r for r in records if value(r))
    chart, axes = one_panel(7.2, 5.0)
    for name, style in styles(records).items():
        mine = [r for r in records if r["sampler"] == name]
        _points(axes, mine, [value(r) for r in mine], style)
    floors = sorted({r["run_id"]: (r["bytes"] / 1e6, value(r, "stream_read_us")) for r in records}.values())
    axes.plot(*zip(*floors), color=BLACK, linewidth=1.6, marker="_", markersize=7, label="limit: plain read of the same bytes")
    axes.axhline(np.median([value(r, "empty_launch_us") for r in records]), color=BLACK, linestyle=":", linewidth=1.2, label="empty launch")
    at, us = bend(records)
    axes.annotate(f"{at:.0f} MB take as long as a launch", (at, us), xytext=(0, -30), textcoords="offset points", ha="center",
                  fontsize=7.5, arrowprops={"arrowstyle": "->", "color": BLACK})
    axes.set(yscale="log", ylabel=plot.METRICS["gpu_us"])
    axes.set_ylim(bottom=axes.get_ylim()[0] / 2)
    return _finished(chart, axes, records)


def bend(records) -> tuple[float, float]:
    """(MB, µs) where the limit bends: the time of the smallest plain read, at the speed of the largest one."""
    by_bytes = sorted(some(records), key=lambda r: r["bytes"])
    start, far = value(by_bytes[0], "stream_read_us"), by_bytes[-1]
    return start * far["bytes"] / value(far, "stream_read_us") / 1e6, start


def shares(records, *names: str) -> Chart:
    """The share of the limit (plain read / GPU time) that each named sampler reaches, against the bytes; steps: `GOALS`."""
    records = some(r for r in records if of_the_limit(r) and (not names or r["sampler"] in names))
    chart, axes = one_panel(7.2, 4.2)
    for name, style in styles(records).items():
        mine = [r for r in records if r["sampler"] == name]
        _points(axes, mine, [of_the_limit(r) for r in mine], style)
    most = max(r["bytes"] for r in records) / 1e6
    for (low, share), high in zip(GOALS, [*(low / 1e6 for low, _ in GOALS[1:]), max(1.5 * most, 1.5 * GOALS[-1][0] / 1e6)]):
        axes.plot([low / 1e6, high], [share, share], color=BLACK, linestyle=":", linewidth=1.6, label="goal" if low == GOALS[0][0] else None)
    axes.axhline(1, color=BLACK, linewidth=1.6, label="limit: plain read of the same bytes")
    axes.set(ylim=(0, 1.08), ylabel="share of the limit (limit time / GPU time)")
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    return _finished(chart, axes, records)


def _points(axes, records, heights, style) -> None:
    stale = any(map(is_stale, records))
    axes.plot([r["bytes"] / 1e6 for r in records], heights, label=records[0]["sampler"] + (" (stale)" if stale else ""), color=style["color"],
              marker=style["marker"], markersize=4.5, linestyle="none", markerfacecolor="white" if stale else style["color"], alpha=0.85)


def _finished(chart, axes, records) -> Chart:
    axes.set(xscale="log", xlabel="megabytes of rows touched (log scale)")
    for axis in (axes.xaxis, *((axes.yaxis,) if axes.get_yscale() == "log" else ())):
        axis.set_major_formatter(tick)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    chart.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return finish(chart, records)
