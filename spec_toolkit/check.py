"""Is it exact? Any sampler against the float64 reference, token by token, and against the exact output law.

`check` makes no use of a global tolerance. Sampler and reference share their random bits, so they give the same tokens
except where a decision or a draw lies so near a boundary that rounding decides. Each difference must therefore lie
inside its own rounding interval; then it is *explained* and reported, else it is a failure.

The intervals. Accept test: |u*q - p| <= 2^-22 p (float32 arithmetic instead of exact). cdf draw: u * total within
ulps * 2^-24 * total of the drawn token's own piece of the cumulative sum. race draw: the drawn token's score within
a relative ulps * 2^-24 of the best. Proposals: one that can give the drawn token, in the sense of the cdf draw, behind proposals
each of which can have been rejected. An id of weight zero is never explained. Logits: the reference takes the softmax in
float64, so each probability x may besides be off by 2^-22 (|log x| + log vocab + 8) x, the error of a float32 softmax.

`law_check` (law.py) needs no reference tokens: it compares how often each output occurs with the exact distribution.
A sampler with a generator of its own (`own_generator`: the peers) is checked so, and for its structure (structure.py).
"""
import contextlib
import html
import math
import weakref
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from . import philox
from .law import LawResult, law_check  # noqa: F401  (found here as well: both are checks)
from .problem import BAD_TOKEN, NO_MASS, NONFINITE, ZERO_RESIDUAL
from .reference import PROPOSALS, accepts, cdf_draw, draft_row, proposal_uniforms, propose, reference, residual, row_weights, target_row, usable
from .reference import draft_tokens as drafted_ids
from .structure import own_law, poisoned_memory, structure

SENTINEL = -1717986919  # no token, count or status has this value
DECISION_TOLERANCE = 2.0**-22
ULP = 2.0**-24
SHOWN = 5


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


@dataclass(frozen=True)
class CheckResult:
    """What `check` found. True if passed; prints on one screen; `to_dict` is JSON-able."""
    sampler: str
    problem: str
    requests: int
    exact: int                # requests equal to the reference in every element compared
    explained: list = field(default_factory=list)  # of Mismatch
    failures: list = field(default_factory=list)   # of Mismatch and str
    poison: str = "all written"
    inputs: str = "unchanged"
    status_compared: bool = True
    law: LawResult | None = None  # given: the sampler has a generator of its own, no token was compared; exact = well formed

    @property
    def passed(self):
        return not self.failures

    def __bool__(self):
        return self.passed

    def __str__(self):
        what = f"exact, {len(self.explained)} explained" if self.law is None else "well formed"
        line = (f"{'PASS' if self else 'FAIL'} {self.sampler}: {self.exact} of {self.requests} requests {what}; "
                f"outputs {self.poison}; inputs {self.inputs}{'' if self.status_compared else '; status not reported'}")
        if self.law is not None:
            line += f"; law not compared token by token; structure only, and on a small problem: {self.law}"
        more = len(self.failures) - SHOWN
        return "\n  ".join([line, *map(str, self.failures[:SHOWN]), *([f"... and {more} more"] if more > 0 else [])])

    def _repr_html_(self):
        colour = "#2a7d2a" if self else "#b00020"
        return f'<pre style="color:{colour}">{html.escape(str(self))}</pre>'

    def to_dict(self):
        """A JSON-able dict; the lists are cut to their first 20 entries, their lengths are kept."""
        def plain(entries):
            return [entry if isinstance(entry, str) else asdict(entry) for entry in entries[:20]]
        return {"passed": self.passed, "sampler": self.sampler, "problem": self.problem, "requests": self.requests,
                    "exact": self.exact, "explained_count": len(self.explained), "explained": plain(self.explained),
                    "failure_count": len(self.failures), "failures": plain(self.failures), "poison": self.poison,
                    "inputs": self.inputs, "status_compared": self.status_compared,
                    "compared": "tokens" if self.law is None else "structure and law",
                    "law": None if self.law is None else self.law.to_dict()}


def check(sampler, problem, strict=False, own=None):
    """Run `sampler` twice on `problem` through one bound call and compare with the reference; -> CheckResult.

    In place of a problem, the name of a level of the suite: all of it, with laws and edges; -> Report (examine.py).

    The outputs are filled with a sentinel before each call: every element must be written, and both calls must agree
    (a scratch buffer that is not reset shows up here). All input tensors are hashed before and after, their whole
    storage included, so a write into the padding of a row is seen. Errors of the sampler itself are raised.
    strict: no difference is explained by rounding (for problems whose numbers leave it no room).

    A sampler with `own_generator` cannot be compared so: its outputs must be ones that the rule can produce, and follow
    the exact law on a small problem with as many drafts (structure.py; `CheckResult.law`). Its calls may differ.
    own: a LawResult to take for that one (the suite has its own laws).
    """
    if isinstance(problem, str):
        from .examine import examine
        return examine(sampler, problem)
    before = fingerprints(problem)
    got, poison, failures = _run_poisoned(sampler, problem)
    changed = [name for name, mark in fingerprints(problem).items() if mark != before[name]]
    failures += [f"inputs changed: {name}" for name in changed]
    exact, explained, law = 0, [], None
    if getattr(sampler, "own_generator", False):
        wrong = [] if got is None else structure(problem, got)
        exact, law = problem.batch - len(wrong) if got is not None else 0, own_law(sampler, problem) if own is None else own
        failures = wrong + failures + ([] if law else ["law: " + str(law)])
    elif got is not None:
        exact, explained, wrong = compare(sampler, problem, got)
        explained, wrong = ([], wrong + explained) if strict else (explained, wrong)
        failures = wrong + failures
    return CheckResult(sampler.name, repr(problem), problem.batch, exact, explained, failures, poison,
                       f"CHANGED ({', '.join(changed)})" if changed else "unchanged", bool(sampler.reports_status), law)


# ---- running it --------------------------------------------------------------------------------------------------------

def input_tensors(problem):
    """name -> tensor of every tensor that a problem holds."""
    return {name: value for name, value in vars(problem).items() if isinstance(value, torch.Tensor)}


def fingerprints(problem):
    """name -> `fingerprint` of every tensor that a problem holds."""
    return {name: fingerprint(tensor) for name, tensor in input_tensors(problem).items()}


def fingerprint(tensor, chunk=1 << 22):
    """64-bit hash of a tensor's whole storage, padding included, computed where the tensor lives.

    A sum of 32-bit words times odd multipliers modulo 2^64: a change of one word changes it for certain.
    """
    storage = tensor.untyped_storage()
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
    if flat.numel() % 4 == 0:
        flat = flat.view(torch.int32)
    index = torch.arange(min(chunk, flat.numel()), device=tensor.device)
    factors, total = _mixed(index) | 1, flat.numel()
    for start in range(0, flat.numel(), chunk):
        part = flat[start:start + chunk].long()
        total = (total * 6364136223846793005 + int((part * factors[:part.numel()]).sum())) % 2**64
    return total


def _mixed(index):
    x = (index + 1) * 0x1E3779B97F4A7C15  # wraps around, as intended
    return (x ^ (x >> 29)) * 0x3F58476D1CE4E5B9


def _run_poisoned(sampler, problem):
    """(outputs of the first call as CPU arrays or None, what the poison showed, failures)."""
    call = sampler.bind(problem)
    runs, failures, poison = [], [], "all written"
    own = getattr(sampler, "own_generator", False)  # a peer: its status is a constant, its second call may differ
    for _ in range(2):
        for tensor in call.outputs[:2 if own else 3]:
            tensor.fill_(SENTINEL)
        with poisoned_memory() if getattr(sampler, "fresh_outputs", False) else contextlib.nullcontext():
            outputs = call()
        if wrong := _wrong_shape(problem, call, outputs):
            return None, "not usable", [wrong]
        runs.append([tensor.cpu().numpy().copy() for tensor in outputs])
    left = {name: int((array == SENTINEL).sum()) for name, array in zip(("out_tokens", "num_accepted", "status"), runs[0])}
    if any(left.values()):
        poison = "NOT all written"
        failures.append("elements left unwritten: " + ", ".join(f"{n} of {name}" for name, n in left.items() if n))
    if not own and not all(np.array_equal(first, second) for first, second in zip(*runs)):
        failures.append("a second call on the same inputs gave other outputs")
    return runs[0], poison, failures


def _wrong_shape(problem, call, outputs):
    shapes = [(problem.batch, problem.max_draft + 1), (problem.batch,), (problem.batch,)]
    for name, shape, tensor, bound in zip(("out_tokens", "num_accepted", "status"), shapes, outputs, call.outputs):
        if tuple(tensor.shape) != shape or tensor.dtype != torch.int32 or tensor.device != problem.device:
            return (f"{name}: got {list(tensor.shape)} {tensor.dtype} on {tensor.device}, "
                    f"expected {list(shape)} torch.int32 on {problem.device}")
        if tensor.data_ptr() != bound.data_ptr():
            return f"{name}: the call returned another tensor than its own outputs, so unwritten elements could not be seen"
    return None


# ---- comparing ---------------------------------------------------------------------------------------------------------

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
    length, drafted = problem.draft_len[b], drafted_ids(problem, b)
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
    note, fine, bit = _explain_draw(sampler, problem, b, accepted, int(tokens[accepted]))
    if note:
        (explained if fine else failures).append(note)
    want = bits | bit
    free = ZERO_RESIDUAL if problem.kind == "logits" and explained else 0  # a float32 softmax may round p - q to zero
    if sampler.reports_status and not failures and (status ^ want) & ~free:
        failures.append(Mismatch(b, -1, "status", want, status))
    return explained, failures


def _explain_decision(problem, b, i, token, got):
    """(mismatch or None, is it explained, status bits) of the accept test of position i, which came out as `got`."""
    u = _uniform(problem, b, i, philox.ACCEPT)
    if not 0 <= token < problem.vocab:
        wrong = Mismatch(b, i, "decision", "rejected", "accepted", u, note=f"id {token} is outside [0, {problem.vocab})")
        return (wrong if got else None), False, BAD_TOKEN
    target, draft = float(target_row(problem, b, i)[token]), float(draft_row(problem, b, i)[token])
    bits = 0 if math.isfinite(target) and math.isfinite(draft) else NONFINITE
    want = accepts(u, target, draft)
    if want == got:
        return None, True, bits
    slack = DECISION_TOLERANCE * target
    if problem.kind == "logits":
        slack = _softmax_error(target, problem) + (0.0 if problem.draft is None else u * _softmax_error(draft, problem))
    fine = bool(usable(target) > 0) and abs(u * draft - target) <= slack
    interval = ((target - slack) / draft, (target + slack) / draft) if draft > 0 and not bits else None
    name = {True: "accepted", False: "rejected"}
    return Mismatch(b, i, "decision", name[want], name[got], u, interval, f"id {token}, target {target:.9g}, draft {draft:.9g}"), fine, bits


def _explain_draw(sampler, problem, b, accepted, got):
    """(mismatch or None, is it explained, status bits) of the recovered or bonus token `got` after `accepted` drafts."""
    weights, zero_residual, nonfinite = row_weights(problem, b, accepted)
    bits = ZERO_RESIDUAL * zero_residual | NONFINITE * nonfinite
    if not weights.any():
        return (None if got == -1 else Mismatch(b, accepted, "token", -1, got, note="no mass")), False, bits | NO_MASS
    error = _weight_error(problem, b, accepted, weights)
    if problem.kind == "logits" and weights.sum() <= error.sum():
        # The residual is smaller than the softmax's own rounding: any id with target mass may come out.
        weights = error = usable(target_row(problem, b, accepted))
    if not 0 <= got < len(weights):
        return Mismatch(b, accepted, "token", f"an id in [0, {len(weights)})", got), False, bits
    measure = {"cdf": _cdf_interval, "race": _race_interval, "propose": _propose_interval}[sampler.draw]
    if sampler.draw == "propose" and zero_residual:
        measure = _cdf_interval
    want, u, interval, fine = measure(sampler, problem, b, accepted, got, weights, error)
    if want == got:
        return None, True, bits
    mass = weights[got] + error[got] > 0
    note = "" if mass else "an id of weight zero"
    return Mismatch(b, accepted, "token", want, got, u, interval, note), bool(fine and mass), bits


def _cdf_interval(sampler, problem, b, accepted, got, weights, error):
    """(expected id, u, interval of u that explains `got`, is u inside)."""
    u = _uniform(problem, b, accepted, philox.RECOVER)
    cumulative = np.cumsum(weights)
    total, last = cumulative[-1], int(np.flatnonzero(weights)[-1])
    want = min(int(np.searchsorted(cumulative, u * total, side="right")), last)
    slack = sampler.ulps * ULP * total + error.sum()
    low = ((cumulative[got - 1] if got else 0.0) - slack) / total
    high = (cumulative[got] + slack) / total
    return want, u, (float(low), float(high)), low <= u <= high


def _propose_interval(sampler, problem, b, accepted, got, weights, error):
    """(expected id, u and its interval of the first proposal that can give `got`, is there one); the cdf draw's if none can."""
    seed, position = int(problem.seeds[b]), int(problem.positions[b])
    target = usable(target_row(problem, b, accepted))
    cumulative, target_error = np.cumsum(target), _softmax_error(target, problem) if problem.kind == "logits" else np.zeros_like(target)
    total, slack = cumulative[-1], sampler.ulps * ULP * cumulative[-1] + target_error.sum()
    want = propose(target, weights, seed, position)
    for k in range(PROPOSALS):
        draw, keep = proposal_uniforms(seed, position, k)
        edges = lambda token: ((cumulative[token - 1] if token else 0.0) / total, cumulative[token] / total)
        room = lambda token: keep * target_error[token] + error[token] + ULP * target[token]
        low, high = edges(got)[0] - slack / total, edges(got)[1] + slack / total
        if low <= draw <= high and keep * target[got] < weights[got] + room(got):
            return want, draw, (float(low), float(high)), True
        token = cdf_draw(target, draw)
        inside = edges(token)[0] + slack / total < draw < edges(token)[1] - slack / total
        if inside and keep * target[token] < weights[token] - room(token):  # this proposal is kept, whatever the rounding
            return want, draw, None, False
    cdf, u, interval, fine = _cdf_interval(sampler, problem, b, accepted, got, weights, error)
    return cdf if want < 0 else want, u, interval, fine


def _race_interval(sampler, problem, b, accepted, got, weights, error):
    """(expected id, None, interval of the score that explains `got`, is its score inside)."""
    noise = philox.race_noise(int(problem.seeds[b]), int(problem.positions[b]), np.arange(len(weights), dtype=np.int64))
    score = weights / noise
    floor = float(((weights - error) / noise).max()) * (1 - sampler.ulps * ULP)
    own = (weights[got] + error[got]) / noise[got]
    return int(np.argmax(score)), None, (floor, float(score.max())), own >= floor


def _weight_error(problem, b, accepted, weights):
    """How far each weight may be off, float64 [vocab]: zero for stored probabilities, which are read exactly."""
    if problem.kind == "probs":
        return np.zeros_like(weights)
    target = target_row(problem, b, accepted)
    error = _softmax_error(target, problem)
    if accepted == problem.draft_len[b]:
        return np.where(weights > 0, error, 0.0)
    draft = draft_row(problem, b, accepted).astype(np.float64)
    error = error + (_softmax_error(draft, problem) if problem.draft is not None else 0.0)
    return np.where((weights > 0) | (np.abs(target - draft) <= error) & (residual(target, draft) == 0), error, 0.0)


def _softmax_error(x, problem):
    x = np.nan_to_num(np.asarray(x, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return DECISION_TOLERANCE * x * (np.abs(np.log(np.maximum(x, 1e-300))) + math.log(problem.vocab) + 8)


def _uniform(problem, b, index, stream):
    words = philox.random_words(int(problem.seeds[b]), int(problem.positions[b]), stream, index)
    return float(philox.uniform23(words[0]) if stream == philox.ACCEPT else philox.uniform52(*words[:2]))
