"""Figures of the precision notebook: bias against what is asked for. They see only the numbers of precision.py."""
from __future__ import annotations

import numpy as np

from . import precision
from .chart import BLACK, BLUE, GREEN, ORANGE, RED, Chart

SMALLEST = 1e-17  # what is below is drawn there: float64 shows nothing of it
LABELS = {23: "23 bits (accept tests here)", 52: "52 bits (draws here)"}
STYLES = ((RED, "o", ":"), (ORANGE, "s", "--"), (BLUE, "D", "-"), (GREEN, "^", "-."), (BLACK, "v", (0, (1, 1))))


def uniforms(bits=(16, 23, 24, 52), vocabs=(32, 1024, 32_000, 128_256)) -> Chart:
    """Left: relative bias of an accept test. Right: total variation of the draw from a flat row. One line for each number of bits."""
    chart, (left, right) = _panels(2)
    chances = 10.0 ** np.linspace(-8, 0, 900)
    for (colour, _, line), count in zip(STYLES, bits):
        worst = np.maximum.accumulate(np.abs(precision.accept_bias(chances, count))[::-1])[::-1]
        left.plot(chances, np.maximum(worst, SMALLEST), color=colour, linestyle=line, label=LABELS.get(count, f"{count} bits"))
    _log(left, "the chance it should have", "largest relative bias from there on")
    left.set_title("the accept test", fontsize=10)
    left.set_ylim(1e-16, 3)
    for (colour, mark, line), count in zip(STYLES, bits):
        biases = [precision.total_variation(precision.cdf_law(row, count), row) for row in map(precision.flat_row, vocabs)]
        right.plot(vocabs, np.maximum(biases, SMALLEST), color=colour, marker=mark, linestyle=line, label=f"{count} bits")
    _log(right, "ids in the vocabulary", "total variation")
    right.set_title("the draw from a flat row, by its cumulative sum", fontsize=10)
    return _legend(chart, left)


def tail(mass=1e-6, ids=(1, 10, 100, 1000, 10_000, 100_000)) -> Chart:
    """How often an id of the tail is drawn, against how often it should, for a race and for a cumulative sum."""
    chart, (axes,) = _panels(1, 7.5)
    ways = [("race, 23-bit uniforms", lambda m: precision.race_tail(mass, m, 23)),
            ("race, 24-bit uniforms", lambda m: precision.race_tail(mass, m, 24)),
            ("race, 52-bit uniforms (here)", lambda m: precision.race_tail(mass, m, 52)),
            ("cumulative sum, 23-bit uniform", lambda m: precision.below(mass, 23)),
            ("race, 52-bit uniforms, E + 1e-9", lambda m: precision.race_tail(mass, m, 52, 1e-9))]
    for (colour, mark, line), (name, way) in zip(STYLES, ways):
        axes.plot(ids, [way(m) / mass for m in ids], color=colour, marker=mark, linestyle=line, label=name)
    axes.axhline(1, color="#999999", linewidth=0.8, zorder=0)
    axes.set(xscale="log", ylim=(-0.05, 1.35))
    axes.set_xlabel(f"ids that share a mass of {mass:g}", fontsize=9)
    axes.set_ylabel("drawn / should be drawn", fontsize=9)
    axes.grid(alpha=0.3)
    return _legend(chart, axes)


def dots(biases: dict[str, dict[str, float]]) -> Chart:
    """{row: {measure: total variation}} as points on a log axis; what is below 1e-12 stands at its left end."""
    chart, (axes,) = _panels(1, 8.5, 1.5 + 0.3 * len(biases))
    for row, measured in enumerate(biases.values()):
        for (colour, mark, _), (name, bias) in zip(STYLES, measured.items()):
            axes.plot(max(bias, 1e-12), row, color=colour, marker=mark, linestyle="", markersize=7, label=name if row == 0 else None)
    axes.set_yticks(range(len(biases)), list(biases), fontsize=9)
    axes.invert_yaxis()
    axes.set(xscale="log", xlim=(5e-13, 1))
    axes.set_xlabel("total variation (log scale; 1e-12 stands for anything below)", fontsize=9)
    axes.grid(alpha=0.3)
    return _legend(chart, axes)


def _panels(count, width=10.0, height=3.6):
    chart = Chart(width, height)
    axes = chart.subplots(1, count)
    return chart, list(np.atleast_1d(axes))


def _log(axes, x, y):
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.grid(alpha=0.3)


def _legend(chart, axes) -> Chart:
    columns = 4 if len(axes.lines) < 6 else 3
    chart.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns, fontsize=8, frameon=False)
    return chart
