"""Random numbers at the ends of their range, without a hook in any kernel: seeds found by search, at position 0.

The constants were found by trying seeds in order; tests/test_edges.py computes their numbers again. Each edit puts such
seeds into a problem, and rows on which the end decides: the correct token leaves no room, so these cases are *strict*
(`check(..., strict=True)`: nothing is explained by rounding).
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from . import philox

ACCEPT_LOW, ACCEPT_HIGH = 271174, 36842616           # the first accept word is below 2^9, or its top 24 bits are all ones
RECOVER_LOW, RECOVER_HIGH = 1508045099, 23375997682  # the high word of draw 0 is 0, or all ones: u within 2^-32 of an end
RACE_LOW, RACE_HIGH = (58333322, 82), (21424632, 122)  # (seed, id): the same of the id's race words; E below 2^-32, above 22
TIES = ((133, 978, 984), (254, 359, 811), (1124, 516, 795), (1758, 91, 780))  # (seed, lower id, higher id): E equal in float32

LEAST_U = 2.0**-24  # the smallest accept uniform; the largest is 1 - 2^-24
TINY = 2.0**-30


def _put(problem, rows, row, weights):
    """The row := weights {id: probability}, the rest 0."""
    new = torch.zeros(problem.vocab, dtype=torch.float32, device=problem.device)
    for token, weight in weights.items():
        new[token] = weight
    rows[row] = (new if problem.kind == "probs" else new.log()).to(rows.dtype)


def _seeded(problem, seeds, tokens):
    """The problem with seeds[b] at position 0, and tokens[b] as the first draft of request b."""
    put = lambda values: torch.tensor(values, dtype=torch.int64, device=problem.device)
    drafted = problem.draft_tokens.clone()
    for b, token in enumerate(tokens):
        if problem.draft_len[b]:
            drafted[problem.draft_start[b]] = token
    return replace(problem, seeds=put(seeds), positions=torch.zeros_like(problem.positions), draft_tokens=drafted)


def accept_ends(problem):
    """The first test at the smallest and the largest u: target = 0, just not enough, just enough, target = draft."""
    above = LEAST_U * (1 + 2.0**-23)
    tests = [(ACCEPT_LOW, 0.0, 1.0), (ACCEPT_LOW, LEAST_U, 1.0), (ACCEPT_LOW, above, 1.0), (ACCEPT_LOW, LEAST_U / 2, 1.0),
             (ACCEPT_LOW, 4 * LEAST_U, 1.0), (ACCEPT_HIGH, 0.3, 0.3), (ACCEPT_HIGH, 1 - LEAST_U, 1.0), (ACCEPT_HIGH, 1.0, 1.0)]
    return _tested(problem, tests)


def exact_boundary(problem):
    """u * draft = target to the last bit: the test is strict, so each first draft is rejected."""
    uniform = lambda seed: float(philox.uniform23(philox.random_words(seed, 0, philox.ACCEPT, 0)[0]))
    return _tested(problem, [(seed, 0.5 * uniform(seed), 0.5) for seed in range(8)])


def _tested(problem, tests):
    """Request b: its first draft is id 1, of target and draft probability tests[b][1:]; the rest is on id 2 and the last."""
    tests = (tests * problem.batch)[:problem.batch]
    for b, (_, target, draft) in enumerate(tests):
        start, last = int(problem.draft_start[b]), problem.vocab - 1
        _put(problem, problem.target, start + b, {2: (1 - target) / 2, last: (1 - target) / 2, 1: target})
        if problem.draft is not None:
            _put(problem, problem.draft, start, {2: 1 - draft, 1: draft})
    return _seeded(problem, [seed for seed, _, _ in tests], [1] * problem.batch)


def draw_ends(problem):
    """The draw at u near 0 and near 1. Ids without weight stand at both ends of the row; behind them a tiny weight (which u
    near 0 must find) and, at the far end, a small one. Half of the requests draw after a rejection."""
    first, last = problem.vocab // 3, problem.vocab - 1 - problem.vocab // 4
    row = {first: TINY, first + 1: 0.5, (first + last) // 2: 0.25, last - 1: 0.25 - 2.0**-10, last: 2.0**-10}
    for b, length in enumerate(problem.draft_len):
        start = int(problem.draft_start[b])
        _put(problem, problem.target, start + b, row)
        if length and problem.draft is not None:
            _put(problem, problem.draft, start, {0: 1.0})
    return _seeded(problem, [(RECOVER_LOW, RECOVER_HIGH)[b // 2 % 2] for b in range(problem.batch)], [0] * problem.batch)


def race_ends(problem):
    """The race at E near 0 and at a large E, each of a row where one id wins by half (it must), or loses by a tenth."""
    (low, low_id), (high, high_id) = RACE_LOW, RACE_HIGH
    wanted = [(low, low_id, 1.5), (low, low_id, 0.9), (high, high_id, 1.5), (high, high_id, 0.9)]
    wanted = (wanted * problem.batch)[:problem.batch]
    for b, (seed, token, factor) in enumerate(wanted):
        noise = philox.race_noise(seed, 0, np.arange(problem.vocab, dtype=np.int64))
        others = np.delete(np.arange(problem.vocab), token)
        weight = factor * (1 / noise[others]).max() * noise[token]  # beside others of weight 1 each
        scale = 1 / (len(others) + weight)
        row = {int(other): scale for other in others} | {token: weight * scale}
        _put(problem, problem.target, int(problem.draft_start[b]) + b, row)
        if problem.draft_len[b] and problem.draft is not None:
            _put(problem, problem.draft, int(problem.draft_start[b]), {0: 1.0})
    return _seeded(problem, [seed for seed, _, _ in wanted], [0] * problem.batch)


def race_ties(problem):
    """Two ids of equal weight and of E that are equal in float32: the lower id wins (it does so in float64 too)."""
    wanted = (list(TIES) * problem.batch)[:problem.batch]
    for b, (_, lower, higher) in enumerate(wanted):
        _put(problem, problem.target, int(problem.draft_start[b]) + b, {lower: 0.5, higher: 0.5})
        if problem.draft_len[b] and problem.draft is not None:
            _put(problem, problem.draft, int(problem.draft_start[b]), {0: 1.0})
    return _seeded(problem, [seed for seed, _, _ in wanted], [0] * problem.batch)


EDITS = {"accept uniform at its ends": accept_ends, "u * draft = target exactly": exact_boundary, "draw uniform at its ends": draw_ends,
         "race noise at its ends": race_ends, "tied scores": race_ties}
