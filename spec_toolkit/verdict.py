"""Report: what `examine` found, in four parts. True if everything passed; prints on one screen, shows itself in a notebook, and is JSON."""
from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field

from .check import CheckResult
from .mismatch import Mismatch
from .probes import is_move

SHOWN = 4


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
        return none + [(case.name, failure) for case, result in pairs for failure in result.failures
                       if raised(result) or not is_poison(failure)]

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
                   f"{sum(law.alpha for law in self.laws):.0e} of reports; with {self.laws[0].power:.0%} power would "
                   f"catch a total variation of {bias}"
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
            summary += f"; {len(self.refused)} not run ({'; '.join(dict.fromkeys(_short(why) for _, why in self.refused))[:300]})"
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
                "kind": self.kind, "device": self.device, "seed": self.seed, "seconds": round(self.seconds, 2),
                "cases": [case.name for case, _ in self.results],
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
