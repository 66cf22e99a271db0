"""Made-up records of decoding loops, for the tests of what reads them; no number here was measured."""
import random

from spec_toolkit.llm_bench_arms import COLUMNS
from spec_toolkit.llm_bench_cells import cells
from spec_toolkit.llm_bench_records import FORMAT, expected_tokens

SAMPLER_MS = {"v9": 0.02, "v10": 0.02, "v1": 2.0, "v2": 0.2, "torch_vectorised": 0.5, "torch_compile": 0.3, "python_loop": 3.0}
MODELS = {"target": "paper-135m", "draft": "paper-16m", "dtype": "bfloat16", "target_parameters": 134_515_008,
          "draft_parameters": 38_900_000, "target_hash": "0" * 12, "draft_hash": "1" * 12, "vocab": 49152, "prompts_hash": "2" * 12,
          "draft_features": True}


def record(cell, gpu="NVIDIA Paper", created="2026-11-25T00:00:00+00:00", rate=0.65, target_ms=None, models=MODELS):
    """A record of a cell: steps of a made-up length, drafts accepted with a chance of `rate`."""
    target_ms = target_ms or {"eager": 60.0, "graph": 2.0}[cell.path]
    arms = [_arm(cell, arm, target_ms, rate, random.Random(i)) for i, arm in enumerate(cell.arms)]
    made = {"format": FORMAT, "experiment": "llm", "created": created, "kind": cell.kind, "path": cell.path, "fused": cell.fused,
            "batch": cell.batch, "temperature": cell.temperature, "tokens": cell.tokens, "spec": cell.spec, "models": models, "error": None,
            "arms": arms, "left_out": {}, "environment": {"gpu": gpu, "driver": "580", "torch": "2.11.0", "transformers": "5.17.0",
                                                          "platform": "Paper", "git": "0123456789abcdef"},
            "partings": [], "seconds": 1.0}
    if cell.kind == "compare" and cell.batch == 1 and (cell.path, cell.temperature) != ("eager", 0.0):
        made |= {"predicted": [rate + 0.1 * (1 - cell.temperature) - 0.01 * i for i in range(4)], "predicted_tested": [100, 60, 40, 20]}
    if cell.temperature == 0 and len(arms) > 1:
        arms[1]["texts"][0] = [*arms[1]["texts"][0][:5], 7, 8]
        made["partings"] = [{"arm": arms[1]["name"], "prompt": 0, "place": 5, "tokens": [1, 7], "gap": 0.0, "below_top": 0.0,
                             "spacing": 0.125, "noise": 0.125}]
    return made


def _arm(cell, arm, target_ms, rate, chance):
    tokens, seeds = cell.of(arm)
    k, step, rate = arm.draft_len or 4, target_ms, rate - 0.1 * (arm.method == "bare")
    per_step = 1.0 if arm.method == "plain" else expected_tokens(rate, k)
    parts = {"draft": 0.0 if arm.method == "plain" else 0.1 * k * target_ms, "target": step, "sampler": SAMPLER_MS.get(arm.sampler, 0.0),
             "rest": 0.05 * step}
    runs = {key: [] for key in COLUMNS}
    for seed in range(seeds):
        for prompt in range(0, cell.prompts - cell.batch + 1, cell.batch):
            slow = chance.uniform(0.95, 1.1)
            steps = round(tokens / per_step)
            seconds = {part: slow * ms * steps / 1000 for part, ms in parts.items()}
            runs["tokens_per_s"].append(cell.batch * tokens / sum(seconds.values()))
            ours = arm.method != "assisted"
            for part, value in seconds.items():
                runs[f"{part}_s"].append(value if ours else None)
            for key, value in {"prompt": prompt, "seed": seed, "new_tokens": tokens * cell.batch, "steps": steps,
                               "emitted": tokens * cell.batch, "request_steps": steps * cell.batch, "prefill_s": 0.1, "call_s": 1.0}.items():
                runs[key].append(value)
    tested = [int(1000 * rate**i) for i in range(k)] if arm.method in ("speculation", "bare") else []
    texts = [[1] * tokens for _ in range(len(runs["seed"]) * cell.batch)] if cell.temperature == 0 else []
    return {"method": arm.method, "sampler": arm.sampler, "draft_len": arm.draft_len, "tokens": tokens, "seeds": seeds, "name": str(arm),
            "check": {"passed": True}, "loop_sampler": arm.sampler, "source_hash": arm.sampler, "tested": tested,
            "accepted": [int(rate * n) for n in tested], "runs": runs, "texts": texts}


def records(**options):
    """One of every default cell, with four drafts everywhere."""
    return [record(cell, **options) for cell in cells("v10", 4, features=True)]
