"""Figures of the rungs: the ladder to the limit, and where the time of one call goes. They see only records and `Parts`."""
from __future__ import annotations

from .chart import BLACK, BLUE, GREEN, ORANGE, RED, Chart, finish
from .parts import NAMES
from .reading import distinct, is_stale, kernels_first, label, number, of_the_limit, percent, sizes, some, speedup, tick, value

COLOURS = {"launch": "#BBBBBB", "draw": ORANGE, "accept": GREEN, "rows": BLUE}
HATCHES = {"launch": "", "draw": "//", "accept": "..", "rows": ""}
TOO_LONG = 4  # a bar this many times as long as the shortest is cut, and says so


def ladder(records, first: str = "v1") -> Chart:
    """A panel for each problem: the GPU time of every sampler, the rungs in order, down to the limit and an empty launch."""
    records = some(r for r in records if value(r))
    problems, names = distinct(records, sizes), kernels_first(records)
    chart, panels = _panels(len(problems), 1.7 + 0.36 * len(names))
    for axes, problem in zip(panels, problems):
        here = [r for r in records if sizes(r) == problem]
        for record in here:
            _rung(axes, names.index(record["sampler"]), record, here, first)
        limit, empty = (value(here[0], metric) for metric in ("stream_read_us", "empty_launch_us"))
        axes.axvline(limit, color=RED, linestyle="--", linewidth=1.4)
        axes.axvline(empty, color=BLACK, linestyle=":", linewidth=1.2)
        longest = max(value(r, what="p90") for r in here)
        axes.set(xscale="log", xlim=(empty / 1.6, longest * (longest / empty) ** 0.33))
        axes.xaxis.set_major_formatter(lambda v, _, longest=longest: tick(v) if v < 1.5 * longest else "")  # room for what stands beside the bars
        axes.set_xlabel("GPU time, µs (log scale)", fontsize=8)
        axes.set_title(f"{problem}: limit {number(limit)} µs", fontsize=9)
    _rows(panels[0], [label(next(r for r in records if r["sampler"] == name)) for name in names])
    for colour, text, hatch in ((BLUE, "a rung", ""), (ORANGE, "what there is today", "//")):
        panels[0].barh([0], [0], color=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.5, label=text)
    panels[0].plot([], [], color=RED, linestyle="--", label="limit: plain read of the same bytes")
    panels[0].plot([], [], color=BLACK, linestyle=":", label="empty launch")
    chart.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return finish(chart, records, f"Beside a bar: its time, its share of the limit, and how many times faster than {first} it is.", int(15 * chart.get_figwidth()))


def _rung(axes, row: int, record, records, first: str) -> None:
    middle, low, high = (value(record, what=what) for what in ("median", "p10", "p90"))
    kernel, faster = record.get("sampler_kind") == "kernel", speedup(record, records, first, "gpu_us")
    axes.barh(row, middle, height=0.62, color=BLUE if kernel else ORANGE, hatch="xxxx" if is_stale(record) else "" if kernel else "//",
              edgecolor=BLACK, linewidth=0.5)
    axes.errorbar(middle, row, xerr=[[max(0, middle - low)], [max(0, high - middle)]], color=BLACK, capsize=2, linewidth=1)
    text = number(middle) + (f" · {percent(of_the_limit(record))}" if of_the_limit(record) else "")
    axes.annotate(text + (f" · {number(faster)}x" if faster and record["sampler"] != first else ""), (max(high, middle), row), va="center",
                  xytext=(4, 0), textcoords="offset points", fontsize=7.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})


def taken_apart(parts, records) -> Chart:
    """A panel for each batch: a bar for each sampler, made of its `Parts` on a linear axis; bars that are too long are cut."""
    parts = some(parts)
    problems, names = distinct(parts, lambda p: p.size), distinct(parts, lambda p: p.label)
    chart, panels = _panels(len(problems), 1.7 + 0.36 * len(names))
    for axes, problem in zip(panels, problems):
        here = [p for p in parts if p.size == problem]
        end = 1.25 * max(p.whole for p in here if p.whole <= TOO_LONG * min(p.whole for p in here))
        for part in here:
            _stack(axes, names.index(part.label), part, end)
        axes.axvline(here[0].limit, color=RED, linestyle="--", linewidth=1.4, label="limit: plain read of the same bytes")
        axes.set(xlim=(0, end), title=f"{problem}")
        axes.title.set_fontsize(9)
        axes.set_xlabel("GPU time, µs", fontsize=8)
    _rows(panels[0], names)
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels())))  # each label once
    chart.legend(handles.values(), handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return finish(chart, records, "Differences of medians of three problems, timed one after the other.", int(15 * chart.get_figwidth()))


def _stack(axes, row: int, part, end: float) -> None:
    left = 0.0
    for name, us in part.stack.items():
        text = f"{NAMES['accept']}, or draw and accept test" if name == "accept" else NAMES[name]
        axes.barh(row, max(0.0, us), left=left, height=0.62, color=COLOURS[name], hatch=HATCHES[name], edgecolor=BLACK, linewidth=0.5, label=text)
        left += max(0.0, us)
    cut = part.whole > 0.85 * end
    axes.annotate(f"{number(part.whole)} µs" + (" →" if left > end else ""), (0.99 * end if cut else left, row), ha="right" if cut else "left", va="center",
                  fontsize=7.5, xytext=(0 if cut else 3, 0), textcoords="offset points",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})


def _panels(count: int, height: float):
    chart = Chart(2.0 + 3.6 * count, height)
    panels = chart.subplots(1, count, squeeze=False, sharey=True)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return chart, panels


def _rows(axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
