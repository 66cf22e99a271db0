"""Records of decoding loops (llm_bench_records.py) -> figures. Sees only records.

Bars are medians over runs with p10 to p90; a hatch or a white mark with "(stale)" is a sampler whose source is not the one that ran.
"""
from __future__ import annotations

from matplotlib.ticker import MaxNLocator

from . import llm_bench_records as records_of
from .chart import BLACK, BLUE, GREEN, ORANGE, RED, SKY, YELLOW, Chart
from .llm_bench_records import PARTS
from .plot_llm_base import compared, finish, label, panels, span
from .plot_llm_drafts import acceptance, k_sweep
from .plot_llm_needed import needed
from .reading import number, tick

PART_STYLE = {"draft": (SKY, ""), "target": (BLUE, "//"), "sampler": (RED, "xx"), "rest": ("#DDDDDD", "..")}
GOAL = 3  # %, of the sampler's share
METHOD_STYLE = {"plain": ("#DDDDDD", ""), "speculation": (BLUE, ""), "bare": (GREEN, "\\\\"), "assisted": (ORANGE, "..")}


def methods(records) -> Chart | None:
    """tokens/s of every method, a panel for each record, two in a row, with the speedup over its plain decoding."""
    place = lambda r: (r.rank, r["temperature"] != 1, r["batch"], -r["temperature"])  # both paths side by side
    records = sorted(compared(records), key=place)
    if not records:
        return None
    wide = min(2, len(records))
    rows = [records[start:start + wide] for start in range(0, len(records), wide)]
    arms = [max(len(r["arms"]) for r in row) for row in rows]
    chart = Chart(6.9 * wide, 0.9 + 0.85 * len(rows) + 0.3 * sum(arms))
    grid = chart.add_gridspec(len(rows), wide, height_ratios=[count + 1.2 for count in arms])
    for i, row in enumerate(rows):
        for j, record in enumerate(row):
            _methods(chart.add_subplot(grid[i, j]), record)
    note = "Speedup: median over the same prompts and seeds, p10 to p90 in brackets; arms with fewer runs have the first seeds only."
    if any("own" in r.forward for r in records):
        note += (" Own: the forward of static_llama.py, with fewer launches than that of transformers"
                 + (", and compiled." if any(r.compiled for r in records) else "."))
    return finish(chart, records, note, 90 * wide)


def _methods(axes, record):
    plain = record.arm("plain")
    for row, arm in enumerate(record["arms"]):
        if s := records_of.spread(records_of.rates(arm)):
            _bar(axes, row, s, *METHOD_STYLE[arm["method"]], stale=arm["sampler"] in record.stale, text=_times(arm, plain))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(yticks=range(len(record["arms"])), ylim=(len(record["arms"]) - 0.5, -0.5))
    axes.set_yticklabels([label(arm, record) for arm in record["arms"]], fontsize=8)
    axes.margins(x=0.5)
    axes.set_xlim(left=0)
    axes.set_title(record.title, fontsize=9, loc="left", fontweight="bold")
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(tick)
    axes.set_xlabel("tokens/s" + (" of the whole batch" if record["batch"] > 1 else "") + " (median; p10 to p90 of its runs)", fontsize=8)


def _bar(axes, row, spread, colour, hatch, stale=False, text=""):
    axes.barh(row, spread["median"], height=0.7, color=colour, edgecolor=BLACK, linewidth=0.5, hatch="////" if stale else hatch)
    error = [[spread["median"] - spread["p10"]], [spread["p90"] - spread["median"]]]
    axes.errorbar(spread["median"], row, xerr=error, color=BLACK, capsize=2, linewidth=1)
    axes.annotate(f"  {number(spread['median'])}{text}", (spread["p90"], row), va="center", fontsize=8)


def _times(arm, plain) -> str:
    if plain is None or arm is plain or not (s := records_of.spread(records_of.speedups(arm, plain))):
        return ""
    return f"   {s['median']:.2f}x ({s['p10']:.2f} to {s['p90']:.2f})"


def split(records) -> Chart | None:
    """Where a step's time goes, a bar for each method that can be taken apart, a panel for each path (their scales differ)."""
    records = [r for r in compared(records) if r["temperature"] == 1]
    groups = [[r for r in records if r["path"] == path] for path in ("graph", "eager")]
    groups = [[(r, arm, parts) for r in group for arm in r["arms"] if (parts := records_of.step_ms(arm))] for group in groups]
    groups = [group for group in groups if group]
    if not groups:
        return None
    chart, axes = panels(len(groups), 6.6 * len(groups), 1.9 + 0.34 * max(map(len, groups)))
    for panel, group in zip(axes, groups):
        _split(panel, group)
    chart.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    note = "Mean over all steps of all runs, T=1. A bar that leaves its panel is cut; its length is written."
    return finish(chart, records, note, 90 * len(groups))


def _split(axes, group):
    """A panel; it is as wide as the methods whose sampler is no Python loop need it."""
    usual, whole = min(r.rank for r, _, _ in group), [sum(parts.values()) for *_, parts in group]
    end = 1.7 * max((ms for ms, (_, arm, _) in zip(whole, group) if arm["sampler"] != "python_loop"), default=max(whole))
    for row, ((_, _, parts), ms) in enumerate(zip(group, whole)):
        left = 0.0
        for part in PARTS:
            colour, hatch = PART_STYLE[part]
            axes.barh(row, parts[part], left=left, height=0.7, color=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.5,
                      label=part if row == 0 else None)
            left += parts[part]
        said, cut = f"{ms:.3g} ms, sampler {parts['sampler'] / ms:.1%}", ms > 0.62 * end
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1} if cut else None
        said = f"{said} {'→' if ms > end else ''}" if cut else f"  {said}"
        axes.annotate(said, (0.98 * end if cut else ms, row), va="center", fontsize=8, ha="right" if cut else "left", bbox=box)
    axes.set(yticks=range(len(group)), ylim=(len(group) - 0.5, -0.5), xlim=(0, end))
    axes.set_yticklabels([f"B={r['batch']}{r.forward if r.rank > usual else ''}, {label(arm, r)}" for r, arm, _ in group], fontsize=8)
    axes.set_xlabel("ms of a step", fontsize=9)
    axes.set_title(group[0][0].forms, fontsize=9, loc="left", fontweight="bold")


def shares(records) -> Chart | None:
    """The sampler's share of a step, for each sampler, in both paths."""
    records = sorted((r for r in records if r["kind"] == "samplers"), key=lambda r: (r["path"] != "graph", r.rank))
    names = list(dict.fromkeys(arm["sampler"] for r in records for arm in r["arms"]))
    if not names:
        return None
    chart, (axes,) = panels(1, 7.4, 1.8 + 0.5 * len(names))
    height = 0.8 / len(records)
    for i, (record, colour, hatch) in enumerate(zip(records, (BLUE, YELLOW, SKY), ("", "..", "\\\\"))):
        axes.barh([0], [0], color=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.5, label=record.forms)
        for arm in record["arms"]:
            y, stale = names.index(arm["sampler"]) + (i - (len(records) - 1) / 2) * height, arm["sampler"] in record.stale
            _share(axes, y, arm, height, colour, "////" if stale else hatch, " (stale)" if stale else "")
    axes.axvline(GOAL, color=BLACK, linestyle=":", linewidth=1.3, zorder=0)
    axes.annotate(f" goal: below {GOAL}%", (GOAL, 1), xycoords=("data", "axes fraction"), fontsize=8, va="bottom")
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5), xticks=range(0, 101, 20), xlim=(0, 130))
    axes.set_xlabel("sampler's share of the time of a step, % (median; p10 to p90 of the runs)")
    chart.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    ks = sorted({arm["draft_len"] for r in records for arm in r["arms"]})
    return finish(chart, records, f"B=1, K={span(ks)}, T=1.")


def _share(axes, y, arm, height, colour, hatch, mark):
    """A bar, and beside it, or beside the line of the goal, its share and its ms."""
    share, parts = records_of.spread(records_of.sampler_shares(arm)), records_of.step_ms(arm)
    middle, low, high = (100 * share[key] for key in ("median", "p10", "p90"))
    axes.barh(y, middle, height=height, color=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.5)
    axes.errorbar(middle, y, xerr=[[middle - low], [high - middle]], color=BLACK, capsize=2, linewidth=1)
    said = f"  {middle:.1f}% ({parts['sampler']:.3g} of {sum(parts.values()):.3g} ms){mark}"
    axes.annotate(said, (max(high, GOAL), y), va="center", fontsize=8)


def figures(records) -> dict[str, Chart]:
    """{name: figure} of all that these records can show; one machine and one pair of models (llm_bench_records.latest)."""
    sweeps = sorted((r for r in records if r["kind"] == "k_sweep"), key=lambda r: r.rank)
    drawn = {"_".join(["k_sweep", *([r["fused"]] if place else [])]): k_sweep(r) for place, r in enumerate(sweeps)}
    made = {"methods": methods(records), "split": split(records), "acceptance": acceptance(records), "shares": shares(records),
            **drawn, "needed": needed(records)}
    return {name: chart for name, chart in made.items() if chart is not None}
