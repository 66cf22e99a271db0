"""The clock: GPU time of captured calls with a cold L2, host time of eager ones, and the hardware's floor beside them.

One GPU sample is: flush the L2, event, replay of a captured graph, event. The samples of all candidates are queued in
alternating rounds with no host synchronisation in between, so that a drifting clock hits all alike. Three flushes:

read      a long streaming read: the L2 is full of clean lines of something else
write     256 MB are written: the L2 is full of dirty lines, whose write-back competes with what is timed
written   as read, then the problem's rows are written again, draft rows first, as the softmax of a decoding loop leaves
          them: rows that fit are in the L2. The floor's own region is written before them, so it is the first to leave
"""
from __future__ import annotations

import functools
import math
import time

import torch

from .results import spread

THREADS = 256
FLUSH_BYTES = 256 << 20
FLUSHES = ("read", "write", "written")
FEWEST = 10  # samples of a candidate that is too slow for the seconds given
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


def launch(name: str, device, blocks: int = 1, args: tuple = ()) -> None:
    """Launch a kernel of SOURCE on PyTorch's current stream, into a graph if that stream is capturing."""
    import cupy
    stream = torch.cuda.current_stream(device)
    with cupy.cuda.Device(device.index):
        outer = (cupy.cuda.Stream.from_external(stream) if hasattr(stream, "__cuda_stream__")
                 else cupy.cuda.ExternalStream(stream.cuda_stream))
        with outer:
            _module(device.index).get_function(name)((blocks,), (THREADS,), args)


class Clock:
    """Takes the samples of one device with one kind of flush. rows: the tensors that the flush "written" writes again."""

    def __init__(self, device, flush: str = "read", rows=()):
        if flush not in FLUSHES:
            raise ValueError(f"flush={flush!r}: accepted are {', '.join(map(repr, FLUSHES))}")
        self.device, self.kind, self.rows = device, flush, [tensor for tensor in rows if tensor is not None]
        properties = torch.cuda.get_device_properties(device)
        self.multiprocessors = properties.multi_processor_count
        l2 = getattr(properties, "L2_cache_size", 0) or 64 << 20
        self.flush_bytes = FLUSH_BYTES if flush == "write" else max(FLUSH_BYTES, 4 * l2)
        self._buffer = self._noise(self.flush_bytes)
        self._sink = torch.zeros(4, dtype=torch.int32, device=device)
        self._read = self.reader(self._buffer, self.flush_bytes, 4, self.multiprocessors * 16)
        self.flush = self.capture(self._flush_once)

    def _flush_once(self) -> None:
        if self.kind == "write":
            self._buffer.zero_()
            return
        self._read()
        for tensor in self.rows if self.kind == "written" else ():
            tensor.mul_(1)                               # every element written, none changed

    def _noise(self, nbytes: int):
        generator = torch.Generator(self.device).manual_seed(1)
        words = torch.empty(4 * max(1, math.ceil(nbytes / 16)), dtype=torch.int32, device=self.device)
        return words.random_(generator=generator)

    def reader(self, buffer, nbytes: int, unroll: int, blocks: int):
        """A function that launches a streaming read of nbytes (rounded up to 16) of buffer."""
        args = (buffer.data_ptr(), math.ceil(nbytes / 16), self._sink.data_ptr())
        return lambda: launch(f"stream_read_{unroll}", self.device, blocks, args)

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

    def rounds(self, replays: dict, repeats: int, seconds: float = math.inf) -> dict:
        """GPU time in µs of each replay, candidates alternating; name -> list of `repeats` samples.

        A candidate slower than seconds/repeats gets fewer, at least FEWEST (or repeats), as in `host_rounds`.
        """
        samples, names, spent = {name: [] for name in replays}, list(replays), dict.fromkeys(replays, 0.0)
        chunk = max(1, 200 // max(1, len(names)))        # four launches a sample: stay below the launch queue's 1024
        chunk = min(chunk, FEWEST) if seconds < math.inf else chunk
        for first in range(0, repeats, chunk):
            events, ready = [], [name for name in names if first < FEWEST or spent[name] < 1e6 * seconds]
            for _ in range(8):                           # a head start, so that the GPU never waits for the host
                self.flush()
            for turn in range(first, min(first + chunk, repeats)):
                for name in _order(ready, turn):
                    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    self.flush()
                    start.record()
                    replays[name]()
                    stop.record()
                    events.append((name, start, stop))
            self.wait()
            for name, start, stop in events:
                samples[name].append(1000 * start.elapsed_time(stop))
                spent[name] += samples[name][-1]
        return samples

    def host_rounds(self, calls: dict, repeats: int, seconds: float) -> tuple[dict, dict]:
        """(host_us, call_us) of eager calls, each on an idle GPU with a cold L2; name -> list.

        A call slower than seconds/repeats gets fewer samples (at least FEWEST, or repeats), so that a Python loop over
        a large batch does not take minutes.
        """
        host, whole = {name: [] for name in calls}, {name: [] for name in calls}
        spent = dict.fromkeys(calls, 0.0)
        for turn in range(repeats):
            for name in _order(list(calls), turn):
                if turn >= FEWEST and spent[name] > 1e6 * seconds:
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
                spent[name] += whole[name][-1]
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
        fresh = self._noise(nbytes)                      # its own region, which the flush evicts like any input
        if self.kind == "written":
            self.rows.insert(0, fresh)
            self.flush = self.capture(self._flush_once)
        replays = {"stream_read_us": self.capture(self.reader(fresh, nbytes, unroll, blocks)),
                   "empty_launch_us": self.capture(lambda: launch("empty_launch", self.device))}
        self._fresh = fresh                              # the graphs hold its address, not the tensor
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
