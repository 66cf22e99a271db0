"""The edges: each edit takes a problem and gives one with something awkward in it, by name in EDITS.

    problem = EDITS["zero residual"](make_problem(batch=8, draft_len=2, vocab=65, acceptance=1.0))

They work on probabilities and on logits (where `_set` stores the logarithm). Those of the uniforms (ends.py) put seeds into
the problem whose random numbers lie at the ends of their range, found by search: no kernel needs a hook for it.
"""
from __future__ import annotations

from dataclasses import replace

import torch

from . import ends


def _set(problem, rows, row, ids, value):
    """rows[row, ids] = value (row: of the flat layout); a probability, stored as its logarithm where the rows are logits."""
    if rows is not None:
        value = torch.as_tensor(value, dtype=torch.float32, device=rows.device)
        rows[row, ids] = (value if problem.kind == "probs" else torch.where(value.isfinite(), value.log(), value)).to(rows.dtype)


def _first(problem, b):
    """(target row, draft row) of request b's first draft."""
    start = problem.draft_start.tolist()[b]
    return start + b, start


def _bad_ids(problem):
    tokens = problem.draft_tokens.clone()
    wild = torch.tensor([-1, problem.vocab, 2**31 - 1, -2**31], dtype=torch.int32, device=tokens.device)
    tokens[::2] = wild.repeat(len(tokens))[:len(tokens[::2])]
    return replace(problem, draft_tokens=tokens)


def _nonfinite(problem):
    """A NaN or an infinity: tested, elsewhere in the row of the draw, in the draft row, in a bonus row."""
    for b, (name, bad) in enumerate([("tested", "nan"), ("row", "nan"), ("tested", "inf"), ("row", "inf"), ("draft", "nan")]):
        target_row, draft_row = _first(problem, b)
        token = int(problem.draft_tokens[draft_row])
        if name != "tested":
            _set(problem, problem.target, target_row, token, 0.0)  # rejected here, so that this row is drawn from
        rows, row = (problem.draft, draft_row) if name == "draft" else (problem.target, target_row)
        _set(problem, rows, row, token if name == "tested" else (token + 7) % problem.vocab, float(bad))
    _set(problem, problem.target, len(problem.target) - 1, 3, float("inf"))
    return problem


def _zero_residual(problem):
    """Draft = target (acceptance 1), and the first drafted id of every request has no mass in either."""
    for b in (b for b, k in enumerate(problem.draft_len) if k):
        target_row, draft_row = _first(problem, b)
        token = int(problem.draft_tokens[draft_row])
        _set(problem, problem.target, target_row, token, 0.0)
        _set(problem, problem.draft, draft_row, token, 0.0)
    return problem


def _empty_rows(problem):
    """Nothing in a target row, in a draft row, in both, in a bonus row."""
    for b in (0, 2, 3):
        target_row, draft_row = _first(problem, b)
        if b != 2:
            _set(problem, problem.target, target_row, slice(None), 0.0)
        if b != 0:
            _set(problem, problem.draft, draft_row, slice(None), 0.0)
    _set(problem, problem.target, _first(problem, 5)[0], slice(None), 0.0)
    return problem


def _one_hot_rows(problem):
    """All mass on one id: the drafted one in even rows, the last id in odd ones; the draft's on the drafted one."""
    for b, length in enumerate(problem.draft_len):
        for i in range(length + 1):
            row, draft_row = (first + i for first in _first(problem, b))
            token = int(problem.draft_tokens[draft_row]) if i < length else 0
            _set(problem, problem.target, row, slice(None), 0.0)
            _set(problem, problem.target, row, problem.vocab - 1 if row % 2 else token, 1.0)
            if i < length:
                _set(problem, problem.draft, draft_row, slice(None), 0.0)
                _set(problem, problem.draft, draft_row, token, 1.0)
    return problem


def _subnormal(problem):
    """Most target entries subnormal: zero by the rule in float32 and bfloat16, mass in float16."""
    tiny = 1e-6 if problem.dtype == torch.float16 else 1e-39
    _set(problem, problem.target, slice(None), slice(1, None, 2), tiny)
    _set(problem, problem.target, _first(problem, 2)[0], slice(None), tiny)
    return problem


def _placed(offset, stride_of):
    """The rows copied to `offset` elements past an aligned address, `stride_of(vocab)` elements apart, with garbage between."""
    def moved(rows):
        if rows is None:
            return None
        count, vocab = rows.shape
        storage = torch.full((count * stride_of(vocab) + offset,), 3e4, dtype=rows.dtype, device=rows.device)
        view = storage[offset:].view(count, stride_of(vocab))[:, :vocab]
        return view.copy_(rows)
    return lambda problem: replace(problem, **{f"target_{problem.kind}": moved(problem.target),
                                               f"draft_{problem.kind}": moved(problem.draft)})


def _same_rows(problem):
    """Draft = target, bit for bit: every drafted id with mass is accepted, and no residual has any."""
    for b, length in enumerate(problem.draft_len):
        for i in range(length):
            row, draft_row = (first + i for first in _first(problem, b))
            if problem.draft is not None:
                problem.draft[draft_row] = problem.target[row]
    return problem


def _disjoint(problem):
    """No id has mass in both rows; drafted is an id of the draft: every first draft is rejected."""
    tokens, half = problem.draft_tokens.clone(), max(1, problem.vocab // 2)
    for b, length in enumerate(problem.draft_len):
        for i in range(length):
            row, draft_row = (first + i for first in _first(problem, b))
            _set(problem, problem.target, row, slice(0, half), 0.0)
            _set(problem, problem.draft, draft_row, slice(half, None), 0.0)
            tokens[draft_row] = int(tokens[draft_row]) % half
    return replace(problem, draft_tokens=tokens)


def _off_sums(problem):
    """Rows that sum to 0.999 and 1.001, as an approximate softmax leaves them; the draft's the other way round."""
    for rows, first in ((problem.target, 0), (problem.draft, 1)):
        if rows is not None and problem.kind == "probs":
            factor = torch.where(torch.arange(len(rows), device=rows.device) % 2 == first, 0.999, 1.001)
            rows.copy_(rows.float() * factor[:, None])
    return problem


def _odd_values(problem):
    """Probabilities that are none: the drafted id's draft probability 0, 2, negative, NaN, inf; its target negative, above 1."""
    odd = [(None, 0.0), (0.0, 0.0), (None, 2.0), (None, -0.5), (-0.25, None), (1.5, None), (None, float("nan")), (None, float("inf"))]
    for b, (target, draft) in zip((b for b, k in enumerate(problem.draft_len) if k), odd):
        target_row, draft_row = _first(problem, b)
        token = int(problem.draft_tokens[draft_row])
        for rows, row, value in ((problem.target, target_row, target), (problem.draft, draft_row, draft)):
            if rows is not None and value is not None:
                rows[row, token] = value
    return problem


def _behind(problem):
    """Wild ids and a NaN behind the first rejection, which is certain: those tests do not happen, so no bit of theirs is set."""
    tokens = problem.draft_tokens.clone()
    for b in (b for b, k in enumerate(problem.draft_len) if k > 1):
        target_row, draft_row = _first(problem, b)
        _set(problem, problem.target, target_row, int(tokens[draft_row]), 0.0)
        tokens[draft_row + 1] = (-1, problem.vocab, int(tokens[draft_row + 1]))[b % 3]
        if b % 3 == 2:
            _set(problem, problem.target, target_row + 1, int(tokens[draft_row + 1]), float("nan"))
    return replace(problem, draft_tokens=tokens)


def _ties(problem):
    """Greedy rows whose largest logit stands at several ids: the first of them wins. All equal in the last row."""
    for rows in filter(lambda rows: rows is not None, (problem.target, problem.draft)):
        top = rows.amax(1, keepdim=True)
        for id in (problem.vocab - 1, problem.vocab // 2, problem.vocab // 3):
            rows[:, id:id + 1] = top
        rows[-1:] = 1.0
    return replace(problem, temperature=torch.zeros_like(problem.temperature)) if problem.kind == "logits" else problem


def _far(problem):
    """Logits whose exponentials leave float32: rows a hundred too high and two hundred too low. The softmax is the same."""
    for rows in filter(lambda rows: rows is not None, (problem.target, problem.draft)):
        rows += torch.where(torch.arange(len(rows), device=rows.device) % 2 == 0, 100.0, -200.0)[:, None].to(rows.dtype)
    return problem


def _enormous(problem):
    """Logits in the tens of thousands, and others near the lower end of their type: what differs in a row is what rounding leaves of it."""
    lowest = -3e4 if problem.dtype == torch.float16 else -1e30
    for rows in filter(lambda rows: rows is not None, (problem.target, problem.draft)):
        rows += torch.where(torch.arange(len(rows), device=rows.device) % 3 < 2, 3e4, lowest)[:, None].to(rows.dtype)
    return problem


def _lse(problem):
    """Draft log-normalisers that are a little off, and one that is not finite: the drafter's number is trusted."""
    if problem.draft_logits is None:
        return problem
    lengths = torch.tensor(problem.draft_len, dtype=torch.int64, device=problem.device)  # of no requests, too
    heat = problem.temperature.repeat_interleave(lengths)[:, None]
    lse = torch.logsumexp(problem.draft_logits.double() / torch.where(heat > 0, heat, 1.0).double(), -1)
    lse += torch.where(torch.arange(len(lse), device=lse.device) % 2 == 0, 0.2, -0.2)
    lse[-1:] = torch.nan
    return replace(problem, draft_lse=lse.float())


def _unsaid(problem):
    """Draft rows that are not finite at one in two of the target's likeliest ids, after a certain rejection. A log-normaliser that was made
    before says nothing of it: then a draw by proposals meets such an id or not. Without one the row is a row of NaN."""
    if problem.draft is None:
        return problem
    for b, length in enumerate(problem.draft_len):
        if length:
            target_row, draft_row = _first(problem, b)
            _set(problem, problem.target, target_row, int(problem.draft_tokens[draft_row]), 0.0)
            likeliest = problem.target[target_row].float().sort(descending=True, stable=True).indices[b % 2 : 32 : 2]
            _set(problem, problem.draft, draft_row, likeliest, float("nan") if b % 4 < 2 else float("inf"))
    return problem


def _apart(problem):
    """Draft rows further apart than target rows, with garbage between: a kernel may not use one stride for both."""
    count, vocab = problem.draft.shape
    wide = torch.full((count, vocab + 7), 3e4, dtype=problem.dtype, device=problem.device)[:, :vocab]
    return replace(problem, **{f"draft_{problem.kind}": wide.copy_(problem.draft)})


EDITS = {"target = draft": _same_rows, "disjoint supports": _disjoint, "rows sum to 0.999 and 1.001": _off_sums,
         "odd probabilities": _odd_values, "bad ids": _bad_ids, "trouble behind the first rejection": _behind,
         "NaN and inf": _nonfinite, "zero residual": _zero_residual,
         "empty rows": _empty_rows, "one-hot rows": _one_hot_rows, "subnormal entries": _subnormal,
         "misaligned rows": _placed(1, lambda vocab: vocab),
         "misaligned rows, even stride": _placed(1, lambda vocab: -(-vocab // 16) * 16),
         "aligned rows with an odd end": _placed(0, lambda vocab: -(-vocab // 16) * 16),
         "draft rows further apart": _apart, "greedy ties": _ties, "logits far from zero": _far, "logits of any size": _enormous,
         "draft_lse off": _lse,
         "draft row not as its draft_lse": _unsaid, **ends.EDITS}
LOGITS_ONLY = ("greedy ties", "logits far from zero", "logits of any size", "draft_lse off", "draft row not as its draft_lse")
EDIT_ACCEPTANCE = {"zero residual": 1.0, "misaligned rows": 0.5, "misaligned rows, even stride": 0.5, "draft rows further apart": 0.3}
