"""Which acceptance would give which speedup, at the costs that were measured (llm_bench_costs.py). Sees only records."""
from __future__ import annotations

import numpy as np

from . import llm_bench_records as records_of
from .chart import BLACK, CYCLE, DASHES, GREY, MARKERS, Chart
from .llm_bench_costs import costs
from .plot_llm_base import finish, panels

GOAL = 1.8  # times plain decoding of the same path
SHOWN = (1, 2, 3, 4, 8)  # of a sweep's K


def needed(records) -> Chart | None:
    """Speedup over acceptance by the model of independent drafts, a panel for each path and forward; marks: what was counted."""
    groups = costs(records)
    if not groups:
        return None
    chart, axes = panels(len(groups), 4.4 * len(groups) + 0.4, 4.2)
    for panel, found in zip(axes, groups):
        _panel(panel, [cost for cost in found if len(found) < len(SHOWN) or cost.draft_len in SHOWN])
    top = max(panel.get_ylim()[1] for panel in axes)
    for panel in axes:
        panel.set_ylim(0, min(4.0, top))
    axes[0].set_ylabel("times plain decoding of the same path")
    note = ("B=1, T=1. Lines: (1 - a^(K+1)) / (1 - a) tokens of a step over what a step costs, as measured, in plain steps. Marks: acceptance "
            "and speedup as counted, over all runs.")
    return finish(chart, [found[0].record for found in groups], note, 62 * len(groups))


def _panel(axes, found):
    at = np.linspace(0, 1, 101)
    for i, cost in enumerate(found):
        colour, mark = CYCLE[i % len(CYCLE)], MARKERS[i % len(MARKERS)]
        least = cost.needed(GOAL)
        said = f"K={cost.draft_len}: " + (f"a of {least:.2f} needed" if least is not None else f"never {GOAL:g}x")
        axes.plot(at, [cost.speedup(a) for a in at], color=colour, linestyle=DASHES[i % len(DASHES)], linewidth=1.5, marker=mark,
                  markersize=7, markevery=[], label=said)  # the mark is in the legend alone
        axes.plot([cost.acceptance], [cost.seen], marker=mark, color=colour, markeredgecolor=BLACK, markersize=8, zorder=3)
    axes.axhline(GOAL, color=BLACK, linestyle=":", linewidth=1.3)
    axes.annotate(f"goal {GOAL:g}x", (0.01, GOAL), fontsize=8, va="bottom")
    axes.axhline(1, color=GREY, linestyle=":", linewidth=1.0)
    axes.annotate("no speculation", (0.99, 1), fontsize=8, va="top", ha="right", color=GREY)
    if held := records_of.held_out(found[0].record):
        axes.axvline(held, color=GREY, linestyle=(0, (1, 3)), linewidth=1.2)
        axes.annotate(f" {held:.2f} on held-out texts", (held, 0.03), xycoords=("data", "axes fraction"), fontsize=8, color=GREY)
    axes.set(xlabel="acceptance a of a draft", xlim=(0, 1))
    axes.set_title(found[0].record.forms, fontsize=9, loc="left", fontweight="bold", color=BLACK)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
