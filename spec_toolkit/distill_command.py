"""`spec-toolkit distill`: what was asked for as a Recipe, and the processes that follow it."""
from __future__ import annotations

import time

import torch

from . import distill_ranks, pretrained
from .distill import distill
from .distill_recipe import RATES, SMALL, Recipe


def run(target, out, seconds, device, optimizer, learning_rate, batch, length, rows, depth, features, steps, seed, start, processes) -> int:
    """The command. Returns the exit code 0. pretrained.ModelError or ValueError for a request that cannot be met."""
    started, device = time.monotonic(), device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: got a machine without a usable GPU; accepted: cpu (`spec-toolkit doctor` says why)")
    most = torch.cuda.device_count() if on_gpu else processes
    if not 1 <= processes <= most:
        accepted = f"1 to {most}, the GPUs of this machine" if on_gpu else "1 or more"
        raise ValueError(f"--processes: got {processes}, accepted: {accepted}")
    given = {"batch": batch, "length": length, "rows": rows, "optimizer": optimizer, "seed": seed, "steps": steps,
             "depth": depth or (None if features else 1),
             "learning_rate": RATES[optimizer or Recipe.optimizer] if learning_rate is None else learning_rate}
    sizes = ({} if on_gpu else SMALL) | {name: value for name, value in given.items() if value is not None}
    sizes["held_out"] = min(sizes.get(name, getattr(Recipe, name)) for name in ("held_out", "batch"))
    work = target, device, out, Recipe(seconds=seconds, features=features, **sizes), started, start
    distill_ranks.spread(processes, _loaded_and_distilled, *work) if processes > 1 else _loaded_and_distilled(*work)
    return 0


def _loaded_and_distilled(target, device, out, recipe, started, start) -> None:
    """One process's part of the command; `started` is a time of time.monotonic(), which processes of one machine share."""
    ranks, device = distill_ranks.joined(device)
    say = (lambda line: print(line, flush=True)) if ranks.rank == 0 else lambda line: None
    say(f"loading {target}" + f", in {ranks.size} processes" * (ranks.size > 1))
    model, tokenizer = pretrained.load(target, torch.bfloat16 if device != "cpu" else torch.float32, device)
    say(f"{time.monotonic() - started:6.1f} s  loaded; sampling {recipe.batch:,} held-out texts of {recipe.length} tokens")
    distill(model, tokenizer, out, recipe, target, started, say, start, ranks)
    distill_ranks.left(ranks)
