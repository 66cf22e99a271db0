"""`examine`: everything that can be asked of a sampler, in four parts: tokens, law, edges, poison.

    print(examine(load_sampler("v1")))            # one screen: PASS or FAIL, and why
    examine(load_sampler(source=text), "thorough", device="cuda")

tokens   the grid of shapes: each token the reference's, each difference explained by its own rounding interval
law      chi-square against the exact law, jointly and per position; the laws share the report's false-alarm rate, the
         only chance in it (the rest repeats bit for bit)
edges    named cases (edges.py, ends.py), and a request that moves between batches
poison   outputs filled before each call, guard zones, inputs hashed, a second call, other thread orders, changed inputs
"""
from __future__ import annotations

import html
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from . import suite
from .check import CheckResult, Mismatch
from .law import LawResult, law_check
from .probes import is_move, probe
from .structure import law_rows

ALPHA = 1e-3      # false alarms of a report: one exact sampler in a thousand (with seeds of its own) fails
OWN_ALPHA = 1e-6  # of a sampler with its own generator, whose false alarm could not be repeated
POWER = 0.99
DRAWS = {"few": 3_000, "quick": 6_000, "thorough": 2_000_000}
REBATCHINGS = {"few": 4, "quick": 8, "thorough": 1000}
SLOW_DRAWS, SLOW_REBATCHINGS = 20_000, 50  # at most, of a sampler that costs the better part of a millisecond per request
FATAL = ("zero residual", "target = draft", "empty rows", "NaN and inf", "odd probabilities", "one-hot rows")
SHOWN = 4
SEEDS_APART = 1 << 32  # between the seeds of two laws


@dataclass(frozen=True)
class Part:
    """One of the four. `failures`: (where, what)."""
    name: str
    summary: str
    failures: list = field(default_factory=list)

    def __bool__(self):
        return not self.failures

    def __str__(self):
        lines = [f"  {self.name:<7} {'PASS' if self else 'FAIL'}  {self.summary}"]
        lines += [f"               {where}: {str(what).splitlines()[0][:230]}" for where, what in self.failures[:SHOWN]]
        more = len(self.failures) - SHOWN
        return "\n".join([*lines, *([f"               ... and {more} more"] if more > 0 else [])])


@dataclass(frozen=True)
class Report:
    """What `examine` found. True if everything passed; prints on one screen; `to_dict` is JSON-able."""
    sampler: str
    source_hash: str | None
    draw: str | None
    level: str
    device: str
    seed: int
    seconds: float
    results: list                                # (suite.Case, CheckResult)
    laws: list                                   # of LawResult
    probes: dict                                 # name -> differences
    refused: list = field(default_factory=list)  # (case, why it was not run)
    own: bool = False                            # the sampler has its own generator
    guarded: bool = False                        # guard zones lie round every array (kernels on the CPU executor)
    kind: str = "probs"                          # of the problems

    @property
    def parts(self) -> list[Part]:
        return [self._tokens(), self._law(), self._edges(), self._poison()]

    @property
    def passed(self) -> bool:
        return all(self.parts)

    @property
    def failed(self) -> list[str]:
        """The names of the parts that failed."""
        return [part.name for part in self.parts if not part]

    def _of(self, part):
        return [(case, result) for case, result in self.results if case.part == part]

    def _found(self, pairs):
        """What is wrong with the tokens of these cases; a case that raised has none."""
        none = [] if pairs else [("no case", "was run: nothing is known")]
        return none + [(case.name, failure) for case, result in pairs for failure in result.failures if raised(result) or not is_poison(failure)]

    def _requests(self, pairs):
        exact, explained = sum(r.exact for _, r in pairs), sum(len(r.explained) for _, r in pairs)
        what = "well formed (tokens cannot be compared)" if self.own else f"as the reference, {explained} differences explained by rounding"
        return f"{len(pairs)} cases, {exact} of {sum(r.requests for _, r in pairs)} requests {what}"

    def _tokens(self):
        pairs = self._of("tokens")
        return Part("tokens", self._requests(pairs), self._found(pairs))

    def _law(self):
        bias = ", ".join(f"{law.finest_tv:.4f} ({law.name})" for law in self.laws)
        summary = (f"{len(self.laws)} laws, {sum(law.draws for law in self.laws):,} draws; an exact sampler fails in "
                   f"{sum(law.alpha for law in self.laws):.0e} of reports; with {POWER:.0%} power would catch a total variation of {bias}"
                   if self.laws else "no law could be tested")
        missing = [] if self.laws else [("law", "none was tested: nothing is known of the distribution")]
        return Part("law", summary, missing + [(law.name, _law_words(law)) for law in self.laws if not law])

    def _edges(self):
        pairs, moves = self._of("edges"), {name: found for name, found in self.probes.items() if is_move(name)}
        failures = [] if self.own else [(name, text) for name, found in moves.items() for text in found]
        summary = self._requests(pairs)
        if moves and not self.own:
            summary += f"; {', '.join(moves)}: {'A REQUEST CHANGES' if failures else 'a request keeps its tokens'}"
        if self.refused:
            summary += f"; {len(self.refused)} cases not run ({'; '.join(dict.fromkeys(_short(why) for _, why in self.refused))[:300]})"
        return Part("edges", summary, self._found(pairs) + failures)

    def _poison(self):
        others = {name: found for name, found in self.probes.items() if not is_move(name)}
        names = ["outputs all written", "inputs unchanged", *([] if self.own else ["second call equal"]),
                 *(["guard zones whole"] if self.guarded else []), *others]
        failures = [(case.name, failure) for case, result in self.results for failure in result.failures if is_poison(failure)]
        return Part("poison", f"{len(self.results)} cases: {', '.join(names)}",
                    failures + [(name, text) for name, found in others.items() for text in found])

    def _note(self):
        """Of a sampler with its own generator, which may couple its requests: does it?"""
        name, changed = next(((name, found) for name, found in self.probes.items() if is_move(name)), ("no re-batchings", []))
        said = (f"a request's outputs changed {len(changed)} times in {name}, the generator being in the same state before each: "
                "it has no seed of its own" if changed else f"a request kept its outputs in {name}")
        return f"  note    its random numbers are its own: {said}"

    def __bool__(self):
        return self.passed

    def __str__(self):
        head = (f"{'PASS' if self else 'FAIL'} {self.sampler}: level {self.level} of {self.kind} on {self.device}, seed {self.seed}, "
                f"{len(self.results)} cases, {self.seconds:.1f} s")
        return "\n".join([head, *map(str, self.parts), *([self._note()] if self.own else [])])

    def _repr_html_(self):
        colour = "#2a7d2a" if self else "#b00020"
        rows = "".join(f"<tr><td>{part.name}</td><td style='color:{'#2a7d2a' if part else '#b00020'}'>{'PASS' if part else 'FAIL'}</td>"
                       f"<td style='text-align:left'>{html.escape(part.summary)}{''.join(_row(f) for f in part.failures[:SHOWN])}</td></tr>"
                       for part in self.parts)
        note = f"<p>{html.escape(self._note().strip())}</p>" if self.own else ""
        return f"<b style='color:{colour}'>{html.escape(str(self).splitlines()[0])}</b><table>{rows}</table>{note}"

    def to_dict(self) -> dict:
        """JSON-able; lists of failures are cut to their first 20, their numbers kept."""
        parts = {part.name: {"passed": bool(part), "summary": part.summary, "failure_count": len(part.failures),
                             "failures": [{"where": where, "what": asdict(what) if isinstance(what, Mismatch) else str(what)}
                                          for where, what in part.failures[:20]]} for part in self.parts}
        return {"sampler": self.sampler, "source_hash": self.source_hash, "draw": self.draw, "passed": self.passed, "level": self.level,
                "kind": self.kind, "device": self.device, "seed": self.seed, "seconds": round(self.seconds, 2), "cases": [case.name for case, _ in self.results],
                "parts": parts, "laws": [law.to_dict() for law in self.laws],
                "probes": {name: {"differences": len(found), "first": found[:3]} for name, found in self.probes.items()},
                "refused": [list(pair) for pair in self.refused]}


def is_poison(failure) -> bool:
    """Of a CheckResult's failures: about memory, not about what the tokens should have been."""
    return not isinstance(failure, Mismatch) and not str(failure).startswith(("request ", "law: "))


def raised(result: CheckResult) -> bool:
    """Did the sampler raise, so that nothing was compared?"""
    return result.poison == "not checked"


def _law_words(law):
    return str(law).split(f"{law.sampler}: ", 1)[1]


def _row(failure):
    return f"<br><code>{html.escape(f'{failure[0]}: {failure[1]}'[:400])}</code>"


def _short(why):
    return str(why).split(": got ")[-1].splitlines()[0][:80]


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
    return Report(sampler.name, getattr(sampler, "source_hash", None), sampler.draw, level, device, seed, time.perf_counter() - began, results, laws,
                  found, unrun + refused, own, guarded, kind)


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
    return {name: {**arguments, "kind": kind} for name, arguments in found.items()} if level != "few" else dict(list(found.items())[:2])


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
