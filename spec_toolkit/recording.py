"""`spec-toolkit gpu`: every sampler through the exactness suite on the GPU, then the experiments, timed and recorded.

One problem is on the GPU at a time. A sampler that fails the suite, or its check on a problem, is not timed; a problem
that a peer refuses is recorded without it, and the records say why. One cell that fails does not lose the others.
"""
from __future__ import annotations

import gc
import time
from collections.abc import Sequence

import torch

from . import bench, results, suite
from .ahead import compile_ahead
from .cells import Cell, cells, is_recorded
from .composed import PREFIX, load_composed
from .experiments import EXPERIMENTS
from .peers import PeerMissing, list_peers
from .reading import latest, number
from .sampler import list_samplers, load_sampler
from .synthetic import make_problem

FEW_SHAPES = 3  # from more shapes on, torch_compile compiles them ahead, in parallel


class UnknownName(ValueError):
    """A sampler or an experiment was asked for that there is not."""


# ---- checking ----------------------------------------------------------------------------------------------------------

def suite_level(sampler, level: str) -> str:
    """The level asked for, but "few" where each case costs seconds: compiled per shape, or compared by its law."""
    return "few" if "torch_compile" in sampler.name or getattr(sampler, "own_generator", False) else level


def verify(sampler, level: str, kinds) -> bool:
    """Run the suite on the GPU and print its line, with the failures below it; True if all cases pass.

    A peer is also asked for one rectangular batch, for most of the suite is ragged and it refuses that.
    """
    began, found = time.perf_counter(), []
    for kind in sorted(kinds):
        found += suite.run_suite(sampler, suite_level(sampler, level), "cuda", kind)
        if getattr(sampler, "own_generator", False):
            problem = make_problem(batch=8, draft_len=3, vocab=128, logits=kind == "logits", device="cuda")
            found += [("rectangular", result) for result in suite.check_each([sampler], problem)]
    failed = [(name, result) for name, result in found if not result]
    explained = sum(len(result.explained) for _, result in found)
    print(f"{'FAIL' if failed else 'PASS'} {sampler.name}: {len(found) - len(failed)} of {len(found)} cases, "
          f"{explained} explained, {time.perf_counter() - began:.1f} s", flush=True)
    for name, result in failed:
        print(f"  {name}: {result}", flush=True)
    return not failed


def load(name: str):
    """(sampler or None, is its absence a fault), printing why there is none."""
    try:
        return (load_composed if name.startswith(PREFIX) else load_sampler)(name), False
    except PeerMissing as error:
        print(f"{name} is left out: {error}", flush=True)
        return None, False
    except Exception as error:  # noqa: BLE001 (a kernel that does not compile must not lose the others their times)
        print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
        return None, True


def fitting(samplers, problem) -> tuple[list, dict[str, str]]:
    """(those that take the problem, {sampler: why it does not}): a peer may refuse it, and PyTorch's compiler may fail at it. Of another
    sampler either is a fault, and raises when it is timed."""
    ready, left_out = [], {}
    for sampler in samplers:
        peer, compiled = getattr(sampler, "own_generator", False), sampler.name == "torch_compile"
        try:
            if peer or compiled:
                sampler.bind(problem)
            ready.append(sampler)
        except RuntimeError if compiled else (PeerMissing, ValueError, TypeError) as error:
            left_out[sampler.name] = f"{type(error).__name__}: {error}"
    return ready, left_out


# ---- timing ------------------------------------------------------------------------------------------------------------

def run_cell(cell: Cell, samplers, out="results", repeats: int | None = None) -> tuple[dict[str, bench.Timing], dict[str, str]]:
    """Time and record one cell: (name -> Timing, {sampler that failed its check: the failure}). repeats None: the experiment's."""
    experiment, failed = EXPERIMENTS[cell.experiment], {}
    problem = make_problem(**cell.arguments, device="cuda")
    ready, left_out = fitting(samplers, problem)
    timings = {}
    while ready and not timings:
        try:
            timings = bench.compare(ready, problem, repeats or experiment.repeats, cell.flush, experiment.seconds)
        except bench.UncheckedSampler as error:
            failed[error.sampler] = str(error)
            ready = [sampler for sampler in ready if sampler.name != error.sampler]
    for sampler in ready:
        timings[sampler.name].left_out = left_out
        results.record(cell.experiment, sampler, problem, timings[sampler.name].check, timings[sampler.name], out)
    return timings, failed


def line(cell: Cell, timings: dict, seconds: float) -> str:
    """One line for a cell: bytes, the limit, and each sampler's GPU time, or its whole call."""
    said = [f"{name} {number(gpu)}" if (gpu := t.median()) else f"{name} (call) {number(t.median('call_us'))}" for name, t in timings.items()]
    any_one = next(iter(timings.values()), None)
    limit = f"{any_one.bytes / 1e6:.1f} MB limit {number(any_one.median('stream_read_us'))} µs: " if any_one else "nothing timed"
    out = f"; left out: {', '.join(any_one.left_out)}" if any_one and any_one.left_out else ""
    return f"{cell} {limit}{', '.join(said)}{out} [{seconds:.1f} s]"


def _timed(cell: Cell, samplers, out, repeats) -> bool:
    """Run a cell and print its line; False if anything in it failed."""
    began = time.perf_counter()
    try:
        timings, failed = run_cell(cell, samplers, out, repeats)
    except Exception as error:  # noqa: BLE001 (one cell that fails must not lose the others their times)
        print(f"FAIL {cell}: {type(error).__name__}: {error}", flush=True)
        return False
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    print(line(cell, timings, time.perf_counter() - began), *(f"  FAIL {why}" for why in failed.values()), sep="\n", flush=True)
    return not failed


def record_all(out="results", samplers: Sequence[str] | None = None, experiments: Sequence[str] | None = None, repeats: int | None = None,
               level: str = "thorough", resume: bool = False, stop_after: float | None = None) -> bool:
    """Check, time and record; prints as it goes. True if every sampler passed and every cell was timed or refused.

    samplers, experiments: names, None = all that the experiments name, all experiments. repeats: None = the experiment's.
    resume: pass over cells that `out` holds already. stop_after: seconds after which no new cell is begun.
    Raises bench.NeedsGPU or UnknownName.
    """
    began, chosen = time.perf_counter(), list(experiments or EXPERIMENTS)
    _known("experiments", chosen, EXPERIMENTS)
    _known("samplers", samplers or (), [*list_samplers(), *list_peers(), *(name for e in EXPERIMENTS.values() for name in e.names())])
    bench.gpu_of("cuda")
    names = [n for n in dict.fromkeys(n for e in chosen for n in EXPERIMENTS[e].names()) if samplers is None or n in samplers]
    loaded = {name: load(name) for name in names}
    ready = [sampler for sampler, _ in loaded.values() if sampler]
    held = results.load_records(out) if resume else []
    gpu = torch.cuda.get_device_name()
    takers = {name: [s for s in ready if EXPERIMENTS[name].takes(s)] for name in chosen}
    waiting = [cell for name in chosen if takers[name] for cell in cells(name, EXPERIMENTS[name])
               if not is_recorded(cell, takers[name], held, gpu)]
    print(f"{gpu}: {len(waiting)} problems to time, {len(ready)} samplers, suite level {level!r}", flush=True)
    passed = [s for s in ready if (kinds := _kinds(s, waiting, takers)) and verify(s, level, kinds)]
    complete = all(s in passed or not _kinds(s, waiting, takers) for s in ready) and not any(fault for _, fault in loaded.values())
    _compile(waiting, takers, passed)
    for done, cell in enumerate(waiting):
        if stop_after and time.perf_counter() - began > stop_after:
            print(f"stopped after {time.perf_counter() - began:.0f} s with {len(waiting) - done} problems left: --resume goes on from here", flush=True)
            return False
        if taken := [s for s in takers[cell.experiment] if s in passed]:
            complete &= _timed(cell, taken, out, repeats)
    return complete


def _known(what: str, given, there) -> None:
    if unknown := [name for name in given if name not in there]:
        raise UnknownName(f"{what}: got {', '.join(unknown)}, accepted: {', '.join(dict.fromkeys(there))}")


def _kinds(sampler, waiting, takers) -> set[str]:
    """The kinds of the waiting problems that the sampler is to be timed on."""
    names = {cell.experiment for cell in waiting}
    return set().union(*(EXPERIMENTS[name].kinds for name in names if sampler in takers[name]))


def _compile(waiting, takers, passed) -> None:
    """Compile torch_compile for the waiting problems ahead, where there are many of them."""
    problems = [c.arguments for c in waiting if any(s.name == "torch_compile" and s in passed for s in takers[c.experiment])]
    if len(problems) > FEW_SHAPES:
        began, failed = time.perf_counter(), compile_ahead(problems)
        print(f"torch_compile compiled for {len(problems) - len(failed)} of {len(problems)} shapes, {time.perf_counter() - began:.1f} s"
              + "".join(f"\n  {problems[i]}: {error[:300]}" for i, error in failed.items()), flush=True)


def recorded(experiment: str, folder, hashes: dict | None = None) -> list[results.Record]:
    """The timed records of the experiment's newest run below folder; [] if there are none."""
    timed = [r for r in results.load_records(folder, experiment, hashes) if r.get("call_us_median")]
    newest = max(timed, key=lambda r: r["created"], default=None)
    return [r for r in timed if r["run_id"] == newest["run_id"]]


def times_of(experiment: str, folder, record: bool = False) -> list[results.Record]:
    """What a notebook draws: the newest records of an experiment, and a printed line that says where they are from.

    record, on a GPU: the experiment is timed now, into `folder`. Else the committed records are read; [] if there are none.
    """
    from .paths import results_dir
    from .readme import current_hashes
    now = record and torch.cuda.is_available()
    if now:
        record_all(folder, experiments=[experiment], level="few")
    records = latest(results.load_records(folder if now else results_dir(), experiment, current_hashes()))
    if not records:
        print(f"No time has been recorded for `{experiment}`: `spec-toolkit gpu --experiments {experiment}` on a GPU machine writes them.")
        return []
    stale = sorted({r["sampler"] for r in records if r.stale})
    print(f"{experiment}: {'timed now' if now else 'recorded'} on {records[0]['environment']['gpu']}, {len(records)} records, the last at "
          f"{max(r['created'] for r in records)}" + (f"; older than today's source: {', '.join(stale)}" if stale else ""))
    return records
