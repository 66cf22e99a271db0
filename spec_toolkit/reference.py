"""The rule, in float64 NumPy: what every sampler is compared with. Written to be read, one request at a time.

Speculative decoding, Leviathan et al. (arXiv 2211.17192, Algorithm 1; proof in Appendix A.1) and Chen et al.
(arXiv 2302.01318). With target probability p(t) and draft probability q(t) of a drafted token t:

  1. accept t if U * q(t) < p(t): with probability min(1, p(t) / q(t)). Stop at the first rejection.
  2. after a rejection, draw the recovered token from the residual max(p - q, 0) of that row;
     after a clean sweep, draw the bonus token from the last target row.

If t was drawn from q, the token emitted has law p: min(p, q) + (1 - sum min(p, q)) * residual / sum(residual) = p.

Choices the papers leave open, and this toolkit makes:
  - the test is strict and has no division: p(t) = 0 never passes, p(t) = q(t) always does, NaN never does;
  - a weight counts if it is positive, finite and a normal float32 (GPU code flushes subnormals to zero);
  - one-hot drafts have q(t) = 1 for the drafted token; a drafted id outside [0, vocab) is rejected;
  - no residual mass: draw from the same target row, and say so in the status; no mass there either: token -1;
  - logits: softmax(logits / temperature) in float64; temperature 0: all the mass on the first maximum. -inf has
    probability 0. A row with a NaN or +inf, or with nothing above -inf, is a row of NaN: nothing is accepted from it, no
    id of it has weight, its status is NONFINITE. So a NaN target row gives token -1 (NO_MASS, after a rejection also
    ZERO_RESIDUAL), and a NaN draft row a token of the target row (ZERO_RESIDUAL);
  - draft_lse: the draft probability is exp(draft_logit / temperature - draft_lse) in float64, whatever the row sums to.
    The drafter's number is trusted, so a tested draft row need not be read: what is not finite in it is met where it is read. (Of
    such a row logsumexp is not finite either, and that is always met.) See `probability_rows`;
  - a draw by proposals reads the draft row at the ids proposed, up to the one that is kept. If none is, it reads all of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from . import philox
from .problem import BAD_TOKEN, NO_MASS, NONFINITE, ZERO_RESIDUAL, Outputs
from .request_rows import draft_row, draft_tokens, drafted_probabilities, target_row

DRAWS = ("cdf", "race", "propose")
PROPOSALS = 128  # of the draw "propose", before it falls back on "cdf"
SMALLEST_NORMAL = 2.0**-126


class Decision(NamedTuple):
    """One accept test: u * draft < target, target and draft being the probabilities of the drafted token."""
    u: float
    target: float  # 0 for an id outside the vocabulary
    draft: float
    accepted: bool


def reference(problem, draw="cdf") -> Outputs:
    """Outputs (CPU tensors) of the rule on a Problem on any device; draw: one of DRAWS, else ValueError.

    Fetches the tested rows one by one, so its memory does not grow with the batch.
    """
    if draw not in DRAWS:
        raise ValueError(f"draw: got {draw!r}, accepted: {DRAWS}")
    out_tokens = np.full((problem.batch, problem.max_draft + 1), -1, dtype=np.int32)
    num_accepted, status = np.zeros(problem.batch, dtype=np.int32), np.zeros(problem.batch, dtype=np.int32)
    for b in range(problem.batch):
        drafted = draft_tokens(problem, b)
        decisions = decide(problem, b)
        a = sum(decision.accepted for decision in decisions)
        weights, zero_residual, unusable = row_weights(problem, b, a)
        token, read = draw_token(problem, b, a, weights, draw, zero_residual)
        out_tokens[b, :a], out_tokens[b, a] = drafted[:a], token
        num_accepted[b] = a
        nonfinite = unusable[read].any() or any(not np.isfinite([d.target, d.draft]).all() for d in decisions)
        bad = any(not 0 <= t < problem.vocab for t in drafted[: len(decisions)])
        status[b] = ZERO_RESIDUAL * zero_residual | NONFINITE * nonfinite | BAD_TOKEN * bad | NO_MASS * (token < 0)
    return Outputs(*map(torch.from_numpy, (out_tokens, num_accepted, status)))


def decide(problem, b) -> list[Decision]:
    """The accept tests of request b, up to and including the first rejection."""
    decisions = []
    seed, position = int(problem.seeds[b]), int(problem.positions[b])
    for i, token in enumerate(draft_tokens(problem, b)):
        u = philox.uniform23(philox.random_words(seed, position, philox.ACCEPT, i)[0])
        target, draft = drafted_probabilities(problem, b, i, token)
        decisions.append(Decision(u, target, draft, accepts(u, target, draft)))
        if not decisions[-1].accepted:
            break
    return decisions


def row_weights(problem, b, a):
    """What request b draws its last token from, after a accepted drafts: (weights float64 [vocab], zero_residual, unusable bool [vocab]).

    unusable: where the draft row is not finite; everywhere if the target row is not, for every draw adds it up.
    """
    target = target_row(problem, b, a)
    unusable = np.full(problem.vocab, not np.isfinite(target).all())
    if a == problem.draft_len[b]:
        return usable(target), False, unusable
    draft = draft_row(problem, b, a)
    weights, unusable = residual(target, draft), unusable | ~np.isfinite(draft)
    return (weights, False, unusable) if weights.any() else (usable(target), True, unusable)


def draw_token(problem, b, a, weights, draw, zero_residual=False):
    """(the token that request b draws from `weights` after a accepted drafts, with its own random numbers; -1 if no mass,
    the ids at which the draft row was read: a slice or a list).

    zero_residual: the weights are those of the target row, because the residual, which proposals are held against, has none.
    """
    everywhere = slice(None)
    if not weights.any():
        return -1, everywhere
    seed, position = int(problem.seeds[b]), int(problem.positions[b])
    if draw == "propose" and not zero_residual:
        token, proposed = propose(usable(target_row(problem, b, a)), weights, seed, position)
        if token >= 0:
            return token, proposed
    if draw == "race":
        ids = np.flatnonzero(weights)  # the others cannot win
        return int(ids[race_draw(weights[ids], philox.race_noise(seed, position, ids))]), everywhere
    return cdf_draw(weights, philox.uniform52(*philox.random_words(seed, position, philox.RECOVER, a)[:2])), everywhere


def accepts(u, target, draft) -> bool:
    """The accept test. Exact for stored probabilities: a 23-bit u times a 24-bit draft fits a double."""
    return bool(usable(target) > 0 and u * draft < target)


def residual(target, draft):
    """max(target - draft, 0) per token; for stored rows the difference is the float32 one that a kernel sees."""
    with np.errstate(invalid="ignore"):
        return usable((target - draft).astype(np.float64))


def usable(x):
    """x where it is a weight, 0 where it is not: NaN, infinite, negative or below the normal float32 numbers."""
    x = np.asarray(x, dtype=np.float64)
    return np.where((x >= SMALLEST_NORMAL) & (x < np.inf), x, 0.0)


def cdf_draw(weights, u) -> int:
    """The smallest id whose cumulative weight exceeds u * total; if rounding finds none, the last id with weight."""
    cumulative = np.cumsum(weights)
    token = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return token if token < len(weights) else int(np.flatnonzero(weights)[-1])


def propose(target, weights, seed, position) -> tuple[int, list[int]]:
    """(the first of PROPOSALS ids drawn from `target` that is kept, with probability weights / target; -1 if none is, the ids drawn).

    Its law given that one is kept is that of the weights, for any weights <= target (von Neumann, 1951); if none is, a draw from
    the weights has the same law: so the law of both together is exactly that of the weights.
    """
    proposed = []
    for k in range(PROPOSALS):
        draw, keep = proposal_uniforms(seed, position, k)
        proposed.append(cdf_draw(target, draw))
        if keep * target[proposed[-1]] < weights[proposed[-1]]:
            return proposed[-1], proposed
    return -1, proposed


def proposal_uniforms(seed, position, k) -> tuple[float, float]:
    """The two 52-bit uniforms of proposal k: which id, and is it kept."""
    words = philox.random_words(seed, position, philox.PROPOSE, k)
    return philox.uniform52(*words[:2]), philox.uniform52(*words[2:])


def race_draw(weights, noise) -> int:
    """argmax of weight / noise; ties go to the lowest id (as NumPy's argmax)."""
    return int(np.argmax(weights / noise))
