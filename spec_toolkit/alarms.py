"""Can the report be believed? How often it refuses an exact sampler, and how often it catches a bias of the size it states.

    python -m spec_toolkit.alarms false v1 v5 --runs 200 --out results/cpu/false_alarms    # one record for each sampler
    python -m spec_toolkit.alarms power --runs 100 --out results/cpu/power

A run is a whole report with a seed of its own: other problems in every case, other draws in every law. Chance has a place
in the laws only (examine.ALPHA per report), so of 200 reports of exact samplers 0.2 are expected to fail.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from . import philox, results
from .checking import _loaded as load
from .exact_law import output_law
from .examine import ALPHA, DRAWS, POWER, examine, laws
from .law import ENDED, judge, law_check, marginal
from .problem import Outputs

FORMAT = "spec_toolkit alarms 1"


# ---- false alarms ------------------------------------------------------------------------------------------------------

@dataclass
class Alarms:
    """Reports of one sampler, which is taken to be exact. failed: {seed: the report as text}."""
    sampler: str
    source_hash: str | None
    level: str
    device: str
    runs: int = 0
    seconds: float = 0.0
    cases: int = 0                                  # checked, over all runs
    explained: int = 0                              # differences inside their rounding interval
    failed: dict = field(default_factory=dict)
    p_values: list = field(default_factory=list)    # of the laws' joint tests, run by run

    @property
    def distance(self) -> float:
        """Kolmogorov-Smirnov distance of the p-values from the uniform law that an exact sampler gives them."""
        p = np.sort(np.asarray(self.p_values))
        steps = np.arange(len(p) + 1) / max(1, len(p))
        return float(max(np.abs(p - steps[:-1]).max(), np.abs(p - steps[1:]).max())) if len(p) else 0.0

    def __str__(self):
        limit = 1.628 / max(1, len(self.p_values)) ** 0.5  # passed by 1 in 100 uniform samples
        return (f"{self.sampler}: {len(self.failed)} of {self.runs} reports of level {self.level} failed (expected: "
                f"{ALPHA * self.runs:.1f}); {self.cases} cases, {self.explained} differences explained; p-values {self.distance:.4f} from "
                f"uniform (99 % stay below {limit:.4f}); {self.seconds:.0f} s"
                + "".join(f"\n  seed {seed}: {text}" for seed, text in list(self.failed.items())[:3]))

    def to_dict(self) -> dict:
        return {"format": FORMAT, **vars(self), "expected": ALPHA * self.runs, "distance": self.distance,
                "environment": results.environment(self.device)}


def false_alarms(sampler, runs=200, level="quick", device="cpu", kind=None, before=None, each=lambda found: None) -> Alarms:
    """Reports with the seeds 0, 1, ..., runs - 1. before: an `Alarms` to go on from. each: called after every run."""
    found = before or Alarms(sampler.name, sampler.source_hash, level, device)
    for seed in range(found.runs, runs):
        report = examine(sampler, level, device, seed, kind=kind)
        found.runs, found.seconds, found.cases = seed + 1, found.seconds + report.seconds, found.cases + len(report.results)
        found.explained += sum(len(result.explained) for _, result in report.results)
        found.p_values += [float(f"{law.p_value:.6g}") for law in report.laws]
        if not report:
            found.failed[str(seed)] = str(report)
        each(found)
    return found


# ---- power -------------------------------------------------------------------------------------------------------------

class Biased:
    """A sampler whose law is off by exactly `tv` in total variation: outputs outside a set of half the mass are replaced by
    ones inside it, now and then. Of all biases of that size it is the least visible to chi-square (chi_square.py).

    position: None = the bias is one of whole sequences; else of the token there.
    """

    def __init__(self, sampler, law, tv, position=None):
        self.name, self.sampler, self.position = f"{sampler.name}, off by {tv:.4f}", sampler, position
        cells, self.inside, mass = (marginal(law, position) if position is not None else law), set(), 0.0
        for cell, p in sorted(cells.items(), key=lambda item: -item[1])[:-1]:
            if mass < 0.5:
                self.inside.add(cell)
                mass += p
        self.rate = tv / (1 - mass)
        if not 0 <= self.rate <= 1:
            raise ValueError(f"tv: got {tv}, accepted: 0 to {1 - mass:.4f}, the mass of the outputs that can be replaced")
        self.others = [sequence for sequence in law if self.cell(sequence) in self.inside]
        self.upto = np.cumsum([law[sequence] for sequence in self.others])

    def cell(self, sequence):
        if self.position is None:
            return sequence
        return sequence[self.position] if self.position < len(sequence) else ENDED

    def __call__(self, problem):
        tokens, count, status = self.sampler(problem)
        rows, width = [tuple(t for t in row if t >= 0) for row in tokens.tolist()], tokens.shape[1]
        often, which = (philox.uniform52(*philox.random_words(problem.seeds.cpu().numpy(), 1, philox.SYNTHETIC, i)[:2]) for i in (0, 1))
        for b in np.flatnonzero(often < self.rate):
            if self.cell(rows[b]) not in self.inside:
                rows[b] = self.others[min(np.searchsorted(self.upto, which[b] * self.upto[-1], side="right"), len(self.others) - 1)]
        padded = [row + (-1,) * (width - len(row)) for row in rows]
        return Outputs(torch.tensor(padded, dtype=torch.int32, device=tokens.device).view(-1, width), count, status)


@dataclass(frozen=True)
class Power:
    """How often a bias of the stated size was caught."""
    law: str
    test: str      # "joint" or "position 0", ...: where the bias lies
    draws: int
    tv: float      # what the test states that it catches with `power`
    power: float
    runs: int
    caught: int

    def __str__(self):
        return (f"{self.law}, {self.test}: a bias of {self.tv:.4f} at {self.draws} draws was caught in {self.caught} of {self.runs} runs "
                f"(stated: {self.power:.0%})")


def power(sampler, name, runs=100, level="quick", position=None, kind="probs", seed=0) -> Power:
    """Run the law `name` of a level `runs` times on `sampler`, biased by just what its test states to catch: the joint one, or
    that of a position. KeyError for a law or a position that is not tested."""
    arguments, law, stated = _stated(name, level, kind)
    tv = stated.detectable_tv if position is None else {_place(test): test.detectable_tv for test in stated.positions}[position]
    biased = Biased(sampler, law, tv, position)
    caught = sum(not law_check(biased, **arguments, draws=stated.draws, alpha=stated.alpha, power=POWER, seed=(seed + run) << 32)
                 for run in range(runs))
    return Power(name, "joint" if position is None else f"position {position}", stated.draws, tv, POWER, runs, caught)


def all_power(sampler, runs=100, level="quick", say=print) -> list[Power]:
    """`power` of every law of a level, jointly and at the first position that is tested."""
    found = []
    for name in laws(level):
        for position in (None, *map(_place, _stated(name, level, "probs")[2].positions[:1])):
            found.append(power(sampler, name, runs, level, position))
            say(str(found[-1]))
    return found


def _stated(name, level, kind):
    """(arguments, exact law, LawResult of counts without any noise) of a law: what it states depends on neither sampler nor draws."""
    chosen, draws = laws(level, kind), DRAWS[level]
    law = output_law(*(chosen[name].get(key) for key in ("target_rows", "draft_rows", "draft_tokens")))
    return chosen[name], law, judge("", law, {key: draws * p for key, p in law.items()}, draws, ALPHA / len(chosen), POWER)


def _place(test) -> int:
    return int(test.name.removeprefix("position "))


# ---- the command -------------------------------------------------------------------------------------------------------

def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spec_toolkit.alarms", description="False alarms and power of the report.")
    parser.add_argument("what", choices=("false", "power"))
    parser.add_argument("samplers", nargs="*", default=["torch_vectorised"], metavar="NAME")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--level", default="quick", choices=("few", "quick", "thorough"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", metavar="FOLDER", help="receives the records; false alarms go on from one of the same source")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = Path(args.out) if args.out else None
    if out:
        out.mkdir(parents=True, exist_ok=True)
    if args.what == "power":
        found = all_power(load(args.samplers[0]), args.runs, args.level)
        if out:
            results.write_atomically(out / "power.json", results.to_text(
                {"format": FORMAT, "sampler": args.samplers[0], "environment": results.environment(),
                 "found": [vars(one) for one in found]}))
        return 0 if all(one.caught >= 0.95 * one.runs for one in found) else 1
    return _run_false(args, out)


def _run_false(args, out) -> int:
    failed = 0
    for name in args.samplers:
        sampler, path = load(name), out / f"{results.slug(name).replace('-', '_')}.json" if out else None
        save = lambda found, path=path: path and results.write_atomically(path, results.to_text(found.to_dict()))
        found = false_alarms(sampler, args.runs, args.level, args.device, before=_held(path, sampler, args), each=save)
        print(found, flush=True)
        failed += len(found.failed)
    return 0 if failed <= 1 else 1


def _held(path, sampler, args) -> Alarms | None:
    if not path or not path.is_file():
        return None
    held = {key: value for key, value in json.loads(path.read_text()).items() if key in Alarms.__dataclass_fields__}
    same = (held["source_hash"], held["level"], held["device"]) == (sampler.source_hash, args.level, args.device)
    return Alarms(**held) if same and held["runs"] <= args.runs else None


if __name__ == "__main__":
    sys.exit(main())
