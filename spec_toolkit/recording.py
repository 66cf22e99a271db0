"""`spec-toolkit gpu`: every sampler through the exactness suite on the GPU, then the experiments, timed and recorded.

An experiment is data: the arguments of its problems, and which samplers it compares. One problem is on the GPU at a
time; a sampler that fails the suite is never timed.
"""
from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from . import bench, results, suite
from .sampler import list_samplers, load_sampler
from .synthetic import make_problem


class UnknownName(ValueError):
    """A sampler or an experiment was asked for that there is not."""


def grid(**axes) -> list[dict]:
    """Every combination of the axes, the last one fastest. A tuple is an axis; anything else (a list too) is one value."""
    values = [value if isinstance(value, tuple) else (value,) for value in axes.values()]
    return [dict(zip(axes, chosen)) for chosen in product(*values)]


@dataclass(frozen=True)
class Experiment:
    problems: Sequence[dict]                   # arguments of make_problem, without the device
    samplers: Sequence[str] | None = None      # names; None = all that there are

    def takes(self, name: str) -> bool:
        return self.samplers is None or name in self.samplers

    @property
    def kinds(self) -> set[str]:
        return {"logits" if arguments.get("logits") else "probs" for arguments in self.problems}


EXPERIMENTS: dict[str, Experiment] = {
    "quick_demo": Experiment(grid(batch=4, draft_len=8, vocab=32000, acceptance=0.7)),
}


def suite_level(sampler, level: str) -> str:
    """The level asked for, but "few" where each case costs seconds: compiled per shape, or compared by its law."""
    return "few" if sampler.name == "torch_compile" or getattr(sampler, "own_generator", False) else level


def verify(sampler, level: str, kinds) -> bool:
    """Run the suite on the GPU and print its line, with the failures below it; True if all cases pass."""
    began, found = time.perf_counter(), []
    for kind in sorted(kinds):
        found += suite.run_suite(sampler, suite_level(sampler, level), "cuda", kind)
    failed = [(name, result) for name, result in found if not result]
    explained = sum(len(result.explained) for _, result in found)
    print(f"{'FAIL' if failed else 'PASS'} {sampler.name}: {len(found) - len(failed)} of {len(found)} cases, "
          f"{explained} explained, {time.perf_counter() - began:.1f} s", flush=True)
    for name, result in failed:
        print(f"  {name}: {result}", flush=True)
    return not failed


def run_experiment(name: str, samplers, out="results", repeats: int = 200, flush: str = "read") -> Iterator[tuple[bench.Timing, Path]]:
    """Time the samplers on each problem of EXPERIMENTS[name] and record them; yields (timing, path) as they are made."""
    for arguments in EXPERIMENTS[name].problems:
        problem = make_problem(**arguments, device="cuda")
        for sampler_name, timing in bench.compare(samplers, problem, repeats, flush).items():
            (sampler,) = (s for s in samplers if s.name == sampler_name)
            yield timing, results.record(name, sampler, problem, timing.check, timing, out)
        del problem
        gc.collect()
        torch.cuda.empty_cache()


def recorded(experiment: str, folder, hashes: dict | None = None) -> list[results.Record]:
    """The timed records of the experiment's newest run below folder; [] if there are none."""
    timed = [r for r in results.load_records(folder, experiment, hashes) if r.get("call_us_median")]
    newest = max(timed, key=lambda r: r["created"], default=None)
    return [r for r in timed if r["run_id"] == newest["run_id"]]


def record_all(out="results", samplers: Sequence[str] | None = None, experiments: Sequence[str] | None = None,
               repeats: int = 200, level: str = "thorough") -> bool:
    """Check, time and record; prints as it goes. True if every sampler passed; those that did not are not timed.

    samplers, experiments: names, None = all. Raises bench.NeedsGPU or UnknownName.
    """
    names, chosen = list(samplers or list_samplers()), list(experiments or EXPERIMENTS)
    for what, given, there in (("samplers", names, list_samplers()), ("experiments", chosen, list(EXPERIMENTS))):
        if unknown := [name for name in given if name not in there]:
            raise UnknownName(f"{what}: got {', '.join(unknown)}, accepted: {', '.join(there)}")
    bench.gpu_of("cuda")
    print(f"{torch.cuda.get_device_name()}: {len(names)} samplers, suite level {level!r}", flush=True)
    passed = {}
    for name in names:
        kinds = set().union(*(EXPERIMENTS[e].kinds for e in chosen if EXPERIMENTS[e].takes(name)))
        sampler = _load(name)
        if sampler is not None and verify(sampler, level, kinds):
            passed[name] = sampler
    complete = len(passed) == len(names)
    for experiment in chosen:
        ready = [sampler for name, sampler in passed.items() if EXPERIMENTS[experiment].takes(name)]
        complete &= _timed(experiment, ready, out, repeats)
    return complete


def _load(name: str):
    try:
        return load_sampler(name)
    except Exception as error:  # a kernel that does not compile must not lose the others their times
        print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
        return None


def _timed(experiment: str, samplers, out, repeats: int) -> bool:
    """Run one experiment and print its times; False if one of its problems showed a sampler to be wrong."""
    if not samplers:
        print(f"{experiment}: nothing to time")
        return True
    print(f"{experiment}: {len(EXPERIMENTS[experiment].problems)} problem(s), {repeats} samples of each time", flush=True)
    try:
        for timing, path in run_experiment(experiment, samplers, out, repeats):
            print(f"  {timing}\n    {path}", flush=True)
    except bench.UncheckedSampler as error:
        print(f"FAIL {experiment}: {error}", flush=True)
        return False
    return True
