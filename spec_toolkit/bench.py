"""How fast? GPU time with a cold L2, host time apart, and the hardware's floor in the same run.

One GPU sample is: flush the L2, event, replay of a captured graph, event. The samples of all candidates, the floor among
them, are queued in alternating rounds with no host synchronisation in between, so that a drifting clock hits all alike:
divide only times of one `compare`. Every sample is kept. An empty graph reads 3 to 4 µs this way; it is reported, not
subtracted. No time without a pass: each sampler is checked on the very problem that is timed.
"""
from __future__ import annotations

import functools
import gc
import math
import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone

import torch

from .results import spread

THREADS = 256
FLUSH_BYTES = 256 << 20
FLUSHES = ("read", "write")
SENTINEL = -77
SOURCE = r"""
extern "C" __global__ void empty_launch() {}
""" + "".join(r"""
extern "C" __global__ void __launch_bounds__(256) stream_read_UNROLL(
        const uint4* __restrict__ data, long long count, unsigned* __restrict__ sink) {
    const long long threads = 256LL * gridDim.x;
    long long i = 256LL * blockIdx.x + threadIdx.x;
    unsigned mix = 0;
    for (; i + (UNROLL - 1) * threads < count; i += UNROLL * threads) {
        uint4 part[UNROLL];                       // independent loads, all in flight before the first is used
        #pragma unroll
        for (int k = 0; k < UNROLL; ++k) part[k] = data[i + k * threads];
        #pragma unroll
        for (int k = 0; k < UNROLL; ++k) mix ^= part[k].x ^ part[k].y ^ part[k].z ^ part[k].w;
    }
    for (; i < count; i += threads) {
        const uint4 part = data[i];
        mix ^= part.x ^ part.y ^ part.z ^ part.w;
    }
    if (mix == 0x9E3779B9u) *sink = mix;          // almost never true; keeps the loads alive
}
""".replace("UNROLL", str(unroll)) for unroll in (1, 2, 4, 8))


class NeedsGPU(RuntimeError):
    """Times were asked for where there is no CUDA GPU (or no CuPy to compile for it)."""


class UncheckedSampler(RuntimeError):
    """A time was asked for a sampler that does not pass `check` on that problem."""


@dataclass
class Timing:
    """All samples of one sampler in one `compare`; lists of µs, in the order measured.

    gpu_us: event to event around a graph replay, cold L2; None where the sampler cannot be captured, for the reason in
    `gpu_us_missing`. host_us: host time to issue an eager bound call on an idle GPU. call_us: the same call with the
    synchronisation after it. bytes: `touched_bytes`. limits: see `limits`.
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

    def median(self, what: str = "gpu_us") -> float | None:
        """Median of gpu_us, call_us, host_us, stream_read_us or empty_launch_us."""
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
    logits also every row that was tested before, to normalise it. The tested entries themselves are not counted.
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


def gpu_of(device) -> torch.device:
    """The CUDA device to time on, with its index, or NeedsGPU saying what to do instead."""
    device = torch.device(device)
    if device.type != "cuda":
        raise NeedsGPU(f"times need a CUDA GPU and this problem is on {str(device)!r}: use problem.to('cuda'). Without "
                       "a GPU, check(sampler, problem) still runs, and results/ holds recorded GPU times")
    if not torch.cuda.is_available():
        raise NeedsGPU("times need a CUDA GPU and torch.cuda.is_available() is False here; results/ holds recorded ones")
    try:
        import cupy  # noqa: F401
    except ImportError as error:
        raise NeedsGPU("the floor's kernels are compiled by CuPy: pip install 'spec-toolkit[cuda12]'") from error
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


@functools.cache
def _module(index: int):
    import cupy
    with cupy.cuda.Device(index):
        return cupy.RawModule(code=SOURCE)


def _launch(name: str, device, blocks: int = 1, args: tuple = ()) -> None:
    """Launch one of our own kernels on PyTorch's current stream, into a graph if that stream is capturing."""
    import cupy
    stream = torch.cuda.current_stream(device)
    with cupy.cuda.Device(device.index):
        outer = (cupy.cuda.Stream.from_external(stream) if hasattr(stream, "__cuda_stream__")
                 else cupy.cuda.ExternalStream(stream.cuda_stream))
        with outer:
            _module(device.index).get_function(name)((blocks,), (THREADS,), args)


class Clock:
    """Takes the samples of one device with one kind of flush: "read" leaves clean lines in the L2, "write" dirty ones."""

    def __init__(self, device, flush: str = "read"):
        if flush not in FLUSHES:
            raise ValueError(f"flush={flush!r}: accepted are {', '.join(map(repr, FLUSHES))}")
        self.device = device
        properties = torch.cuda.get_device_properties(device)
        self.multiprocessors = properties.multi_processor_count
        l2 = getattr(properties, "L2_cache_size", 0) or 64 << 20
        self.flush_bytes = FLUSH_BYTES if flush == "write" else max(FLUSH_BYTES, 4 * l2)
        self._buffer = self._noise(self.flush_bytes)
        self._sink = torch.zeros(4, dtype=torch.int32, device=device)
        write = self._buffer.zero_
        read = self.reader(self._buffer, self.flush_bytes, 4, self.multiprocessors * 16)
        self.flush = self.capture(write if flush == "write" else read)

    def _noise(self, nbytes: int):
        generator = torch.Generator(self.device).manual_seed(1)
        words = torch.empty(4 * max(1, math.ceil(nbytes / 16)), dtype=torch.int32, device=self.device)
        return words.random_(generator=generator)

    def reader(self, buffer, nbytes: int, unroll: int, blocks: int):
        """A function that launches a streaming read of nbytes (rounded up to 16) of buffer."""
        args = (buffer.data_ptr(), math.ceil(nbytes / 16), self._sink.data_ptr())
        return lambda: _launch(f"stream_read_{unroll}", self.device, blocks, args)

    def capture(self, function):
        """Warm up on a side stream, capture one call in a graph; returns what replays it. Raises if it cannot be."""
        with torch.cuda.device(self.device):
            side, current = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(3):
                    function()
            current.wait_stream(side)
            self.wait()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                function()
            return graph.replay

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)

    def rounds(self, replays: dict, repeats: int) -> dict:
        """GPU time in µs of each replay, `repeats` samples each, candidates alternating; name -> list."""
        samples, names = {name: [] for name in replays}, list(replays)
        chunk = max(1, 200 // max(1, len(names)))        # four launches a sample: stay below the launch queue's 1024
        for first in range(0, repeats, chunk):
            events = []
            for _ in range(8):                           # a head start, so that the GPU never waits for the host
                self.flush()
            for turn in range(first, min(first + chunk, repeats)):
                for name in _order(names, turn):
                    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    self.flush()
                    start.record()
                    replays[name]()
                    stop.record()
                    events.append((name, start, stop))
            self.wait()
            for name, start, stop in events:
                samples[name].append(1000 * start.elapsed_time(stop))
        return samples

    def host_rounds(self, calls: dict, repeats: int, seconds: float) -> tuple[dict, dict]:
        """(host_us, call_us) of eager calls, each on an idle GPU with a cold L2; name -> list.

        A call slower than seconds/repeats gets fewer samples (at least 10, or repeats), so that a Python loop over a
        large batch does not take minutes.
        """
        host, whole = {name: [] for name in calls}, {name: [] for name in calls}
        for turn in range(repeats):
            for name in _order(list(calls), turn):
                if turn >= 10 and sum(whole[name]) > 1e6 * seconds:
                    continue
                self.flush()
                self.wait()
                begin = time.perf_counter()
                calls[name]()
                issued = time.perf_counter()
                self.wait()
                done = time.perf_counter()
                host[name].append(1e6 * (issued - begin))
                whole[name].append(1e6 * (done - begin))
        return host, whole

    def tune_reader(self, nbytes: int) -> tuple[int, int]:
        """(loads in flight per thread, blocks) of the fastest streaming read of nbytes."""
        buffer = self._noise(nbytes)
        trials = {shape: self.reader(buffer, nbytes, *shape) for shape in read_shapes(nbytes, self.multiprocessors)}
        self.rounds(trials, 2)
        return min((spread(s)["median"], shape) for shape, s in self.rounds(trials, 11).items())[1]

    def floor(self, nbytes: int) -> tuple[dict, dict]:
        """(replays of the two limits, their description) to be timed beside the candidates."""
        unroll, blocks = self.tune_reader(nbytes)
        self._fresh = self._noise(nbytes)                # its own region, which the flush evicts like any input
        replays = {"stream_read_us": self.capture(self.reader(self._fresh, nbytes, unroll, blocks)),
                   "empty_launch_us": self.capture(lambda: _launch("empty_launch", self.device))}
        return replays, {"stream_read_bytes": nbytes, "stream_read_blocks": blocks, "stream_read_threads": THREADS,
                         "stream_read_loads_in_flight": unroll, "flush_bytes": self.flush_bytes}


def read_shapes(nbytes: int, multiprocessors: int) -> list[tuple[int, int]]:
    """(loads in flight, blocks) worth trying: never more blocks than have something to read."""
    shapes = set()
    for unroll in (1, 2, 4, 8):
        enough = max(1, math.ceil(math.ceil(nbytes / 16) / (THREADS * unroll)))
        shapes |= {(unroll, min(enough, multiprocessors * waves)) for waves in (1, 2, 4, 8, 16, 32)}
    return sorted(shapes)


def _order(names: list, turn: int) -> list:
    """The candidates rotated by the turn, and backwards every second turn: none always follows the same neighbour."""
    shift = turn // 2 % max(1, len(names))
    rotated = names[shift:] + names[:shift]
    return rotated[::-1] if turn % 2 else rotated


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
        raise UncheckedSampler(f"{sampler.name} is not timed: {what} does not pass the check on {problem!r}: {result}")
    return result


def _capture(clock: Clock, sampler, call, problem, check):
    """(replay, None), or (None, why there is none). The graph's own outputs must pass too."""
    if not getattr(sampler, "capturable", sampler.name != "python_loop"):
        return None, "it synchronises with the host, so it cannot be captured in a graph"
    kept = []
    try:
        replay = clock.capture(lambda: kept.append(call()))
    except Exception as error:                           # a missing time with its reason, not a lost run
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

    `bytes` (and so the floor) is what the first sampler's num_accepted needs; it is the same for all of them but where
    the check explained a rounding. Raises NeedsGPU, UncheckedSampler, or ValueError (names twice, repeats, flush).
    """
    samplers = list(samplers)
    names = [sampler.name for sampler in samplers]
    if not samplers or len(set(names)) != len(names) or repeats < 1:
        raise ValueError(f"samplers={names}, repeats={repeats}: accepted are one or more names, each once, repeats >= 1")
    device = gpu_of(problem.device)
    from .check import check
    with torch.cuda.device(device):
        checks = {s.name: _checked(check, s, problem, "it") for s in samplers}
        accepted = samplers[0](problem).num_accepted.cpu()
        nbytes = touched_bytes(problem, accepted)
        clock = Clock(device, flush)
        calls = {s.name: s.bind(problem) for s in samplers}
        captured = {s.name: _capture(clock, s, calls[s.name], problem, check) for s in samplers}
        floor, shape = clock.floor(nbytes)
        replays = {name: replay for name, (replay, _) in captured.items() if replay} | floor
        gpu, host, whole = _measure(clock, replays, calls, repeats, seconds)
    run_id, created = uuid.uuid4().hex[:12], datetime.now(timezone.utc).isoformat(timespec="seconds")
    rejected = int((accepted < torch.tensor(problem.draft_len, dtype=accepted.dtype)).sum())
    return {name: Timing(name, checks[name], flush, run_id, created, gpu.get(name), captured[name][1], whole[name],
                         host[name], nbytes, rejected, {k: gpu[k] for k in floor} | shape) for name in names}


def _measure(clock, replays, calls, repeats, seconds):
    clock.rounds(replays, 5)                             # settles clocks and uploads the graphs; not samples
    clock.host_rounds(calls, 2, seconds)
    gc.collect()
    gc.disable()
    try:
        return clock.rounds(replays, repeats), *clock.host_rounds(calls, repeats, seconds)
    finally:
        gc.enable()


def benchmark(sampler, problem, repeats: int = 100, flush: str = "read") -> Timing:
    """`compare` of one sampler with the floor. Two results of `benchmark` are two runs: do not divide them."""
    return compare([sampler], problem, repeats, flush)[sampler.name]
