"""A mismatch: one difference between a sampler and the reference, and whether it lies inside its rounding interval (intervals.py).

An id of weight zero is never explained.
"""
import math
import weakref
from dataclasses import dataclass

import numpy as np

from . import philox
from .fingerprint import fingerprints
from .intervals import cdf_interval, decision_slack, propose_interval, propose_meets, race_interval, uniform, weight_error
from .problem import BAD_TOKEN, NO_MASS, NONFINITE, ZERO_RESIDUAL
from .reference import accepts, reference, row_weights, usable
from .request_rows import draft_row, draft_tokens, target_row


@dataclass(frozen=True)
class Mismatch:
    """One difference between a sampler and the reference."""
    request: int
    position: int             # index into the request's output row; -1: the whole request
    what: str                 # "count" | "copy" | "tail" | "decision" | "token" | "status"
    expected: object
    got: object
    u: float | None = None    # the uniform of the decision or of the cdf draw
    interval: tuple | None = None  # of u (decision, cdf) or of the score (race), within which `got` would be explained
    note: str = ""

    def __str__(self):
        text = f"request {self.request} position {self.position}: {self.what}: expected {self.expected}, got {self.got}"
        if self.u is not None:
            text += f", u={self.u:.17g}"
        if self.interval is not None:
            text += f", interval [{self.interval[0]:.17g}, {self.interval[1]:.17g}]"
        return text + (f" ({self.note})" if self.note else "")


def compare(sampler, problem, got):
    """(requests equal to the reference, explained, failures) of outputs as CPU arrays."""
    expected = expected_outputs(problem, sampler.draw)
    same = (got[0] == expected[0]).all(1) & (got[1] == expected[1])
    if sampler.reports_status:
        same &= got[2] == expected[2]
    explained, failures = [], []
    for b in np.flatnonzero(~same):
        notes, wrong = _explain(sampler, problem, int(b), [array[b] for array in got], [array[b] for array in expected])
        explained += notes
        failures += wrong
    return int(same.sum()), explained, failures


_expected = {}  # draw -> (weak reference to a problem, its fingerprints, the reference's outputs): the last one of each


def expected_outputs(problem, draw):
    """The reference's outputs as CPU arrays. Kept while the problem lives and holds the same numbers: the reference is slow
    next to the samplers, of which many are checked on one problem. Do not write into them."""
    marks, kept = fingerprints(problem), _expected.get(draw)
    if kept is None or kept[0]() is not problem or kept[1] != marks:
        kept = _expected[draw] = weakref.ref(problem), marks, [tensor.numpy() for tensor in reference(problem, draw)]
    return kept[2]


def _explain(sampler, problem, b, got, expected):
    """(explained, failures) of request b, which differs from the reference somewhere."""
    tokens, accepted, status = got[0], int(got[1]), int(got[2])
    length, drafted = problem.draft_len[b], draft_tokens(problem, b)
    if not 0 <= accepted <= length:
        return [], [Mismatch(b, -1, "count", f"0..{length} (reference {expected[1]})", accepted)]
    for position in range(len(tokens)):
        if position < accepted and tokens[position] != drafted[position]:
            return [], [Mismatch(b, position, "copy", drafted[position], int(tokens[position]))]
        if position > accepted and tokens[position] != -1:
            return [], [Mismatch(b, position, "tail", -1, int(tokens[position]))]
    explained, failures, bits = [], [], 0
    for i in range(min(accepted + 1, length)):
        note, fine, bit = _explain_decision(problem, b, i, drafted[i], i < accepted)
        bits |= bit
        if note:
            (explained if fine else failures).append(note)
    if failures:
        return explained, failures[:1]
    note, fine, bit, free = _explain_draw(sampler, problem, b, accepted, int(tokens[accepted]))
    if note:
        (explained if fine else failures).append(note)
    want, free = bits | bit, free & ~bits
    if problem.kind == "logits" and explained:
        free |= ZERO_RESIDUAL  # a float32 softmax may round p - q to zero
    if sampler.reports_status and not failures and (status ^ want) & ~free:
        failures.append(Mismatch(b, -1, "status", want, status))
    return explained, failures


def _explain_decision(problem, b, i, token, got):
    """(mismatch or None, is it explained, status bits) of the accept test of position i, which came out as `got`."""
    u = uniform(problem, b, i, philox.ACCEPT)
    if not 0 <= token < problem.vocab:
        wrong = Mismatch(b, i, "decision", "rejected", "accepted", u, note=f"id {token} is outside [0, {problem.vocab})")
        return (wrong if got else None), False, BAD_TOKEN
    target, draft = float(target_row(problem, b, i)[token]), float(draft_row(problem, b, i)[token])
    bits = 0 if math.isfinite(target) and math.isfinite(draft) else NONFINITE
    want = accepts(u, target, draft)
    if want == got:
        return None, True, bits
    slack = decision_slack(problem, u, target, draft)
    fine = bool(usable(target) > 0) and abs(u * draft - target) <= slack
    interval = ((target - slack) / draft, (target + slack) / draft) if draft > 0 and not bits else None
    name = {True: "accepted", False: "rejected"}
    return Mismatch(b, i, "decision", name[want], name[got], u, interval, f"id {token}, target {target:.9g}, draft {draft:.9g}"), fine, bits


def _explain_draw(sampler, problem, b, accepted, got):
    """(mismatch or None, is it explained, status bits, those that rounding leaves open) of the recovered or bonus token `got` after
    `accepted` drafts."""
    weights, zero_residual, unusable = row_weights(problem, b, accepted)
    must = may = bool(unusable.any())
    bits = ZERO_RESIDUAL * zero_residual
    if not weights.any():
        return (None if got == -1 else Mismatch(b, accepted, "token", -1, got, note="no mass")), False, bits | NONFINITE * must | NO_MASS, 0
    error = weight_error(problem, b, accepted, weights)
    if problem.kind == "logits" and weights.sum() <= error.sum():
        # The residual is smaller than the softmax's own rounding: any id with target mass may come out.
        weights = error = usable(target_row(problem, b, accepted))
        must = must and sampler.draw != "propose"  # and behind any number of proposals
    elif sampler.draw == "propose" and may and not zero_residual:
        must, may = propose_meets(sampler, problem, b, accepted, got, weights, error, unusable)
    bits, free = bits | NONFINITE * must, NONFINITE * (may and not must)
    if not 0 <= got < len(weights):
        return Mismatch(b, accepted, "token", f"an id in [0, {len(weights)})", got), False, bits, free
    measure = {"cdf": cdf_interval, "race": race_interval, "propose": propose_interval}[sampler.draw]
    if sampler.draw == "propose" and zero_residual:
        measure = cdf_interval
    want, u, interval, fine = measure(sampler, problem, b, accepted, got, weights, error)
    if want == got:
        return None, True, bits, free
    mass = weights[got] + error[got] > 0
    note = "" if mass else "an id of weight zero"
    return Mismatch(b, accepted, "token", want, got, u, interval, note), bool(fine and mass), bits, free
