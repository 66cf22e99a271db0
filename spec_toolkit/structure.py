"""What `check` can say of a sampler with a random generator of its own: structure on the problem, law on a small one.

Such a sampler shares no random bits with the reference, so no token can be compared. Instead each request must be one
that the rule could have produced (`structure`), and on rows of 64 ids with the same number of drafts the outputs must
occur as often as they should (`own_law`): a chi-square test that states what bias it would catch.
"""
import numpy as np

from .law import LawResult, law_check
from .reference import row_weights, usable
from .request_rows import draft_tokens, drafted_probabilities

LAW_VOCAB = 64
LAW_DRAWS = 60_000
LAW_ALPHA = 1e-6   # the generator is the sampler's, so a false alarm could not be repeated: make it rare
CERTAIN = 1 + 1e-4  # target above draft by more than this cannot be rejected, whatever the rounding of a softmax
_laws: dict = {}


def structure(problem, got):
    """Failures (one string per bad request) of outputs as CPU arrays: range, copies, tail, impossible decisions and draws."""
    found = [(b, _impossible(problem, b, got[0][b].tolist(), int(got[1][b]))) for b in range(problem.batch)]
    return [f"request {b} {wrong}" for b, wrong in found if wrong]


def _impossible(problem, b, tokens, accepted):
    drafted = draft_tokens(problem, b)
    if not 0 <= accepted <= len(drafted):
        return f"count: expected 0..{len(drafted)}, got {accepted}"
    for position, token in enumerate(tokens):
        expected = drafted[position] if position < accepted else -1
        if position != accepted and token != expected:
            return f"position {position}: {'copy' if position < accepted else 'tail'}: expected {expected}, got {token}"
    for i, token in enumerate(drafted[:accepted + 1]):
        target, draft = drafted_probabilities(problem, b, i, token)
        if i < accepted and not usable(target) > 0:
            return f"position {i}: decision: id {token} of target probability {target:g} was accepted"
        if i == accepted and usable(target) > 0 and target > draft * CERTAIN:
            return f"position {i}: decision: id {token} was rejected with target {target:.6g} above draft {draft:.6g}"
    weights, _, _ = row_weights(problem, b, accepted)
    token = tokens[accepted]
    if not weights.any():
        return "" if token == -1 else f"position {accepted}: token: expected -1 (the row has no mass), got {token}"
    if not 0 <= token < problem.vocab:
        return f"position {accepted}: token: expected an id in [0, {problem.vocab}), got {token}"
    return "" if weights[token] > 0 else f"position {accepted}: token: id {token} has weight zero in the row of the draw"


def own_law(sampler, problem) -> LawResult:
    """Law test at the problem's largest draft_len and LAW_VOCAB ids, `sampler.law_draws` requests on the problem's device.

    Kept per sampler, source and draft_len for the life of the process: a sweep pays for it once.
    """
    sampler = getattr(sampler, "unwrapped", sampler)
    key = (sampler.name, sampler.source_hash, problem.max_draft, problem.draft is None, str(problem.device))
    if key not in _laws:
        target, draft, tokens = law_rows(problem.max_draft, LAW_VOCAB)
        _laws[key] = law_check(sampler, target, None if problem.draft is None else draft, tokens, device=problem.device,
                               draws=getattr(sampler, "law_draws", LAW_DRAWS), alpha=LAW_ALPHA)
    return _laws[key]


def law_rows(length, vocab, seed=0):
    """(target [length+1, vocab], draft [length, vocab], tokens [length]): peaked rows with zeros in both, and drafts
    that are each accepted with a probability near 0.85, so that every length occurs."""
    random = np.random.default_rng([seed, length, vocab])
    target = np.exp(random.normal(size=(length + 1, vocab)))
    draft = target[:length] * np.exp(0.7 * random.normal(size=(length, vocab)))
    target[random.random(target.shape) < 0.1] = 0.0
    draft[random.random(draft.shape) < 0.1] = 0.0
    target, draft = ((rows / rows.sum(1, keepdims=True)).astype(np.float32) for rows in (target, draft))
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = np.where(draft > 0, target[:length] / draft, np.inf)
        tokens = np.argmin(np.abs(np.where(chance < 0.97, chance, np.inf) - 0.85), axis=1) if length else []
    return target, draft, [int(token) for token in tokens]
