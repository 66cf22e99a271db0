"""Problems that nobody thought of: Hypothesis draws them, `check` judges them, and a counter-example shrinks to one line.

    print(fuzz(load_sampler("v5"), examples=200))       # a few seconds on the CPU executor
    spec-toolkit fuzz v5 --minutes 5 --device cuda

A problem is drawn as the arguments of `suite.made`: batch and ragged lengths, vocabulary round the sizes of a warp, a tile
and a block, dtype, padding, shape, acceptance, temperatures, and one of the edits. Each is checked as the suite's cases
are, and one random re-batching of it must leave every request its tokens; on the CPU executor blocks that take turns, too. A failure
that does not come back is reported as one. Needs Hypothesis (the `dev` extra).
"""
from __future__ import annotations

import time
from dataclasses import dataclass

from .check import check
from .edges import EDITS, LOGITS_ONLY
from .ends import EDITS as ENDS
from .law import LawResult
from .probes import rebatched, reordered
from .problem import ROW_DTYPES
from .suite_cases import made, reproduction

ROUND = 250           # examples between two looks at the clock
DEEPEST = 40          # drafts of a request: past the 32 that a warp tests at once
NEEDS_SIX = ("NaN and inf", "empty rows", "subnormal entries")  # edits that name requests 0 to 5


class NeedsHypothesis(ImportError):
    """Hypothesis is not installed."""


@dataclass(frozen=True)
class Fuzzed:
    """What `fuzz` found. True if nothing. counterexample: Python that makes the smallest problem that failed."""
    sampler: str
    kind: str
    device: str
    seed: int
    examples: int
    refused: int            # problems that a peer does not take
    seconds: float
    counterexample: str = ""
    failure: str = ""

    def __bool__(self):
        return not self.counterexample

    def __str__(self):
        line = (f"{'PASS' if self else 'FAIL'} {self.sampler}: {self.examples} random problems of {self.kind} on {self.device}, "
                f"seed {self.seed}, {self.seconds:.1f} s" + (f", {self.refused} of them refused" if self.refused else ""))
        return line if self else f"{line}\n  problem = {self.counterexample}   # from spec_toolkit.suite import made\n  {self.failure}"


class _Counterexample(Exception):
    pass


def fuzz(sampler, examples=200, minutes=None, device="cpu", seed=0, kind=None) -> Fuzzed:
    """Check `sampler` on random problems, until one fails: `examples` of them, or for `minutes`. The same seed draws the same
    problems. kind: "probs" or "logits", None = what the sampler takes. NeedsHypothesis if that is not installed."""
    began, kind = time.perf_counter(), kind or getattr(sampler, "input", "probs")
    tally, found, turn = {"examples": 0, "refused": 0}, ("", ""), 0
    while not found[0] and (turn == 0 or minutes and time.perf_counter() - began < 60 * minutes):
        found = _round(sampler, ROUND if minutes else examples, device, seed + turn, kind, tally)
        turn += 1
    return Fuzzed(sampler.name, kind, str(device), seed, tally["examples"], tally["refused"], time.perf_counter() - began, *found)


def _round(sampler, examples, device, seed, kind, tally):
    """(counter-example, failure), both empty if there is none."""
    hypothesis, last = _hypothesis(), ("", "")

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=examples, deadline=None, database=None, report_multiple_bugs=False, print_blob=False,
                         suppress_health_check=list(hypothesis.HealthCheck), verbosity=hypothesis.Verbosity.quiet)
    @hypothesis.given(drawn(kind))
    def run(pair):
        nonlocal last
        tally["examples"] += 1
        if why := judged(sampler, *pair, device=device, tally=tally):
            last = reproduction(*pair), why
            raise _Counterexample(*last)
    try:
        run()
    except _Counterexample as error:
        return error.args
    except hypothesis.errors.Flaky:
        return last[0], f"{last[1]} (now and then: the same problem also passed)"
    return "", ""


def judged(sampler, edit, arguments, device="cpu", tally=None) -> str:
    """Why `sampler` fails on made(edit, **arguments), or ""."""
    own = getattr(sampler, "own_generator", False)
    problem = made(edit, device=device, **arguments)
    try:
        result = check(sampler, problem, own=LawResult(sampler.name, 0, 0, 0.0, 1.0, 0.0, 1.0, 0.99) if own else None)
        if not result:
            return str(result.failures[0])
        moved = rebatched(sampler, problem, 1, arguments["seed"]) if problem.batch and not own else []
        if moved:
            return f"re-batched: {moved[0]}"
        if getattr(sampler, "kind", None) != "kernel" or problem.device.type != "cpu":
            return ""
        return next(iter(reordered(sampler, problem, (("interleaved", arguments["seed"]),))), "")
    except Exception as error:  # noqa: BLE001 (a kernel that faults is what we look for)
        if own and isinstance(error, (ValueError, TypeError)):
            if tally is not None:
                tally["refused"] += 1
            return ""
        return f"{type(error).__name__}: {error}"


def drawn(kind="probs"):
    """The strategy: (edit or None, arguments of make_problem)."""
    st = _hypothesis().strategies
    logits = kind == "logits"
    edits = [None, None, *(name for name in EDITS if name not in ENDS and (logits or name not in LOGITS_ONLY))]
    sizes = st.one_of(st.integers(1, 70), st.integers(120, 140), st.integers(500, 530), st.integers(1000, 1100), st.integers(2040, 2060),
                      st.integers(4090, 4110))
    heat = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0625, 20.0, width=32))

    @st.composite
    def pairs(draw):
        edit = draw(st.sampled_from(edits))
        least = 1 if edit in NEEDS_SIX else 0
        lengths = draw(st.lists(st.integers(least, 6), min_size=6 * least, max_size=9))
        lengths = (lengths + draw(st.sampled_from([[], [], [], [DEEPEST]]))) * draw(st.sampled_from([1, 1, 1, 1, 8]))
        rows = edit == "draft rows further apart" or draw(st.booleans())
        words = {"batch": len(lengths), "draft_len": lengths, "vocab": max(draw(sizes), 4 * least),
                 "acceptance": draw(st.sampled_from([0.0, 0.3, 0.7, 0.95, 1.0])),
                 "shape": draw(st.sampled_from(["zipf", "peaked", "flat"])), "dtype": draw(st.sampled_from(ROW_DTYPES)),
                 "row_padding": draw(st.sampled_from([0, 0, 1, 3, 8])), "draft_probs": rows, "seed": draw(st.integers(0, 2**31))}
        if logits:
            words |= {"logits": True, "temperature": draw(st.lists(heat, min_size=len(lengths), max_size=len(lengths)))}
            if rows and draw(st.booleans()) and edit is None:
                words["draft_lse"] = True
        return edit, words
    return pairs()


def _hypothesis():
    try:
        import hypothesis
        import hypothesis.strategies
    except ImportError as error:
        raise NeedsHypothesis("hypothesis is not installed: pip install 'spec-toolkit[dev]', or pip install hypothesis") from error
    return hypothesis


__all__ = ["Fuzzed", "NeedsHypothesis", "drawn", "fuzz", "judged"]
