"""What one call on one problem cannot show: a request that moves, threads in another order, inputs that change under a bound call.

Each probe gives the differences found, as strings; none means that nothing was found.
"""
from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import fields
from itertools import product

import numpy as np
import torch

from .cpu import fibre_order
from .poison import SENTINEL
from .synthetic import make_problem

LENGTHS = [3, 0, 1, 5, 2, 4]
# What is re-batched: rows of enough tiles that a rung which splits them cuts them otherwise in other batches.
MOVED_CPU = {"batch": 6, "draft_len": LENGTHS, "vocab": 9001}
MOVED = {"batch": 48, "draft_len": [3, 0, 1, 2] * 12, "vocab": 40009}
SM_COUNTS = (1, 2, 13)
ORDERS = (("reversed", 0), ("shuffled", 1), ("shuffled", 2))
TURNS = tuple(("interleaved", seed) for seed in range(20))
TOGETHER = ({"batch": 12, "draft_len": 16, "vocab": 100}, {"batch": 12, "draft_len": 33, "vocab": 60, "acceptance": 0.9},  # what takes turns
            {"batch": 30, "draft_len": 3, "vocab": 1500})
CHANGED = {"batch": 30, "draft_len": 5, "vocab": 1500}  # the same, between calls whose inputs change


def is_move(name) -> bool:
    """Is the probe of that name about a request that moves? (The others are about memory.)"""
    return "re-batchings" in name or "multiprocessor" in name


def _arrays(outputs):
    return [tensor.cpu().numpy().copy() for tensor in outputs]


def rebatched(sampler, problem, count=1000, seed=0) -> list[str]:
    """A request's outputs in `problem` against those in `count` random re-batchings: other slots, batch sizes (1 to twice
    the batch, and with them other splits of a row over blocks), neighbours, repeats. A sampler with a generator of its
    own finds PyTorch's in the same state before each call."""
    choose, found = random.Random(seed), []
    tokens, accepted, status = _arrays(_again(sampler, problem))
    for _ in range(count):
        picked = choose.choices(range(problem.batch), k=choose.randint(1, 2 * problem.batch))
        rows, counts, bits = _arrays(_again(sampler, problem.take(picked)))
        width = min(rows.shape[1], tokens.shape[1])
        wrong = (rows[:, :width] != tokens[picked, :width]).any(1) | (rows[:, width:] != -1).any(1) | (counts != accepted[picked])
        wrong |= (bits != status[picked]) & bool(sampler.reports_status)
        found += [f"request {picked[slot]} in slot {slot} of a batch of {len(picked)}: {rows[slot].tolist()}, "
                  f"before {tokens[picked[slot]].tolist()}"
                  for slot in np.flatnonzero(wrong)]
    return found


def _again(sampler, problem):
    if not getattr(sampler, "own_generator", False):
        return sampler(problem)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return sampler(problem)


def resplit(sampler, problem, counts) -> list[str]:
    """The outputs of a kernel that is told of other numbers of multiprocessors, by which it chooses its grid."""
    first, found = _arrays(sampler(problem)), []
    real = sampler.symbols
    for count in counts:
        sampler.symbols = lambda given, count=count: {**real(given), "sm_count": count}
        try:
            if not all(map(np.array_equal, first, _arrays(sampler(problem)))):
                found.append(f"told of {count} multiprocessors: other outputs")
        finally:
            del sampler.symbols
    return found


def reordered(sampler, problem, orders=ORDERS) -> list[str]:
    """The outputs with blocks, warps and lanes run in other orders (CPU executor): they differ where a barrier is missing,
    or where blocks rely on what another one has not done yet."""
    call = sampler.bind(problem)
    forward, found = _arrays(call()), []
    for order, seed in orders:
        for tensor in call.outputs:
            tensor.fill_(SENTINEL)
        with fibre_order(order, seed):
            try:
                same = all(map(np.array_equal, forward, _arrays(call())))
            except Exception as error:  # noqa: BLE001 (the executor names what it met)
                found.append(f"threads {order} (seed {seed}): {error}")
                continue
        if not same:
            found.append(f"threads {order} (seed {seed}): other outputs than in forward order")
    return found


def rebound(sampler, problem, other, orders=(None,)) -> list[str]:
    """Call, put the numbers of `other` (of the same shapes) into the bound tensors, call twice, and once more with the first ones: as the
    replay of a graph does. So a call differs from the one before it, and from the one before that. Each must be what a call bound
    anew gives; `problem` is as it was afterwards. orders: of blocks and threads (CPU executor), for each of which this is done."""
    expected = [_arrays(sampler(given)) for given in (problem, other)]
    call, found = sampler.bind(problem), []
    names = [f.name for f in fields(problem) if isinstance(getattr(problem, f.name), torch.Tensor)]
    numbers = [{name: getattr(given, name).clone() for name in names} for given in (problem, other)]
    for order, (turn, which) in product(orders, enumerate((0, 1, 1, 0), 1)):
        for name in names:
            getattr(problem, name).copy_(numbers[which][name])
        with fibre_order(*order) if order else nullcontext():
            same = all(map(np.array_equal, expected[which], _arrays(call())))
        if not same:
            found.append(f"call {turn} of a bound problem whose inputs change{f', threads {order[0]} (seed {order[1]})' if order else ''}: "
                         "other outputs than of a call bound anew")
    return found


def probe(sampler, device="cpu", seed=0, rebatchings=8, kind=None) -> dict[str, list[str]]:
    """{what was tried: differences} of the probes that mean something for this sampler on this device. kind: "probs" or
    "logits", None = what the sampler takes."""
    words = {"logits": (kind or getattr(sampler, "input", "probs")) == "logits", "device": device, "acceptance": 0.6}
    on_cpu = torch.device(device).type == "cpu"
    sizes = MOVED_CPU if on_cpu else MOVED
    if getattr(sampler, "own_generator", False):
        sizes = {**sizes, "draft_len": 2}
    problem = make_problem(**sizes, seed=seed + 1, **words)
    tried = {f"{rebatchings} re-batchings": lambda: rebatched(sampler, problem, rebatchings, seed)}
    if getattr(sampler, "kind", None) == "kernel":  # others may prepare at bind what a kernel reads at each call
        tried["inputs changed under a bound call"] = lambda: rebound(
            sampler, *(make_problem(6, LENGTHS, 2049, seed=seed + n, **words) for n in (3, 4)))
        tried["other multiprocessor counts"] = lambda: resplit(sampler, problem, SM_COUNTS)
        if on_cpu:
            others = [{}, {"draft_probs": False}, *([{"draft_lse": True}, {"temperature": [0.0, 1.0, 0.5]}] if words["logits"] else [])]
            given = [make_problem(6, LENGTHS, 1025, seed=seed + 1, **words),
                     *(make_problem(3, [2, 0, 1], 9001, seed=seed + 2, **words, **other) for other in others)]
            tried["blocks that take turns"] = lambda: [
                text for given in TOGETHER for text in reordered(sampler, make_problem(**words | given, seed=seed + 1), TURNS)]
            tried["inputs changed between blocks that take turns"] = lambda: rebound(
                sampler, *(make_problem(**words | CHANGED, seed=seed + n) for n in (1, 2)), TURNS[:6])
            tried["other thread orders"] = lambda: [text for one in given for text in reordered(sampler, one)]
    return {name: _tried(run) for name, run in tried.items()}


def _tried(run):
    try:
        return run()
    except Exception as error:  # noqa: BLE001 (a kernel that faults is a finding)
        return [f"{type(error).__name__}: {error}"]
