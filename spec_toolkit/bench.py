"""How fast? All samplers and the hardware's floor side by side on one problem, each checked on that very problem first.

Divide only times of one `compare`. Every sample is kept. An empty graph reads 3 to 4 µs by this clock (clock.py); it is
reported, not subtracted. No time without a pass.
"""
from __future__ import annotations

import gc
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from .clock import Clock, NeedsGPU, gpu_of  # noqa: F401  (NeedsGPU is raised here, so it is found here)
from .results import spread

SENTINEL = -77
BINDS = 5  # times that a problem is bound: host time, with everything compiled


class UncheckedSampler(RuntimeError):
    """A time was asked for a sampler that does not pass `check` on that problem. `sampler`: its name."""

    def __init__(self, sampler: str, message: str):
        super().__init__(message)
        self.sampler = sampler


@dataclass
class Timing:
    """All samples of one sampler in one `compare`; lists of µs, in the order measured.

    gpu_us: event to event around a graph replay, cold L2; None where the sampler cannot be captured, for the reason in
    `gpu_us_missing`. host_us: host time to issue an eager bound call on an idle GPU. call_us: the same call with the
    synchronisation after it. bind_us: host time of `bind`: checks, sharing, allocation, and whatever conversion the
    sampler makes there. bytes: `touched_bytes`. limits: see `limits`. left_out: samplers not compared, and why.
    """
    sampler: str
    check: object
    flush: str
    run_id: str
    created: str
    gpu_us: list | None
    gpu_us_missing: str | None
    call_us: list
    host_us: list
    bytes: int
    rejected: int
    limits: dict
    bind_us: list = field(default_factory=list)
    left_out: dict = field(default_factory=dict)

    def median(self, what: str = "gpu_us") -> float | None:
        """Median of gpu_us, call_us, host_us, bind_us, stream_read_us or empty_launch_us."""
        samples = self.limits[what] if what in self.limits else getattr(self, what)
        return spread(samples)["median"] if samples else None

    def __repr__(self) -> str:
        call = f"call {self.median('call_us'):.1f} µs, host {self.median('host_us'):.1f} µs"
        if self.gpu_us is None:
            return f"{self.sampler}: no GPU time ({self.gpu_us_missing}); {call}"
        s, floor = spread(self.gpu_us), self.median("stream_read_us")
        return (f"{self.sampler}: {s['median']:.1f} µs on the GPU (p10 {s['p10']:.1f}, p90 {s['p90']:.1f}), "
                f"{self.bytes / 1e6:.1f} MB, floor {floor:.1f} µs ({floor / s['median']:.0%}); {call}")


def touched_bytes(problem, num_accepted) -> int:
    """Bytes of the rows that no exact sampler can do without. num_accepted: [batch] integers.

    From probabilities: the rejected target row and its draft row (if there are draft rows), or the bonus row. From
    logits also every row that was tested before, to normalise it; draft rows also where draft_lse is given, so that the plain read stays the
    same yardstick. The tested entries themselves are not counted.
    """
    start = problem.draft_start.cpu().long()
    drafts, accepted = start[1:] - start[:-1], torch.as_tensor(num_accepted).cpu().long()
    rejected = (accepted < drafts).long()
    if problem.kind == "probs":
        target_rows, draft_rows = torch.ones_like(drafts), rejected
    else:
        target_rows, draft_rows = accepted + 1, accepted + rejected
    target_bytes = int(target_rows.sum()) * problem.target.element_size()
    draft_bytes = 0 if problem.draft is None else int(draft_rows.sum()) * problem.draft.element_size()
    return (target_bytes + draft_bytes) * problem.vocab


def limits(nbytes: int, flush: str = "read", repeats: int = 100, device="cuda") -> dict:
    """The floor for nbytes: samples `stream_read_us` (a plain streaming read) and `empty_launch_us`, and how it ran."""
    device = gpu_of(device)
    with torch.cuda.device(device):
        clock = Clock(device, flush)
        replays, shape = clock.floor(nbytes)
        clock.rounds(replays, 5)
        return clock.rounds(replays, repeats) | shape


class _Replayed:
    """A captured call in the sampler's clothes, so that `check` can be asked about the graph as well."""

    def __init__(self, sampler, replay, outputs):
        self._sampler, self._replay, self.outputs = sampler, replay, outputs
        self.unwrapped = sampler         # for the law of a peer, which needs other problems than the captured one

    def __getattr__(self, name):
        return getattr(self._sampler, name)

    def bind(self, problem):
        return self

    def __call__(self, problem=None):
        self._replay()
        return self.outputs if problem is None else type(self.outputs)(*(t.clone() for t in self.outputs))


def _checked(check, sampler, problem, what: str):
    result = check(sampler, problem)
    if not result:
        raise UncheckedSampler(sampler.name, f"{sampler.name} is not timed: {what} does not pass the check on {problem!r}: {result}")
    return result


def _bound(clock: Clock, sampler, problem):
    """(the bound call, host time in µs of each of BINDS binds)."""
    times = []
    for _ in range(BINDS):
        clock.wait()
        begin = time.perf_counter()
        call = sampler.bind(problem)
        times.append(1e6 * (time.perf_counter() - begin))
    return call, times


def _capture(clock: Clock, sampler, call, problem, check):
    """(replay, None), or (None, why there is none). The graph's own outputs must pass too."""
    if not getattr(sampler, "capturable", sampler.name != "python_loop"):
        return None, "it synchronises with the host, so it cannot be captured in a graph"
    kept = []
    try:
        replay = clock.capture(lambda: kept.append(call()))
    except Exception as error:  # noqa: BLE001 (a missing time with its reason, not a lost run)
        clock.wait()
        return None, f"capture failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    outputs, expected = kept[-1], sampler(problem)
    for tensor in outputs:
        tensor.fill_(SENTINEL)
    replay()
    clock.wait()
    if not all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected)):
        _checked(check, _Replayed(sampler, replay, outputs), problem, "its captured graph")
    return replay, None


def compare(samplers, problem, repeats: int = 100, flush: str = "read", seconds: float = 3.0) -> dict[str, Timing]:
    """Times all samplers and the floor side by side on a CUDA problem; name -> Timing, one run_id.

    `bytes` (and so the floor) is what the num_accepted of the first sampler with our generator needs: the same for all of
    them but where the check explained a rounding, while a peer's own generator gives other counts. A sampler that would take longer than `seconds` for its repeats gets fewer samples.
    Raises NeedsGPU, UncheckedSampler, or ValueError (names twice, repeats, flush).
    """
    samplers = list(samplers)
    names = [sampler.name for sampler in samplers]
    if not samplers or len(set(names)) != len(names) or repeats < 1:
        raise ValueError(f"samplers={names}, repeats={repeats}: accepted are one or more names, each once, repeats >= 1")
    device = gpu_of(problem.device)
    from .check import check
    with torch.cuda.device(device):
        checks = {s.name: _checked(check, s, problem, "it") for s in samplers}
        first = min(samplers, key=lambda s: getattr(s, "own_generator", False))
        accepted = first(problem).num_accepted.cpu()
        nbytes = touched_bytes(problem, accepted)
        clock = Clock(device, flush, (problem.draft, problem.target))
        bound = {s.name: _bound(clock, s, problem) for s in samplers}
        calls = {name: call for name, (call, _) in bound.items()}
        captured = {s.name: _capture(clock, s, calls[s.name], problem, check) for s in samplers}
        floor, shape = clock.floor(nbytes)
        replays = {name: replay for name, (replay, _) in captured.items() if replay} | floor
        gpu, host, whole = _measure(clock, replays, calls, repeats, seconds)
    run_id, created = uuid.uuid4().hex[:12], datetime.now(UTC).isoformat(timespec="seconds")
    rejected = int((accepted < torch.tensor(problem.draft_len, dtype=accepted.dtype)).sum())
    return {name: Timing(name, checks[name], flush, run_id, created, gpu.get(name), captured[name][1], whole[name],
                         host[name], nbytes, rejected, {k: gpu[k] for k in floor} | shape, bound[name][1]) for name in names}


def _measure(clock, replays, calls, repeats, seconds):
    clock.rounds(replays, 5)                             # settles clocks and uploads the graphs; not samples
    clock.host_rounds(calls, 2, seconds)
    gc.collect()
    gc.disable()
    try:
        return clock.rounds(replays, repeats, seconds), *clock.host_rounds(calls, repeats, seconds)
    finally:
        gc.enable()


def benchmark(sampler, problem, repeats: int = 100, flush: str = "read") -> Timing:
    """`compare` of one sampler with the floor. Two results of `benchmark` are two runs: do not divide them."""
    return compare([sampler], problem, repeats, flush)[sampler.name]
