"""What records of decoding loops say in tables, and all of it together: for the README, the report and the notebook. Sees only records."""
from __future__ import annotations

from pathlib import Path

from . import llm_bench_costs, plot_llm
from . import llm_bench_records as records_of
from .llm_bench_sentences import TARGET, answer
from .reading import number
from .tables import NONE, markdown

EMPTY = "No decoding loop is recorded yet: `make gpu-llm` on a GPU writes it.\n"


def methods(records) -> str:
    """A Markdown table: every method of every `compare` record, with spread, speedup, what a step gives, costs and spends on the sampler."""
    rows = [_method(record, arm, record.arm("plain")) for record in plot_llm.compared(records) for arm in record["arms"]]
    head = ["path", "B", "T", "method", "tokens/s (p10 to p90)", "speedup (p10 to p90)", "tokens of a step", "ms of a step (median)",
            "accepted", "sampler", "runs x tokens"]
    return markdown(head, rows, texts=4)


def _method(record, arm, plain) -> list[str]:
    return [record["path"] + record.forward, str(record["batch"]), f"{record['temperature']:g}", plot_llm.label(arm, record),
            _spread(records_of.rates(arm), number),
            NONE if arm is plain or plain is None else _spread(records_of.speedups(arm, plain), "{:.2f}".format, "x"),
            _text(records_of.tokens_per_step(arm), "{:.2f}"), _text(records_of.median(records_of.run_step_ms(arm)), "{:.3g}"),
            _text(records_of.mean_acceptance(arm), "{:.3f}"), _text(records_of.median(records_of.sampler_shares(arm)), "{:.1%}"),
            f"{len(arm['runs']['seed'])} x {arm['tokens']}"]


def shares(records) -> str:
    """A Markdown table: a row for each sampler, its share and its time of a step in each path."""
    chosen = sorted((r for r in records if r["kind"] == "samplers"), key=lambda r: (r["path"] != "graph", r.rank))
    names = list(dict.fromkeys(arm["sampler"] for r in chosen for arm in r["arms"]))
    rows = [[name, *(text for r in chosen for text in _share(r.arm("speculation", name)))] for name in names]
    head = ["sampler", *(text for r in chosen for text in (f"{r['path']}{r.forward}: share of a step", "ms of it"))]
    return markdown(head, rows)


def _share(arm) -> tuple[str, str]:
    parts = arm and records_of.step_ms(arm)
    if not parts:
        return NONE, NONE
    return _spread(records_of.sampler_shares(arm), "{:.1%}".format), f"{parts['sampler']:.3g} of {sum(parts.values()):.3g}"


def _spread(samples, form, unit="") -> str:
    s = records_of.spread(samples)
    return f"{form(s['median'])}{unit} ({form(s['p10'])} to {form(s['p90'])})" if s else NONE


def _text(value, form) -> str:
    return NONE if value is None else form.format(value)


def partings(records) -> str:
    """A Markdown table: where greedy texts part from plain decoding, and the gap of the two logits there; "" if none does."""
    rows = [[r.title, p["arm"], str(p["prompt"]), str(p["place"]), f"{p['gap']:.4g}", f"{p['below_top']:.4g}", f"{p['spacing']:.4g}", f"{p['noise']:.2g}"]
            for r in plot_llm.compared(records) for p in r["partings"]]
    head = ["record", "method", "prompt", "token", "gap of the two logits", "lower one below the top", "spacing of the dtype", "two readings differ by"]
    return markdown(head, rows, texts=2) if rows else ""


# ---- the block of the README and the section of the report -----------------------------------------------------------------

def gpus(folder, hashes=None) -> dict[Path, list]:
    """{folder of a GPU: the records of its last pair of models} below a folder of results."""
    there = [gpu for gpu in sorted(Path(folder).glob("*")) if (gpu / "llm").is_dir() and gpu.name != "cpu"]
    found = {gpu: records_of.latest(records_of.load(gpu, hashes)) for gpu in there}
    return {gpu: records for gpu, records in found.items() if records}


def shown(records) -> tuple[dict, str, str]:
    """({name: figure}, sentences, tables) of one machine's records, the latter two in Markdown."""
    tables = [methods(records), shares(records) if any(r["kind"] == "samplers" for r in records) else "",
              llm_bench_costs.table(records, TARGET), partings(records)]
    return plot_llm.figures(records), "\n".join(f"* {sentence}" for sentence in answer(records)), "\n".join(filter(None, tables))
