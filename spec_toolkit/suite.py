"""The exactness grid: small problems at the edges where samplers go wrong, used by the tests and by `spec-toolkit gpu`.

Levels, each holding the one before: "few" (for a sampler that compiles anew for every shape), "quick" (seconds on the
CPU executor), "thorough" (128256 ids, every dtype with every acceptance; for a GPU).
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch

from .check import CheckResult, check
from .problem import MAX_DRAFT, ROW_DTYPES, Problem
from .synthetic import make_problem

LEVELS = ("few", "quick", "thorough")
RAGGED = [3, 0, 1, 5]
VOCABS = (1, 2, 31, 32, 33, 127, 129, 1023, 1025)
EDITED = {"batch": 8, "draft_len": [2, 1, 3, 2, 2, 0, 4, 2], "vocab": 65}


def cases(level: str = "quick", device="cpu", kind: str = "probs") -> list[tuple[str, Problem]]:
    """(name, problem) of every case of a level, made on `device`; kind: "probs" or "logits". ValueError otherwise."""
    return list(_cases(level, device, kind))


def run_suite(sampler, level: str = "quick", device="cpu", kind: str = "probs") -> list[tuple[str, CheckResult]]:
    """`check` of every case, in order; one problem is held at a time. A case that raises is a failed one.

    A sampler with a generator of its own (a peer) may refuse a problem by ValueError or TypeError: that case is left out.
    """
    found = []
    for name, problem in _cases(level, device, kind):
        try:
            found.append((name, check(sampler, problem)))
        except Exception as error:  # a suite goes on, and says so
            if not (getattr(sampler, "own_generator", False) and isinstance(error, (ValueError, TypeError))):
                found.append((name, _raised(sampler, problem, error)))
    return found


def check_each(samplers, problem) -> list[CheckResult]:
    """One `check` for each sampler on the same problem; of one that raises, a failed result that says why."""
    found = []
    for sampler in samplers:
        try:
            found.append(check(sampler, problem))
        except Exception as error:
            found.append(_raised(sampler, problem, error))
    return found


def table(checks) -> str:
    """A Markdown table of CheckResults, one row each."""
    rows = [f"| {c.sampler} | {'PASS' if c else 'FAIL'} | {c.exact} of {c.requests} | {len(c.explained)} | "
            f"{str(c.failures[0]).splitlines()[0][:200] if c.failures else ''} |" for c in checks]
    return "\n".join(["| sampler | check | requests exact | explained by rounding | first failure |", "|---|---|---:|---:|---|", *rows])


def _raised(sampler, problem, error) -> CheckResult:
    return CheckResult(sampler.name, repr(problem), problem.batch, 0, failures=[f"{type(error).__name__}: {error}"],
                       poison="not checked", inputs="not checked", status_compared=bool(sampler.reports_status))


def _cases(level: str, device, kind: str) -> Iterator[tuple[str, Problem]]:
    if level not in LEVELS or kind not in ("probs", "logits"):
        raise ValueError(f"level={level!r}, kind={kind!r}: accepted are levels {', '.join(LEVELS)} and kinds probs, logits")
    reached = LEVELS.index(level)
    for lowest, name, edit, arguments in _listed(kind):
        if LEVELS.index(lowest) <= reached:
            problem = make_problem(device=device, logits=kind == "logits", **{"seed": len(name), **arguments})
            yield name, edit(problem) if edit else problem


def _case(lowest, name, edit=None, batch=4, draft_len=RAGGED, vocab=33, **arguments):
    return lowest, name, edit, {"batch": batch, "draft_len": draft_len, "vocab": vocab, **arguments}


def _listed(kind: str) -> Iterator[tuple]:
    """(lowest level, name, edit or None, arguments of make_problem)."""
    yield _case("few", "vocab 33, ragged")
    yield _case("few", "all rejected, bfloat16", acceptance=0.0, dtype=torch.bfloat16)
    yield _case("few", "one-hot drafts", draft_probs=False)
    if kind == "logits":
        yield _case("few", "temperatures 0 to 2", batch=5, draft_len=3, vocab=129, temperature=[0.0, 1.0, 0.5, 2.0, 0.0])
    yield from _sizes()
    for name, edit in EDITS.items():
        for lowest, dtype in (("quick", torch.float32), ("thorough", torch.float16), ("thorough", torch.bfloat16)):
            suffix = "" if lowest == "quick" else f", {str(dtype)[6:]}"
            yield _case(lowest, name + suffix, edit, **EDITED, acceptance=EDIT_ACCEPTANCE.get(name, 0.9), dtype=dtype)
    for name in ("bad ids", "misaligned rows", "subnormal entries", "NaN and inf"):
        yield _case("quick", f"{name}, one-hot drafts", EDITS[name], **EDITED, draft_probs=False)
    for vocab, dtype, acceptance in product((*VOCABS, 4096), ROW_DTYPES, (0.0, 0.7, 1.0)):
        name = f"vocab {vocab}, {str(dtype)[6:]}, acceptance {acceptance}"
        yield _case("thorough", name, vocab=vocab, dtype=dtype, acceptance=acceptance, row_padding=3)
    for vocab, dtype in product((32000, 128256), ROW_DTYPES):
        for extra in ({}, {"draft_probs": False}, {"shape": "flat"}, {"row_padding": 1}):
            name = f"vocab {vocab}, {str(dtype)[6:]}" + "".join(f", {key} {value}" for key, value in extra.items())
            yield _case("thorough", name, vocab=vocab, dtype=dtype, **extra)
    yield _case("thorough", "batch 300", batch=300, draft_len=5, vocab=1000)


def _sizes() -> Iterator[tuple]:
    for vocab in VOCABS:
        yield _case("quick", f"vocab {vocab}", vocab=vocab)
        yield _case("quick", f"vocab {vocab}, one-hot drafts", vocab=vocab, draft_probs=False, acceptance=0.4)
    yield _case("quick", "vocab 32000", batch=2, draft_len=2, vocab=32000)
    for dtype, acceptance in product(ROW_DTYPES, (0.0, 1.0)):
        name = f"{'all accepted' if acceptance else 'all rejected'}, {str(dtype)[6:]}, padded"
        yield _case("quick", name, batch=3, draft_len=4, vocab=127, acceptance=acceptance, dtype=dtype, row_padding=5)
    for shape in ("peaked", "flat"):
        yield _case("quick", f"shape {shape}", batch=8, draft_len=4, vocab=129, shape=shape)
    for batch in (0, 1, 67):
        yield _case("quick", f"batch {batch}", batch=batch, draft_len=3)
    yield _case("quick", "no drafts at all", batch=3, draft_len=0)
    yield _case("quick", f"K {MAX_DRAFT}", batch=2, draft_len=MAX_DRAFT, vocab=17, acceptance=0.99)
    yield _case("quick", f"K {MAX_DRAFT}, all accepted", batch=2, draft_len=[MAX_DRAFT, MAX_DRAFT - 1], vocab=17, acceptance=1.0)


# ---- edits: each gives a problem with something awkward in it; a row index is a row of the flat layout ---------------

def _set(problem, rows, row, ids, value):
    """rows[row, ids] = value; `value` is a probability, stored as its logarithm where the rows are logits."""
    if rows is not None:
        value = torch.tensor(value, device=rows.device)
        rows[row, ids] = (value if problem.kind == "probs" or not value.isfinite() else value.log()).to(rows.dtype)


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


def _misaligned(stride_of):
    """The rows copied to one element past an aligned address, `stride_of(vocab)` elements apart."""
    def moved(rows):
        if rows is None:
            return None
        count, vocab = rows.shape
        storage = torch.full((count * stride_of(vocab) + 1,), 3e4, dtype=rows.dtype, device=rows.device)
        view = storage[1:].view(count, stride_of(vocab))[:, :vocab]
        return view.copy_(rows)
    return lambda problem: replace(problem, **{f"target_{problem.kind}": moved(problem.target), f"draft_{problem.kind}": moved(problem.draft)})


EDITS = {"bad ids": _bad_ids, "NaN and inf": _nonfinite, "zero residual": _zero_residual, "empty rows": _empty_rows,
         "one-hot rows": _one_hot_rows, "subnormal entries": _subnormal, "misaligned rows": _misaligned(lambda vocab: vocab),
         "misaligned rows, even stride": _misaligned(lambda vocab: -(-vocab // 16) * 16)}
EDIT_ACCEPTANCE = {"zero residual": 1.0, "misaligned rows": 0.5, "misaligned rows, even stride": 0.5}
