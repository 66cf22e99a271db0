"""What figures of decoding loops share: panels, captions, the names of arms, the order of records. Sees only records."""
from __future__ import annotations

import textwrap

from .chart import Chart


def panels(count: int, width: float, height: float):
    """(chart, [axes]) side by side."""
    chart = Chart(width, height)
    found = list(chart.subplots(1, count, squeeze=False)[0])
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
    return chart, found


def caption(records, note: str = "") -> str:
    """Models, hardware, prompts and runs, versions, commit and day: what a number needs beside it."""
    first, models = records[0], records[0]["models"]
    environment = first["environment"]
    runs = sorted({len(arm["runs"]["seed"]) for r in records for arm in r["arms"]})
    size = lambda key, more="": f" ({_size(models[key])}{more})" if models.get(key) else ""
    features = ", with features" if models.get("draft_features") else ""
    days = sorted({r["created"][:10] for r in records})
    tokens = sorted({arm["tokens"] for r in records for arm in r["arms"]})
    parts = [f"{models['target']}{size('target_parameters')} with {models['draft']}{size('draft_parameters', features)}, {models['dtype']}",
             environment["gpu"] or f"CPU ({environment['platform']})",
             (f"{max(r['spec']['prompts'] for r in records)} prompts, {span(runs)} runs of an arm, of {span(tokens)} tokens each, reading "
              "the prompt not counted, tokens of the last step beyond the limit counted"),
             f"torch {environment['torch']}, transformers {environment['transformers']}"
             + (f", driver {environment['driver']}" if environment["driver"] else ""),
             " to ".join(dict.fromkeys((days[0], days[-1]))) + (f", commit {environment['git'][:9]}" if environment.get("git") else "")]
    return " ".join(filter(None, (note, "; ".join(parts) + ".")))


def _size(parameters: int) -> str:
    return f"{parameters / 1e6:,.0f} M" if parameters >= 1e6 else f"{parameters:,}"


def span(values) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def finish(chart, records, note="", width=105):
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
        return "transformers' assisted, " + ("adaptive K" if arm["draft_len"] is None else f"K={arm['draft_len']}")
    return f"speculation{' without features' if arm['method'] == 'bare' else ''}, {arm['sampler']}, K={arm['draft_len']}"


def compared(records):
    """The `compare` records, graph path first, then by batch and from the warmest on."""
    found = [r for r in records if r["kind"] == "compare"]
    return sorted(found, key=lambda r: (r["path"] != "graph", r.rank, r["batch"], -r["temperature"]))
