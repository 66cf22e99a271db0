"""`spec-toolkit llm`: load a model and its draft, decode some prompts plainly and with speculation, print what came of it.

What it prints is of this machine, now; nothing is recorded.
"""
from __future__ import annotations

import platform

import torch

from . import pretrained
from .drafting import NgramDrafter
from .llm import Decoder
from .speedup import compare

NGRAM = "ngram"
# Two whose answers repeat the question, where n-grams help, and one whose answer does not, where they hardly can.
PROMPTS = (
    ("Repeat this list, sorted by name, one line each: red apple 120 grams, green pear 180 grams, yellow banana 150 grams, "
     "red cherry 8 grams."),
    ("Rewrite this Python function with the name total instead of s, and change nothing else:\n"
     "def mean(values):\n    s = 0\n    for value in values:\n        s += value\n    return s / len(values)"),
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
)


def run(target, draft, sampler, draft_len, tokens, temperature, repeats, batch, prompts, seed, device, dtype) -> int:
    """Returns the exit code 0. pretrained.ModelError or ValueError for a request that cannot be met."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: got a machine without a usable GPU; accepted: cpu (`spec-toolkit doctor` says why)")
    dtype = getattr(torch, dtype) if dtype else torch.float32 if device == "cpu" else torch.bfloat16
    print(f"loading {target}" + ("" if draft == NGRAM else f" and {draft}"), flush=True)
    model, tokenizer = pretrained.load(target, dtype, device)
    drafter = NgramDrafter(draft_len)
    if draft != NGRAM:
        drafter, draft_tokenizer = pretrained.load(draft, dtype, device)
        pretrained.require_shared_ids(tokenizer, draft_tokenizer)
    decoder = Decoder(model, draft=drafter, sampler=sampler, draft_len=draft_len)
    print(caption(model, target, draft, decoder, device, temperature), flush=True)
    texts = [pretrained.encode(tokenizer, prompt) for prompt in prompts or PROMPTS]
    result = compare(decoder, texts, max_new_tokens=tokens, temperature=temperature, repeats=repeats, batch=batch, seed=seed,
                     stop=pretrained.stop_ids(model, tokenizer), progress=lambda line: print(line, flush=True))
    print(f"\n{result}")
    if device == "cpu":
        print("These are times of a CPU, shared with whatever else runs on it. They say nothing of a GPU.")
    return 0


def caption(model, target, draft, decoder, device, temperature) -> str:
    """What is decoded by what, and where."""
    cpu = f"CPU {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    where = cpu if device == "cpu" else torch.cuda.get_device_name(device)
    weights = sum(weight.numel() for weight in model.parameters())
    return (f"{target}, {weights / 1e6:,.0f} M parameters, {str(model.dtype)[6:]}; drafts: {draft}; sampler: {decoder.sampler.name}; "
            f"temperature {temperature:g}\n{where}; torch {torch.__version__}; eager; reading the prompts is not counted")
