"""Records of decoding loops (llm_bench_records.py) -> figures. Sees only records.

Bars are medians over runs with p10 to p90; a hatch or a white mark with "(stale)" is a sampler whose source is not the one that ran.
"""
from __future__ import annotations

from . import llm_bench_records as records_of
from .llm_bench_records import PARTS
from .plot import BLACK, BLUE, ORANGE, RED, SKY, YELLOW, Chart, FigureCanvasAgg
from .plot_llm_base import compared, finish, label, panels, span
from .plot_llm_drafts import acceptance, k_sweep
from .reading import number

PART_STYLE = {"draft": (SKY, ""), "target": (BLUE, "//"), "sampler": (RED, "xx"), "rest": ("#DDDDDD", "..")}
METHOD_STYLE = {"plain": ("#DDDDDD", ""), "speculation": (BLUE, ""), "assisted": (ORANGE, "..")}


def methods(records) -> Chart | None:
    """tokens/s of every method, a panel for each path (across), batch and temperature (down), with the speedup over its plain decoding."""
    records = compared(records)
    if not records:
        return None
    paths = [path for path in ("graph", "eager") if any(r["path"] == path for r in records)]
    ranks = {path: sorted({r.rank for r in records if r["path"] == path}) for path in paths}
    at = {(r["path"], ranks[r["path"]].index(r.rank), r["batch"], -r["temperature"]): r for r in records}
    places = sorted({key[1:] for key in at})
    arms = [max(len(at[(path, *place)]["arms"]) for path in paths if (path, *place) in at) for place in places]
    chart = Chart(figsize=(6.6 * len(paths), 1.0 + 0.55 * len(places) + 0.32 * sum(arms)), layout="constrained")
    FigureCanvasAgg(chart)
    grid = chart.add_gridspec(len(places), len(paths), height_ratios=[count + 0.7 for count in arms])
    for row, place in enumerate(places):
        for column, path in enumerate(paths):
            if (path, *place) in at:
                last = not any((path, *later) in at for later in places[row + 1:])
                _methods(chart.add_subplot(grid[row, column]), at[(path, *place)], last)
    return finish(chart, records, "Speedup: median over the same prompts and seeds, p10 to p90 in brackets.", 85 * len(paths))


def _methods(axes, record, last):
    plain = record.arm("plain")
    for row, arm in enumerate(record["arms"]):
        if s := records_of.spread(records_of.rates(arm)):
            _bar(axes, row, s, *METHOD_STYLE[arm["method"]], stale=arm["sampler"] in record.stale, text=_times(arm, plain))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(yticks=range(len(record["arms"])), ylim=(len(record["arms"]) - 0.5, -0.5))
    axes.set_yticklabels([label(arm, record) for arm in record["arms"]], fontsize=8)
    axes.margins(x=0.5)
    axes.set_xlim(left=0)
    axes.set_title(record.title, fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    if last:
        axes.set_xlabel("tokens/s of the whole batch (median; p10 to p90 of its runs)", fontsize=9)


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
    groups = [group for group in groups if group]
    if not groups:
        return None
    rows = max(sum(records_of.step_ms(arm) is not None for r in group for arm in r["arms"]) for group in groups)
    chart, axes = panels(len(groups), 6.4 * len(groups), 1.9 + 0.34 * rows)
    for panel, group in zip(axes, groups):
        shown = [(r, arm, parts) for r in group for arm in r["arms"] if (parts := records_of.step_ms(arm))]
        for row, (_, _, parts) in enumerate(shown):
            left = 0.0
            for part in PARTS:
                colour, hatch = PART_STYLE[part]
                panel.barh(row, parts[part], left=left, height=0.7, color=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.5,
                           label=part if row == 0 else None)
                left += parts[part]
            panel.annotate(f"  {left:.3g} ms, sampler {parts['sampler'] / left:.1%}", (left, row), va="center", fontsize=8)
        usual = min(r.rank for r in group)
        panel.set(yticks=range(len(shown)), xlabel="ms of a step",
                  yticklabels=[f"B={r['batch']}{r.forward if r.rank > usual else ''}, {label(arm, r)}" for r, arm, _ in shown])
        panel.invert_yaxis()
        panel.margins(x=0.55)
        panel.set_xlim(left=0)
        panel.set_title(f"{group[0]['path']} path{group[0].forward}", fontsize=9, loc="left")
    chart.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return finish(chart, records, "Mean over all steps of all runs, T=1.", 85 * len(groups))


def shares(records) -> Chart | None:
    """The sampler's share of a step, for each sampler, in both paths."""
    records = sorted((r for r in records if r["kind"] == "samplers"), key=lambda r: (r["path"] != "graph", r.rank))
    names = list(dict.fromkeys(arm["sampler"] for r in records for arm in r["arms"]))
    if not names:
        return None
    chart, (axes,) = panels(1, 7.4, 1.8 + 0.5 * len(names))
    height = 0.8 / len(records)
    for i, (record, colour, hatch) in enumerate(zip(records, (BLUE, YELLOW, SKY), ("", "..", "\\\\"))):
        axes.barh([0], [0], color=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.5, label=f"{record['path']} path{record.forward}")
        for arm in record["arms"]:
            share, parts = records_of.spread(records_of.sampler_shares(arm)), records_of.step_ms(arm)
            y, stale = names.index(arm["sampler"]) + (i - (len(records) - 1) / 2) * height, arm["sampler"] in record.stale
            axes.barh(y, 100 * share["median"], height=height, color=colour, hatch="////" if stale else hatch, edgecolor=BLACK, linewidth=0.5)
            axes.errorbar(100 * share["median"], y, xerr=[[100 * (share["median"] - share["p10"])], [100 * (share["p90"] - share["median"])]],
                          color=BLACK, capsize=2, linewidth=1)
            axes.annotate(f"  {100 * share['median']:.1f}% ({parts['sampler']:.3g} of {sum(parts.values()):.3g} ms)" + (" (stale)" if stale else ""),
                          (100 * share["p90"], y), va="center", fontsize=8,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8})
    axes.axvline(3, color=BLACK, linestyle=":", linewidth=1.3)
    axes.annotate(" 3%", (3, 1), xycoords=("data", "axes fraction"), fontsize=8, va="bottom")
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.set_xlabel("sampler's share of the time of a step, % (median; p10 to p90 of the runs)")
    axes.margins(x=0.5)
    axes.set_xlim(left=0)
    chart.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    ks = sorted({arm["draft_len"] for r in records for arm in r["arms"]})
    return finish(chart, records, f"B=1, K={span(ks)}, T=1.")


def figures(records) -> dict[str, Chart]:
    """{name: figure} of all that these records can show; one machine and one pair of models (llm_bench_records.latest)."""
    sweep = next((r for r in records if r["kind"] == "k_sweep"), None)
    made = {"methods": methods(records), "split": split(records), "acceptance": acceptance(records), "shares": shares(records),
            "k_sweep": sweep and k_sweep(sweep)}
    return {name: chart for name, chart in made.items() if chart is not None}
