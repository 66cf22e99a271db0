"""The rounding intervals: within which a decision or a draw may differ from the reference's, because the sampler rounds.

Accept test: |u*q - p| <= 2^-22 p (float32 arithmetic instead of exact). cdf draw: u * total within ulps * 2^-24 * total of the
drawn token's own piece of the cumulative sum. race draw: the drawn token's score within a relative ulps * 2^-24 of the best.
Proposals: one that can give the drawn token, in the sense of the cdf draw, behind proposals each of which can have been rejected.
Logits: the reference takes the softmax in float64, so each probability x may besides be off by 2^-22 (|log x| + log vocab + 8) x,
the error of a float32 softmax.

`ulps` is the sampler's own statement (contract.py). `weights`, `error`: float64 [vocab], what the last token of request b is drawn
from behind `accepted` drafts, and how far each weight may be off. `got`: the token that the sampler drew.
"""
import math
from typing import NamedTuple

import numpy as np

from . import philox
from .reference import PROPOSALS, proposal_uniforms, propose, residual, usable
from .request_rows import draft_row, target_row

DECISION_TOLERANCE = 2.0**-22
ULP = 2.0**-24


def decision_slack(problem, u, target, draft):
    """How far u * draft may be from target for the accept test to come out either way."""
    if problem.kind == "probs":
        return DECISION_TOLERANCE * target
    return softmax_error(target, problem) + (0.0 if problem.draft is None else u * softmax_error(draft, problem))


def cdf_interval(sampler, problem, b, accepted, got, weights, error):
    """(expected id, u, interval of u that explains `got`, is u inside)."""
    u = uniform(problem, b, accepted, philox.RECOVER)
    cumulative = np.cumsum(weights)
    total, last = cumulative[-1], int(np.flatnonzero(weights)[-1])
    want = min(int(np.searchsorted(cumulative, u * total, side="right")), last)
    slack = sampler.ulps * ULP * total + error.sum()
    low = ((cumulative[got - 1] if got else 0.0) - slack) / total
    high = (cumulative[got] + slack) / total
    return want, u, (float(low), float(high)), low <= u <= high


class _Proposal(NamedTuple):
    draw: float       # its uniform
    interval: tuple   # of draw, within which it can be `got`
    ids: np.ndarray   # those that rounding lets it be
    can_give: bool    # can it be `got`, and be kept?
    is_kept: bool     # whatever the rounding


def propose_interval(sampler, problem, b, accepted, got, weights, error):
    """(expected id, u and its interval of the first proposal that can give `got`, is there one); the cdf draw's if none can."""
    want, _ = propose(usable(target_row(problem, b, accepted)), weights, int(problem.seeds[b]), int(problem.positions[b]))
    for one in _proposals(sampler, problem, b, accepted, got, weights, error):
        if one.can_give or one.is_kept:
            return want, one.draw, one.interval if one.can_give else None, one.can_give
    cdf, u, interval, fine = cdf_interval(sampler, problem, b, accepted, got, weights, error)
    return cdf if want < 0 else want, u, interval, fine


def propose_meets(sampler, problem, b, accepted, got, weights, error, unusable):
    """(must, may): has a draw by proposals that gave `got` met an entry where the draft row is `unusable`, bool [vocab]?"""
    must = may = given = False
    for one in _proposals(sampler, problem, b, accepted, got, weights, error):
        must |= not given and bool(unusable[one.ids].all())
        may |= bool(unusable[one.ids].any())
        given |= one.can_give
        if one.is_kept:
            return must, may
    whole = bool(unusable.any())  # none was kept, or that cannot be told
    return must if given else whole, whole


def _proposals(sampler, problem, b, accepted, got, weights, error):
    """What can be said of each proposal of the request's last draw, the first one that is kept for certain being the last."""
    target = usable(target_row(problem, b, accepted))
    cumulative, target_error = np.cumsum(target), softmax_error(target, problem) if problem.kind == "logits" else np.zeros_like(target)
    total, last, slack = cumulative[-1], int(np.flatnonzero(target)[-1]), sampler.ulps * ULP * cumulative[-1] + target_error.sum()
    low, high = ((cumulative[got - 1] if got else 0.0) - slack) / total, (cumulative[got] + slack) / total
    for k in range(PROPOSALS):
        draw, keep = proposal_uniforms(int(problem.seeds[b]), int(problem.positions[b]), k)
        begin, end = (min(int(np.searchsorted(cumulative, draw * total + by, side="right")), last) for by in (-slack, slack))
        ids = begin + np.flatnonzero(target[begin:end + 1])
        room = keep * target_error + error + ULP * target
        can_give = bool(low <= draw <= high and keep * target[got] < weights[got] + room[got])
        is_kept = len(ids) == 1 and bool(keep * target[ids[0]] < weights[ids[0]] - room[ids[0]])
        yield _Proposal(draw, (float(low), float(high)), ids, can_give, is_kept)
        if is_kept:
            return


def race_interval(sampler, problem, b, accepted, got, weights, error):
    """(expected id, None, interval of the score that explains `got`, is its score inside)."""
    noise = philox.race_noise(int(problem.seeds[b]), int(problem.positions[b]), np.arange(len(weights), dtype=np.int64))
    score = weights / noise
    floor = float(((weights - error) / noise).max()) * (1 - sampler.ulps * ULP)
    own = (weights[got] + error[got]) / noise[got]
    return int(np.argmax(score)), None, (floor, float(score.max())), own >= floor


def weight_error(problem, b, accepted, weights):
    """How far each weight may be off, float64 [vocab]: zero for stored probabilities, which are read exactly."""
    if problem.kind == "probs":
        return np.zeros_like(weights)
    target = target_row(problem, b, accepted)
    error = softmax_error(target, problem)
    if accepted == problem.draft_len[b]:
        return np.where(weights > 0, error, 0.0)
    draft = draft_row(problem, b, accepted).astype(np.float64)
    error = error + (softmax_error(draft, problem) if problem.draft is not None else 0.0)
    return np.where((weights > 0) | (np.abs(target - draft) <= error) & (residual(target, draft) == 0), error, 0.0)


def softmax_error(x, problem):
    """How far a probability (or each of an array) of a float32 softmax may be off."""
    x = np.nan_to_num(np.asarray(x, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return DECISION_TOLERANCE * x * (np.abs(np.log(np.maximum(x, 1e-300))) + math.log(problem.vocab) + 8)


def uniform(problem, b, index, stream):
    """The uniform of accept test `index` (philox.ACCEPT), or that of the cdf draw behind `index` drafts (philox.RECOVER)."""
    words = philox.random_words(int(problem.seeds[b]), int(problem.positions[b]), stream, index)
    return float(philox.uniform23(words[0]) if stream == philox.ACCEPT else philox.uniform52(*words[:2]))
