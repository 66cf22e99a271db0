"""Is it exact? Any sampler against the float64 reference, token by token, and against the exact output law.

`check` makes no use of a global tolerance. Sampler and reference share their random bits, so they give the same tokens
except where a decision or a draw lies so near a boundary that rounding decides. Each difference must therefore lie
inside its own rounding interval (intervals.py); then it is *explained* and reported, else it is a failure.

`law_check` (law.py) needs no reference tokens: it compares how often each output occurs with the exact distribution.
A sampler with a generator of its own (`own_generator`: the peers) is checked so, and for its structure (structure.py).
"""
import html
from dataclasses import asdict, dataclass, field

from .fingerprint import fingerprints
from .law import LawResult
from .mismatch import compare
from .poison import run_poisoned
from .structure import own_law, structure

SHOWN = 5


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
    got, poison, failures = run_poisoned(sampler, problem)
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
