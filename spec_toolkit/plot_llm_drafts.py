"""Figures of the drafts of a decoding loop: how many are accepted, by position, and how many are best. Sees only records."""
from __future__ import annotations

import statistics

import numpy as np
from matplotlib.ticker import MaxNLocator

from . import llm_bench_records as records_of
from .chart import BLUE, GREEN, GREY, ORANGE, RED, Chart
from .llm_bench_costs import cost_model
from .plot_llm_base import compared, finish, panels


def acceptance(records) -> Chart | None:
    """Accepted drafts by position, beside what the rows predict (sum of min(target, draft)): a panel for each path."""
    records = compared(records)
    usual = {path: min(r.rank for r in records if r["path"] == path) for path in {r["path"] for r in records}}
    records = [r for r in records if r["batch"] == 1 and r.measured() and r.rank == usual[r["path"]]]
    if not any(r.get("predicted") for r in records):
        return None
    paths = [path for path in ("graph", "eager") if any(r["path"] == path for r in records)]
    chart, axes = panels(len(paths), 4.3 * len(paths) + 0.6, 4.2)
    for panel, path in zip(axes, paths):
        for record, colour, mark in zip([r for r in records if r["path"] == path], (BLUE, RED, GREEN, ORANGE), "osD^"):
            _acceptance(panel, record, colour, mark, 0.07 * (mark in "s^") - 0.07 * (mark in "D^"))  # side by side
        panel.set(xlabel="position of the draft token", ylim=(0, 1.04))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(f"{path} path", fontsize=9, loc="left", fontweight="bold")
        if held := records_of.held_out(records[0]):
            panel.axhline(held, color=GREY, linestyle=":", linewidth=1.3, label=f"held-out texts of its training, T=1: {held:.3f}")
        panel.legend(frameon=False, fontsize=8, loc="lower left")
        panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes[0].set_ylabel("accepted, of the drafts looked at")
    note = ("Marks: counted in the timed runs, bars 1.96 standard errors as if drafts were independent. Dashed: predicted from the rows, in a "
            "pass of its own.")
    return finish(chart, records, note, 65 * len(paths))


def _acceptance(panel, record, colour, mark, shift):
    arm = next(iter(record.measured()), None)
    if arm is None:
        return
    counted = enumerate(zip(records_of.acceptance(arm), arm["tested"]))
    found = [(i + 1 + shift, rate, 1.96 * (rate * (1 - rate) / tested) ** 0.5) for i, (rate, tested) in counted if tested]
    at, rate, error = zip(*found) if found else ((), (), ())
    panel.errorbar(at, rate, yerr=error, fmt=mark, color=colour, capsize=3, markersize=6, label=f"T={record['temperature']:g}, counted")
    said = [(i + 1 + shift, value) for i, value in enumerate(record.get("predicted") or ()) if value is not None]
    if said:
        panel.plot(*zip(*said), color=colour, linestyle="--", marker=mark, markersize=4, markerfacecolor="white", linewidth=1.2,
                   label=f"T={record['temperature']:g}, predicted")


def k_sweep(record) -> Chart | None:
    """tokens/s and tokens of a step over K, with the model of independent drafts drawn in, and both best K."""
    arms = [arm for arm in record["arms"] if arm["method"] == "speculation" and records_of.rates(arm)]
    arms.sort(key=lambda arm: arm["draft_len"])
    if not arms or record.arm("plain") is None:
        return None
    chart, (speed, steps) = panels(2, 10.4, 4.3)
    model, best, ks = cost_model(record), records_of.best_draft_len(record), [arm["draft_len"] for arm in arms]
    found = [records_of.spread(records_of.rates(arm)) for arm in arms]
    middle = np.array([s["median"] for s in found])
    stale = " (stale)" if record.stale else ""
    error = [middle - [s["p10"] for s in found], np.array([s["p90"] for s in found]) - middle]
    speed.errorbar(ks, middle, yerr=error, color=BLUE, marker="o", markerfacecolor="white" if stale else BLUE, capsize=3,
                   label=f"measured, {arms[0]['sampler']}{stale}")
    dashed = {"color": RED, "linestyle": "--", "marker": "s", "markerfacecolor": "white"}
    speed.plot(list(model["tokens_per_s"]), list(model["tokens_per_s"].values()), **dashed, label="model of costs")
    plain = statistics.median(records_of.rates(record.arm("plain")))
    speed.axhline(plain, color=GREY, linestyle=":", linewidth=1.5, label=f"no speculation, {plain:,.0f}")
    top = dict(zip(ks, middle))[best]
    speed.annotate(f"best K={best}: {top:,.0f} tokens/s,\n{top / plain:.2f}x no speculation", (best, top), xytext=(best, 0.4 * top),
                   ha="left" if best < statistics.mean(ks) else "right", fontsize=8, arrowprops={"arrowstyle": "->", "color": BLUE})
    speed.set(xlabel="K, drafts of a step", ylabel="tokens/s", xticks=ks)
    speed.margins(y=0.25)
    speed.set_ylim(bottom=0)
    speed.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    steps.plot(ks, [records_of.tokens_per_step(arm) for arm in arms], color=BLUE, marker="o", label="measured")
    expected = [records_of.expected_tokens(model["acceptance"], k) for k in ks]
    steps.plot(ks, expected, **dashed, label=f"(1 - a^(K+1)) / (1 - a), a = {model['acceptance']:.3f}")
    steps.axhline(1, color=GREY, linestyle=":", linewidth=1.5, label="no speculation")
    steps.set(xlabel="K, drafts of a step", ylabel="tokens of a step", xticks=ks, ylim=(0, 1.35 * max(expected)))
    steps.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    for axes in (speed, steps):
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    alone, narrow, wide = model["target_ms"]
    note = (f"{record.title}. Costs of the model: {model['draft_ms']:.3g} ms a draft, target {narrow:#.3g} ms (K={min(ks)}) to {wide:#.3g} ms "
            f"(K={max(ks)}; {alone:#.3g} without drafts), {model['other_ms']:.2g} ms sampler and rest; its best K is {model['best']}.")
    return finish(chart, [record], note, 140)
