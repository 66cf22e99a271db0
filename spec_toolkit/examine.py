"""`examine`: everything that can be asked of a sampler, in four parts: tokens, law, edges, poison.

    print(examine(load_sampler("v1")))            # one screen: PASS or FAIL, and why
    examine(load_sampler(source=text), "thorough", device="cuda")

tokens   the grid of shapes: each token the reference's, each difference explained by its own rounding interval
law      chi-square against the exact law, jointly and per position; the laws share the report's false-alarm rate, the
         only chance in it (the rest repeats bit for bit)
edges    named cases (edges.py, ends.py), and a request that moves between batches
poison   outputs filled before each call, guard zones, inputs hashed, a second call, other thread orders, blocks that take turns, changed inputs
"""
from __future__ import annotations

import time

import numpy as np
import torch

from . import suite
from .check import CheckResult
from .law import LawResult, law_check
from .probes import probe
from .structure import law_rows
from .verdict import Report, raised

ALPHA = 1e-3      # false alarms of a report: one exact sampler in a thousand (with seeds of its own) fails
OWN_ALPHA = 1e-6  # of a sampler with its own generator, whose false alarm could not be repeated
POWER = 0.99
DRAWS = {"few": 3_000, "quick": 6_000, "thorough": 2_000_000}
REBATCHINGS = {"few": 4, "quick": 8, "thorough": 1000}
SLOW_DRAWS, SLOW_REBATCHINGS = 20_000, 50  # at most, of a sampler that costs the better part of a millisecond per request
FATAL = ("zero residual", "target = draft", "empty rows", "NaN and inf", "odd probabilities", "one-hot rows", "draft row not as its draft_lse")
SEEDS_APART = 1 << 32  # between the seeds of two laws


def examine(sampler, level="quick", device=None, seed=0, draws=None, rebatchings=None, kind=None) -> Report:
    """Every case, law and probe of a level ("few", "quick", "thorough"); -> Report. ValueError for another level.

    device: None = a GPU where there is one. seed: another one gives other problems and other draws of the same kind.
    draws, rebatchings: None = those of the level, fewer for a slow sampler. kind: "probs" or "logits", None = what it takes.

    A sampler with its own generator is given problems with one draft length for all, since no library here takes a ragged
    batch; those on which it may abort the GPU's context come last.
    """
    began = time.perf_counter()
    device, kind = str(device or ("cuda" if torch.cuda.is_available() else "cpu")), kind or getattr(sampler, "input", "probs")
    cases, own = suite.listed(level := suite.level_for(sampler, level), kind), bool(getattr(sampler, "own_generator", False))
    most_draws, most_moves = effort(sampler, level)
    laws, refused = examine_laws(sampler, level, device, seed, draws or most_draws, kind)
    found = probe(sampler, device, seed, most_moves if rebatchings is None else rebatchings, kind)
    if own:
        cases = sorted((case.rectangular() for case in cases), key=lambda case: case.edit in FATAL)
    results, unrun = _run(sampler, cases, device, seed, own)
    guarded = getattr(sampler, "kind", None) == "kernel" and device == "cpu"
    return Report(sampler.name, getattr(sampler, "source_hash", None), sampler.draw, level, device, seed, time.perf_counter() - began,
                  results, laws, found, unrun + refused, own, guarded, kind)


def _run(sampler, cases, device, seed, own):
    """([(case, CheckResult)], [(case, why it was not run)])."""
    results, unrun = [], []
    words = {"own": LawResult(sampler.name, 0, 0, 0.0, 1.0, 0.0, 1.0, POWER)} if own else {}  # for the law that `check` would test
    for number, case in enumerate(cases):
        outcome = suite.unfit(case, device) or suite.run_case(sampler, case, device, seed, **words)
        results.append((case, outcome)) if isinstance(outcome, CheckResult) else unrun.append((case.name, outcome))
        if isinstance(outcome, CheckResult) and raised(outcome) and _context_lost(device):
            return results, unrun + [(after.name, f"the GPU's context was lost in {case.name!r}") for after in cases[number + 1:]]
    return results, unrun


def _context_lost(device) -> bool:
    """An error on the GPU that every later call of the process meets again."""
    try:
        torch.zeros(1, device=device).item()
    except Exception:  # noqa: BLE001 (whatever it is, no case can run)
        return True
    return False


def effort(sampler, level) -> tuple[int, int]:
    """(draws of each law, re-batchings) of a level: fewer for the slow."""
    slow = sampler.name.endswith("python_loop") or getattr(sampler, "law_draws", SLOW_DRAWS) < SLOW_DRAWS
    draws, moves = DRAWS[level], REBATCHINGS[level]
    return (min(draws, getattr(sampler, "law_draws", SLOW_DRAWS), SLOW_DRAWS), min(moves, SLOW_REBATCHINGS)) if slow else (draws, moves)


def laws(level="quick", kind="probs") -> dict:
    """name -> arguments of `law_check`, without draws and alpha."""
    random = np.random.default_rng(5)
    even = lambda count, vocab: (random.dirichlet(np.full(vocab, 2.0), count)).astype(np.float32)
    peaked = np.float32(0.5) ** np.arange(1, 1026, dtype=np.float32)[None] ** np.float32(0.5)
    target, draft, tokens = law_rows(2, 16)
    found = {
        "drafts drawn, 3 ids": {"target_rows": even(2, 3), "draft_rows": even(1, 3)},
        "two drafts, 16 ids": {"target_rows": target, "draft_rows": draft, "draft_tokens": tokens},
        "one-hot draft, 4 ids": {"target_rows": even(2, 4), "draft_tokens": [2]},
        "bonus row, 1025 ids": {"target_rows": peaked / peaked.sum()},
    }
    if level == "thorough":
        for dtype in (torch.float16, torch.bfloat16) if kind == "probs" else ():
            found[f"two drafts, 16 ids, {str(dtype)[6:]}"] = {**found["two drafts, 16 ids"], "dtype": dtype}
        target, draft, tokens = law_rows(1, 2049)
        found["one draft, 2049 ids"] = {"target_rows": target, "draft_rows": draft, "draft_tokens": tokens}
        found["three drafts drawn, 4 ids"] = {"target_rows": even(4, 4), "draft_rows": even(3, 4)}
    return {name: {**arguments, "kind": kind} for name, arguments in list(found.items())[:2 if level == "few" else None]}


def examine_laws(sampler, level, device, seed, draws=None, kind="probs"):
    """(LawResults, [(law, why a peer refuses it)]). alpha is shared evenly."""
    chosen, done, refused = laws(level, kind), [], []
    own = getattr(sampler, "own_generator", False)
    count = draws or effort(sampler, level)[0]
    for number, (name, arguments) in enumerate(chosen.items()):
        try:
            done.append(law_check(sampler, **arguments, draws=count, alpha=(OWN_ALPHA if own else ALPHA) / len(chosen), power=POWER,
                                  seed=seed * SEEDS_APART * 64 + number * SEEDS_APART, device=device, name=name))
        except Exception as error:  # noqa: BLE001 (what a peer refuses is said; what a kernel raises is a failure)
            if own and isinstance(error, (ValueError, TypeError)):
                refused.append((f"law: {name}", str(error)))
            else:
                done.append(_unlawful(sampler, name, error))
    return done, refused


def _unlawful(sampler, name, error):
    return LawResult(sampler.name, 0, 0, 0.0, 0.0, 1e-300, 1.0, POWER, [], [], f"{name} ({type(error).__name__}: {str(error)[:300]})")
