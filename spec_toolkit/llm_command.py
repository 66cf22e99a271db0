"""`spec-toolkit llm`: load a model and its draft, decode some prompts plainly and with speculation, print what came of it.

What it prints is of this machine, now; nothing is recorded. `spec-toolkit llm-bench` is the measurement that is.
"""
from __future__ import annotations

import platform

import torch

from . import draft_weights, pretrained
from .drafting import NgramDrafter
from .llm_bench_arms import make_decoder
from .llm_bench_pair import NGRAM
from .speedup import compare
from .verifier import usual_sampler

# Two whose answers repeat the question, where n-grams help, and one whose answer does not, where they hardly can.
PROMPTS = (
    ("Repeat this list, sorted by name, one line each: red apple 120 grams, green pear 180 grams, yellow banana 150 grams, "
     "red cherry 8 grams."),
    ("Rewrite this Python function with the name total instead of s, and change nothing else:\n"
     "def mean(values):\n    s = 0\n    for value in values:\n        s += value\n    return s / len(values)"),
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
)


def run(target, draft, sampler, path, draft_len, tokens, temperature, repeats, batch, prompts, seed, device, dtype) -> int:
    """Returns the exit code 0. draft None: n-grams, then the draft that comes with the package where it fits the target.

    pretrained.ModelError or ValueError for a request that cannot be met.
    """
    device, dtype = place(device, dtype)
    path = path or ("graph" if device.startswith("cuda") else "eager")
    print(f"loading {target}", flush=True)
    model, tokenizer = pretrained.load(target, dtype, device)
    texts, verdicts = [pretrained.encode(tokenizer, prompt) for prompt in prompts or PROMPTS], {}
    for name in [draft] if draft else [NGRAM, *trained(target)]:
        decoder = make_decoder(path, model, drafter(name, (model, tokenizer), draft_len, dtype, device), sampler, draft_len)
        print(caption(model, target, name, decoder, device, temperature, path), flush=True)
        result = compare(decoder, texts, max_new_tokens=tokens, temperature=temperature, repeats=repeats, batch=batch, seed=seed,
                         stop=pretrained.stop_ids(model, tokenizer), progress=lambda line: print(line, flush=True))
        print(f"\n{result}\n")
        verdicts[name] = result.verdict()
    if len(verdicts) > 1:
        print("\n".join(f"drafts by {name}: {verdict}" for name, verdict in verdicts.items()))
    if device == "cpu":
        print("These are times of a CPU, shared with whatever else runs on it. They say nothing of a GPU.")
    return 0


def bench(target, draft, sampler, paths, kinds, draft_len, prompts, seeds, eager_tokens, graph_tokens, fused, batches, temperatures, device,
          dtype, out, resume, stop_after) -> int:
    """`spec-toolkit llm-bench`; returns the exit code: 0, or 1 where a cell or an arm failed or time was up. Raises as `run`."""
    from . import llm_bench, llm_bench_pair
    from .llm_bench_cells import cells

    if min(prompts, seeds, eager_tokens, graph_tokens, 1 if draft_len is None else draft_len) < 1:
        raise ValueError(f"--prompts, --seeds, --eager-tokens, --graph-tokens, --draft-len: got {prompts}, {seeds}, {eager_tokens}, "
                         f"{graph_tokens}, {draft_len}, accepted: 1 or more")
    device, dtype = place(device, dtype)
    pair = llm_bench_pair.load_pair(target, draft, device, dtype)
    chosen = cells(sampler or usual_sampler(device), draft_len, min(prompts, len(pair.prompts)), seeds, paths, kinds,
                   {"eager": eager_tokens, "graph": graph_tokens}, fused=fused, batches=batches, temperatures=temperatures, features=pair.features)
    if not chosen:
        raise ValueError(f"--paths, --kinds, --fused, --batches, --temperatures: got no cell that is of all of {paths}, {kinds}, {fused}, "
                         f"{batches}, {temperatures}; accepted: for example --paths graph --kinds compare --batches 1 --temperatures 1")
    return 0 if llm_bench.record_all(pair, chosen, out, resume, stop_after) else 1


def place(device, dtype):
    """(device, torch dtype) asked for, or what suits this machine. ValueError for a GPU that is not there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: got a machine without a usable GPU; accepted: cpu (`spec-toolkit doctor` says why)")
    return device, getattr(torch, dtype) if dtype else torch.float32 if device == "cpu" else torch.bfloat16


def drafter(name, target, draft_len, dtype, device):
    """What drafts by that name: n-grams, or a model that shares the tokenizer. target: (model, tokenizer)."""
    if name == NGRAM:
        return NgramDrafter(draft_len)
    model, tokenizer = pretrained.load(name, dtype, device, target=target)
    pretrained.require_shared_ids(target[1], tokenizer)
    return model


def trained(target) -> list[str]:
    """The draft that comes with the package, where it was trained for this target and its weights are there."""
    there = target == pretrained.SMOLLM2 and (draft_weights.FOLDER / draft_weights.PROVENANCE).is_file()
    return [pretrained.SMOLLM2_DRAFT] if there else []


def caption(model, target, draft, decoder, device, temperature, path) -> str:
    """What is decoded by what, and where."""
    cpu = f"CPU {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    where = cpu if device == "cpu" else torch.cuda.get_device_name(device)
    weights = sum(weight.numel() for weight in model.parameters())
    return (f"{target}, {weights / 1e6:,.0f} M parameters, {str(model.dtype)[6:]}; drafts: {draft}; sampler: {decoder.sampler.name}; "
            f"temperature {temperature:g}\n{where}; torch {torch.__version__}; {path} path; reading the prompts is not counted")
