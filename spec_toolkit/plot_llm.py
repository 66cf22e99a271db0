"""Records of decoding loops (llm_bench_records.py) -> figures. Sees only records.

Bars are medians over runs with p10 to p90; a hatch or a white mark with "(stale)" is a sampler whose source is not the one that ran.
"""
from __future__ import annotations

import statistics
import textwrap

import numpy as np
from matplotlib.ticker import MaxNLocator

from . import llm_bench_records as records_of
from .llm_bench_records import PARTS
from .plot import BLACK, BLUE, GREEN, GREY, ORANGE, RED, SKY, YELLOW, Chart, FigureCanvasAgg
from .reading import number

PART_STYLE = {"draft": (SKY, ""), "target": (BLUE, "//"), "sampler": (RED, "xx"), "rest": ("#DDDDDD", "..")}
METHOD_STYLE = {"plain": ("#DDDDDD", ""), "speculation": (BLUE, ""), "assisted": (ORANGE, "..")}


def panels(count: int, width: float, height: float):
    """(chart, [axes]) side by side."""
    chart = Chart(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(chart)
    found = list(chart.subplots(1, count, squeeze=False)[0])
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
    return chart, found


def caption(records, note: str = "") -> str:
    """Models, hardware, prompts and runs, versions, commit and day: what a number needs beside it."""
    first, models = records[0], records[0]["models"]
    environment = first["environment"]
    runs = sorted({len(arm["runs"]["seed"]) for r in records for arm in r["arms"]})
    size = lambda key: f" ({_size(models[key])})" if models.get(key) else ""
    days = sorted({r["created"][:10] for r in records})
    parts = [f"{models['target']}{size('target_parameters')} with {models['draft']}{size('draft_parameters')}, {models['dtype']}",
             environment["gpu"] or f"CPU ({environment['platform']})",
             f"{max(r['spec']['prompts'] for r in records)} prompts, {_range(runs)} runs of an arm, reading the prompt not counted",
             f"torch {environment['torch']}, transformers {environment['transformers']}" + (f", driver {environment['driver']}" if environment["driver"] else ""),
             " to ".join(dict.fromkeys((days[0], days[-1]))) + (f", commit {environment['git'][:9]}" if environment.get("git") else "")]
    return " ".join(filter(None, (note, "; ".join(parts) + ".")))


def _size(parameters: int) -> str:
    return f"{parameters / 1e6:,.0f} M" if parameters >= 1e6 else f"{parameters:,}"


def _range(values) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _finish(chart, records, note="", width=105):
    chart.caption_text = caption(records, note)
    chart.supxlabel("\n".join(textwrap.wrap(chart.caption_text, width)), x=0.01, ha="left", fontsize=7.5, color="#333333")
    return chart


def label(arm, record) -> str:
    eager = " (eager)" if arm["method"] == "assisted" and record["path"] == "graph" else ""
    return short(arm) + eager + (" (stale)" if arm["sampler"] in record.stale else "")


def short(arm) -> str:
    """The name of an arm beside a bar."""
    if arm["method"] == "plain":
        return "no speculation"
    if arm["method"] == "assisted":
        return "transformers' assisted" + (", adaptive K" if arm["draft_len"] is None else "")
    return f"speculation, {arm['sampler']}"


def compared(records):
    """The `compare` records, graph path first, then by batch and from the warmest on."""
    found = [r for r in records if r["kind"] == "compare"]
    return sorted(found, key=lambda r: (r["path"] != "graph", r.rank, r["batch"], -r["temperature"]))


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
                _methods(chart.add_subplot(grid[row, column]), at[(path, *place)], last=not any((path, *later) in at for later in places[row + 1:]))
    return _finish(chart, records, "Speedup: median over the same prompts and seeds, p10 to p90 in brackets.", 85 * len(paths))


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
    axes.errorbar(spread["median"], row, xerr=[[spread["median"] - spread["p10"]], [spread["p90"] - spread["median"]]], color=BLACK, capsize=2, linewidth=1)
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
                panel.barh(row, parts[part], left=left, height=0.7, color=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.5, label=part if row == 0 else None)
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
    return _finish(chart, records, "Mean over all steps of all runs, T=1.", 85 * len(groups))


def acceptance(records) -> Chart | None:
    """Accepted drafts by position, beside what the rows predict (sum of min(target, draft)): a panel for each path."""
    records = compared(records)
    records = [r for r in records if r["batch"] == 1 and r.arm("speculation") and r.rank == min(s.rank for s in records if s["path"] == r["path"])]
    if not any(r.get("predicted") for r in records):
        return None
    paths = [path for path in ("graph", "eager") if any(r["path"] == path for r in records)]
    chart, axes = panels(len(paths), 4.3 * len(paths) + 0.6, 4.2)
    for panel, path in zip(axes, paths):
        for record, colour, mark in zip([r for r in records if r["path"] == path], (BLUE, RED, GREEN, ORANGE), "osD^"):
            _acceptance(panel, record, colour, mark, 0.07 * (mark in "s^") - 0.07 * (mark in "D^"))  # side by side
        panel.set(xlabel="position of the draft token", ylim=(0, 1.04))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(f"{path} path", fontsize=9, loc="left")
        panel.legend(frameon=False, fontsize=8, loc="lower left")
        panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes[0].set_ylabel("accepted, of the drafts looked at")
    return _finish(chart, records, "Marks: counted in the timed runs, bars 1.96 standard errors as if drafts were independent. Dashed: predicted "
                   "from the rows, in a pass of its own.", 65 * len(paths))


def _acceptance(panel, record, colour, mark, shift):
    arm = max((arm for arm in record["arms"] if arm["method"] == "speculation"), key=lambda arm: sum(arm["tested"]), default=None)
    if arm is None:
        return
    found = [(i + 1 + shift, rate, 1.96 * (rate * (1 - rate) / tested) ** 0.5) for i, (rate, tested) in enumerate(zip(records_of.acceptance(arm), arm["tested"])) if tested]
    at, rate, error = zip(*found) if found else ((), (), ())
    panel.errorbar(at, rate, yerr=error, fmt=mark, color=colour, capsize=3, markersize=6, label=f"T={record['temperature']:g}, counted")
    said = [(i + 1 + shift, value) for i, value in enumerate(record.get("predicted") or ()) if value is not None]
    if said:
        panel.plot(*zip(*said), color=colour, linestyle="--", marker=mark, markersize=4, markerfacecolor="white", linewidth=1.2,
                   label=f"T={record['temperature']:g}, predicted")


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
                          (100 * share["p90"], y), va="center", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8})
    axes.axvline(3, color=BLACK, linestyle=":", linewidth=1.3)
    axes.annotate(" 3%", (3, 1), xycoords=("data", "axes fraction"), fontsize=8, va="bottom")
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="sampler's share of the time of a step, % (median; p10 to p90 of the runs)", ylim=(len(names) - 0.5, -0.5))
    axes.margins(x=0.5)
    axes.set_xlim(left=0)
    chart.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    ks = sorted({arm["draft_len"] for r in records for arm in r["arms"]})
    return _finish(chart, records, f"B=1, K={_range(ks)}, T=1.")


def k_sweep(record) -> Chart | None:
    """tokens/s and tokens of a step over K, with the model of independent drafts drawn in, and both best K."""
    arms = sorted((arm for arm in record["arms"] if arm["method"] == "speculation" and records_of.rates(arm)), key=lambda arm: arm["draft_len"])
    if not arms or record.arm("plain") is None:
        return None
    chart, (speed, steps) = panels(2, 10.4, 4.3)
    model, best, ks = records_of.cost_model(record), records_of.best_draft_len(record), [arm["draft_len"] for arm in arms]
    found = [records_of.spread(records_of.rates(arm)) for arm in arms]
    middle = np.array([s["median"] for s in found])
    stale = " (stale)" if record.stale else ""
    speed.errorbar(ks, middle, yerr=[middle - [s["p10"] for s in found], np.array([s["p90"] for s in found]) - middle], color=BLUE, marker="o",
                   markerfacecolor="white" if stale else BLUE, capsize=3, label=f"measured, {arms[0]['sampler']}{stale}")
    speed.plot(list(model["tokens_per_s"]), list(model["tokens_per_s"].values()), color=RED, linestyle="--", marker="s", markerfacecolor="white", label="model of costs")
    plain = statistics.median(records_of.rates(record.arm("plain")))
    speed.axhline(plain, color=GREY, linestyle=":", linewidth=1.5, label=f"no speculation, {plain:,.0f}")
    top = dict(zip(ks, middle))[best]
    speed.annotate(f"best K={best}\n{top:,.0f} tokens/s, {top / plain:.2f}x", (best, top), xytext=(0, 14), textcoords="offset points", ha="center",
                   fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8})
    speed.set(xlabel="K, drafts of a step", ylabel="tokens/s", xticks=ks)
    speed.margins(y=0.25)
    speed.set_ylim(bottom=0)
    speed.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    steps.plot(ks, [records_of.tokens_per_step(arm) for arm in arms], color=BLUE, marker="o", label="measured")
    steps.plot(ks, [records_of.expected_tokens(model["acceptance"], k) for k in ks], color=RED, linestyle="--", marker="s", markerfacecolor="white",
               label=f"(1 - a^(K+1)) / (1 - a), a = {model['acceptance']:.3f}")
    steps.plot(ks, [k + 1 for k in ks], color=GREY, linestyle=":", label="all accepted")
    steps.set(xlabel="K, drafts of a step", ylabel="tokens of a step", xticks=ks, ylim=(0, 1.35 * max(records_of.expected_tokens(model["acceptance"], k) for k in ks)))
    steps.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    for axes in (speed, steps):
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    note = (f"{record.title}. Costs of the model: {model['draft_ms']:.3g} ms a draft, target {model['target_ms'][0]:.3g} ms (one token) to "
            f"{model['target_ms'][1]:.3g} ms (K={max(ks)}), {model['other_ms']:.3g} ms the rest; its best K is {model['best']}.")
    return _finish(chart, [record], note, 140)


def figures(records) -> dict[str, Chart]:
    """{name: figure} of all that these records can show; one machine and one pair of models (llm_bench_records.latest)."""
    sweep = next((r for r in records if r["kind"] == "k_sweep"), None)
    made = {"methods": methods(records), "split": split(records), "acceptance": acceptance(records), "shares": shares(records),
            "k_sweep": sweep and k_sweep(sweep)}
    return {name: chart for name, chart in made.items() if chart is not None}
