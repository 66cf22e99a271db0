"""What records of decoding loops say in words and tables: for the README, the report and the notebook. Sees only records."""
from __future__ import annotations

import statistics
from pathlib import Path

from . import llm_bench_records as records_of
from . import plot_llm
from .tables import NONE, markdown

TARGET, SHARE = 1.8, 0.03  # the speedup and the sampler's share that this project set itself
NEAR = 4  # steps of the dtype: two roundings of a row may turn two logits that are not further apart
EMPTY = "No decoding loop is recorded yet: `make gpu-llm` on a GPU writes it.\n"


def methods(records) -> str:
    """A Markdown table: every method of every `compare` record, with spread, speedup, acceptance and the sampler's share."""
    rows = []
    for record in plot_llm.compared(records):
        plain = record.arm("plain")
        for arm in record["arms"]:
            rows.append([record["path"] + record.forward, str(record["batch"]), f"{record['temperature']:g}", plot_llm.label(arm, record),
                         NONE if arm["draft_len"] is None else str(arm["draft_len"]), _spread(records_of.rates(arm), "{:,.1f}"),
                         NONE if arm is plain or plain is None else _spread(records_of.speedups(arm, plain), "{:.2f}x"),
                         _text(records_of.tokens_per_step(arm), "{:.2f}"), _text(records_of.mean_acceptance(arm), "{:.3f}"),
                         _text(records_of.median(records_of.sampler_shares(arm)), "{:.1%}"), str(len(arm["runs"]["seed"]))])
    head = ["path", "B", "T", "method", "K", "tokens/s (p10 to p90)", "speedup (p10 to p90)", "tokens of a step", "accepted", "sampler", "runs"]
    return markdown(head, rows, texts=4)


def shares(records) -> str:
    """A Markdown table: a row for each sampler, its share and its time of a step in each path."""
    chosen = sorted((r for r in records if r["kind"] == "samplers"), key=lambda r: (r["path"] != "graph", r.rank))
    names = list(dict.fromkeys(arm["sampler"] for r in chosen for arm in r["arms"]))
    rows = [[name, *(text for r in chosen for text in _share(r.arm("speculation", name)))] for name in names]
    return markdown(["sampler", *(text for r in chosen for text in (f"{r['path']}{r.forward}: share of a step", "ms of it"))], rows)


def _share(arm) -> tuple[str, str]:
    parts = arm and records_of.step_ms(arm)
    return (_spread(records_of.sampler_shares(arm), "{:.1%}"), f"{parts['sampler']:.3g} of {sum(parts.values()):.3g}") if parts else (NONE, NONE)


def _spread(samples, form) -> str:
    s = records_of.spread(samples)
    return f"{form.format(s['median'])} ({form.format(s['p10'])} to {form.format(s['p90'])})" if s else NONE


def _text(value, form) -> str:
    return NONE if value is None else form.format(value)


# ---- sentences -----------------------------------------------------------------------------------------------------------

def speedup_sentence(record) -> str | None:
    """Speculation with the sampler that is measured against plain decoding and transformers' own way, in one record."""
    plain, ours = record.arm("plain"), _ours(record)
    if plain is None or ours is None or not (s := records_of.spread(records_of.speedups(ours, plain))):
        return None
    text = (f"{record.title}: speculation with {ours['sampler']} decodes {_rate(ours)} tokens/s, {s['median']:.2f} times plain decoding of the same "
            f"path ({s['p10']:.2f} to {s['p90']:.2f})")
    assisted = record.arm("assisted", draft_len=ours["draft_len"])
    if assisted and records_of.rates(assisted):
        times = statistics.median(records_of.rates(ours)) / statistics.median(records_of.rates(assisted))
        text += f", and {times:.2f} times transformers' assisted generation ({_rate(assisted)} tokens/s)"
    return text + "."


def _rate(arm) -> str:
    return f"{statistics.median(records_of.rates(arm)):,.1f}"


def _ours(record):
    """The speculation of the sampler that plain decoding uses too: the one that is measured."""
    plain = record.arm("plain")
    return record.arm("speculation", plain and plain["sampler"])


def greedy_sentence(record) -> str | None:
    """At temperature 0: how many texts are those of plain decoding, and how near the two tokens are where the others part."""
    plain, ours = record.arm("plain"), _ours(record)
    if record["temperature"] != 0 or plain is None or ours is None:
        return None
    same, texts = records_of.equal_texts(ours, plain)
    found = [p for p in record["partings"] if p["arm"] == ours["name"]]
    text = f"{record.title}: {same} of {texts} greedy texts are those of plain decoding, token by token"
    if found:
        worst, wide = max(found, key=lambda p: p["gap"] / p["spacing"]), sum(p["gap"] > NEAR * p["spacing"] for p in found)
        text += (f"; where the others part, the two tokens' logits differ by {worst['gap']:.3g} at most (numbers of {record['models']['dtype']} lie "
                 f"{worst['spacing']:.3g} apart there)")
        text += f": {wide} of {len(found)} are no near ties, being more than {NEAR} such steps apart" if wide else ": near ties"
    return text + "."


def partings(records) -> str:
    """A Markdown table: where greedy texts part from plain decoding, and the gap of the two logits there; "" if none does."""
    rows = [[r.title, p["arm"], str(p["prompt"]), str(p["place"]), f"{p['gap']:.4g}", f"{p['below_top']:.4g}", f"{p['spacing']:.4g}"]
            for r in plot_llm.compared(records) for p in r["partings"]]
    head = ["record", "method", "prompt", "token", "gap of the two logits", "lower one below the top", "spacing of the dtype"]
    return markdown(head, rows, texts=2) if rows else ""


def share_sentence(records) -> str | None:
    """The measured sampler's share in the graph path, and the Python loop's."""
    record = next((r for r in records if r["kind"] == "samplers" and r["path"] == "graph"), None)
    if record is None or not record["arms"]:
        return None
    said = [f"{arm['sampler']} {statistics.median(found):.1%}" for arm in record["arms"] if (found := records_of.sampler_shares(arm))]
    return f"Of a step of the graph path the sampler takes: {', '.join(said)}."


def sweep_sentence(records) -> str | None:
    """The best K, measured and by the model."""
    record = next((r for r in records if r["kind"] == "k_sweep"), None)
    if record is None or record.arm("plain") is None or record.arm("speculation") is None:
        return None
    model = records_of.cost_model(record)
    return (f"{record.title}: the best K is {records_of.best_draft_len(record)} as measured and {model['best']} by the model of costs, "
            f"with acceptance {model['acceptance']:.3f}.")


def goals(records) -> str | None:
    """Were the goals met? At batch 1 and temperature 1: the speedups of both paths, transformers' own way, the sampler's share."""
    usual_last = sorted(records, key=lambda r: -r.rank)
    main = {r["path"]: r for r in usual_last if (r["kind"], r["batch"], r["temperature"]) == ("compare", 1, 1)}
    said = []
    for path, record in sorted(main.items(), key=lambda item: item[0] != "graph"):
        plain, ours = record.arm("plain"), _ours(record)
        if plain and ours and records_of.speedups(ours, plain):
            times = statistics.median(records_of.speedups(ours, plain))
            said.append(f"{path} path{record.forward} {times:.2f}x ({'met' if times >= TARGET else 'not met'})")
    return f"Goal of {TARGET}x over plain decoding at batch 1: {', '.join(said)}." if said else None


def answer(records) -> list[str]:
    """Sentences made from the records, the most telling first."""
    compared = plot_llm.compared(records)
    found = [goals(records), *(speedup_sentence(r) for r in compared if r["temperature"] == 1), share_sentence(records), sweep_sentence(records),
             *(greedy_sentence(r) for r in compared), _stale(records)]
    return [sentence for sentence in found if sentence]


def _stale(records) -> str | None:
    stale = sorted({name for r in records for name in r.stale})
    return f"Stale (the source is not the one that was timed): {', '.join(stale)}." if stale else None


# ---- the block of the README and the section of the report -----------------------------------------------------------------

def gpus(folder, hashes=None) -> dict[Path, list]:
    """{folder of a GPU: the records of its last pair of models} below a folder of results."""
    there = [gpu for gpu in sorted(Path(folder).glob("*")) if (gpu / "llm").is_dir() and gpu.name != "cpu"]
    found = {gpu: records_of.latest(records_of.load(gpu, hashes)) for gpu in there}
    return {gpu: records for gpu, records in found.items() if records}


def shown(records) -> tuple[dict, str]:
    """({name: figure}, Markdown) of one machine's records."""
    sentences = "\n".join(f"* {sentence}" for sentence in answer(records))
    tables = [methods(records), shares(records) if any(r["kind"] == "samplers" for r in records) else "", partings(records)]
    return plot_llm.figures(records), "\n".join([sentences + "\n", *filter(None, tables)])
