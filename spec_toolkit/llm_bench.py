"""`spec-toolkit llm-bench`: decode with a pair of models in several ways, cell by cell (llm_bench_cells.py), one record each.

    pair = llm_bench_pair.load_pair("smollm2", "smollm2-draft", device="cuda")
    record_all(pair, cells("v10", features=pair.features), "results")

Every prompt is decoded by all arms of a cell in turn, before the next: what slows the machine down for a while slows all. A sampler
is checked on rows of this vocabulary and dtype before its arm is timed. An arm that fails is left out with its reason, a cell that
fails is recorded as failed, and neither stops the rest. Apart from the times, an untimed pass looks at the rows that are met.
"""
from __future__ import annotations

import gc
import time
from datetime import UTC, datetime

import torch

from . import llm_bench_records, results
from .llm_bench_arms import Running, make_method, reason, source_hash
from .llm_bench_cells import Cell
from .llm_bench_pair import Pair
from .llm_bench_probe import Probe, parting
from .llm_bench_records import FORMAT
from .static_llama import how

# ---- one cell ------------------------------------------------------------------------------------------------------------

def run_cell(pair: Pair, cell: Cell) -> dict:
    """The record of a cell. RuntimeError if none of its arms could be run."""
    began = time.perf_counter()
    arms = [Running(pair, cell, arm) for arm in cell.arms]
    groups = [range(start, start + cell.batch) for start in range(0, min(cell.prompts, len(pair.prompts)) - cell.batch + 1, cell.batch)]
    for seed in range(cell.seeds):
        for place, group in enumerate(groups):
            turn = (seed + place) % len(arms)  # no arm is always the first
            for arm in (*arms[turn:], *arms[:turn]):
                if seed < arm.seeds and not arm.failure:
                    arm.run(group, seed)
    done, failed = [arm for arm in arms if not arm.failure], {str(arm.arm): arm.failure for arm in arms if arm.failure}
    if not done:
        raise RuntimeError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    made = head(pair, cell) | {"arms": [arm.record() for arm in done], "left_out": failed, "own_forward": own_forward(pair, cell)} | predicted(pair, cell)
    return made | {"partings": partings(pair, made)} | {"seconds": round(time.perf_counter() - began, 1)}


def head(pair: Pair, cell: Cell) -> dict:
    """What every record says, also that of a failed cell."""
    import transformers

    environment = results.environment(str(pair.target.device)) | {"transformers": transformers.__version__}
    return {"format": FORMAT, "experiment": "llm", "created": datetime.now(UTC).isoformat(timespec="seconds"), "kind": cell.kind,
            "path": cell.path, "fused": cell.fused, "batch": cell.batch, "temperature": cell.temperature, "tokens": cell.tokens,
            "spec": cell.spec, "models": pair.names, "error": None,
            "environment": environment, "arms": [], "left_out": {}}


def own_forward(pair: Pair, cell: Cell) -> str | None:
    """How forwards of this package ran in a cell of the graph path: "compiled", or why not; None where none was called, or path is eager."""
    if cell.path != "graph" or cell.fused == "none" and not pair.features:
        return None
    return how() if pair.target.device.type == "cuda" else "eager"


def predicted(pair: Pair, cell: Cell) -> dict:
    """{"predicted": [K]} of a `compare` cell at batch 1: sum min(target, draft) over the rows met, in a pass of its own, without a clock.

    On the eager path, which is slow, at temperature 1 only.
    """
    arm = next((arm for arm in cell.arms if arm.method == "speculation" and arm.sampler == cell.arms[0].sampler), None)
    if cell.kind != "compare" or cell.batch != 1 or arm is None or (cell.path == "eager" and cell.temperature != 1):
        return {}
    probe = Probe(arm.draft_len)
    try:
        method = make_method(pair, cell, arm, probe)
        for i in range(min(cell.prompts, len(pair.prompts))):
            method([pair.prompts[i]], max_new_tokens=cell.tokens, temperature=cell.temperature, seeds=[i], stop=pair.stop)
    except Exception as error:  # noqa: BLE001 (a look at the rows must not lose the times)
        return {"predicted": None, "predicted_missing": reason(error)}
    return {"predicted": probe.predicted, "predicted_tested": probe.counts}


def partings(pair: Pair, made: dict) -> list[dict]:
    """Greedy texts that are not those of plain decoding: where they part, and how near the two tokens are there."""
    plain = next((arm for arm in made["arms"] if arm["method"] == "plain"), None)
    if made["temperature"] != 0 or plain is None:
        return []
    order = [i for start in plain["runs"]["prompt"] for i in range(start, start + made["batch"])]
    return [{"arm": arm["name"], "prompt": prompt} | found for arm in made["arms"] if arm is not plain
            for prompt, left, right in zip(order, plain["texts"], arm["texts"])
            if (found := parting(pair.target, pair.prompts[prompt], left, right))]


# ---- all of them ---------------------------------------------------------------------------------------------------------

def record_all(pair: Pair, chosen, out="results", resume: bool = False, stop_after: float | None = None) -> bool:
    """Run and record the chosen cells in order, a line printed for each. True if all ran whole.

    resume: pass over cells that `out` holds already. stop_after: seconds after which no new cell is begun.
    """
    began, complete = time.perf_counter(), True
    gpu, held = results.environment(str(pair.target.device))["gpu"], llm_bench_records.load(out, failed=True) if resume else []
    hashes = {arm.sampler: source_hash(arm.sampler) for cell in chosen for arm in cell.arms if arm.sampler}
    waiting = [cell for cell in chosen if not llm_bench_records.is_finished(cell.spec, pair.names, gpu, hashes, held)]
    print(f"{gpu or 'CPU'}: {len(waiting)} of {len(chosen)} cells to run, {pair.names['target']} with {pair.names['draft']}", flush=True)
    for done, cell in enumerate(waiting):
        if stop_after and time.perf_counter() - began > stop_after:
            print(f"stopped after {time.perf_counter() - began:.0f} s with {len(waiting) - done} cells left: --resume goes on from here",
                  flush=True)
            return False
        complete &= _recorded(pair, cell, out)
    return complete


def _recorded(pair: Pair, cell: Cell, out) -> bool:
    try:
        made = run_cell(pair, cell)
    except Exception as error:  # noqa: BLE001 (one cell that fails must not lose the others)
        made = head(pair, cell) | {"error": reason(error)}
    finally:
        gc.collect()
        if pair.target.device.type == "cuda":
            torch.cuda.empty_cache()
    llm_bench_records.write(made, out)
    print(line(cell, made), flush=True)
    return not made["error"] and not made["left_out"]


def line(cell: Cell, made: dict) -> str:
    """One line for a cell: tokens/s of each arm."""
    if made["error"]:
        return f"FAIL {cell}: {made['error']}"
    said = [f"{arm['name']} {s['median']:.1f}" for arm in made["arms"] if (s := llm_bench_records.spread(llm_bench_records.rates(arm)))]
    out = "".join(f"\n  left out, {name}: {why}" for name, why in made["left_out"].items())
    return f"{cell}: tokens/s {'; '.join(said)} [{made['seconds']:.0f} s]{out}"
