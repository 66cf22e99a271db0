"""bench.py and clock.py: without a GPU the refusals, the bytes, the order of the rounds and the kernels' compilation; with one, times."""
import io
from types import SimpleNamespace

import pytest
import torch

from spec_toolkit import bench
from spec_toolkit import clock as clocks

try:
    import cupy
    GPU = cupy.cuda.is_available() and torch.cuda.is_available()
except ImportError:
    GPU = False
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")


def rows(kind="probs", draft=True, dtype=torch.float32):
    lengths = [3, 0, 2]
    start = torch.tensor([0, 3, 3, 5], dtype=torch.int32)
    return SimpleNamespace(draft_start=start, draft_len=lengths, kind=kind, vocab=100, device=torch.device("cpu"), batch=3,
                           target=torch.empty(8, 100, dtype=dtype), draft=torch.empty(5, 100, dtype=dtype) if draft else None)


@pytest.mark.parametrize("accepted, kind, draft, dtype, expected", [
    ([1, 0, 2], "probs", True, torch.float32, (2 + 1 + 1) * 400),        # rejected pair, K=0 bonus, full sweep
    ([1, 0, 2], "probs", False, torch.float32, 3 * 400),
    ([1, 0, 2], "probs", True, torch.bfloat16, 4 * 200),
    ([0, 0, 0], "probs", True, torch.float32, 5 * 400),
    ([1, 0, 2], "logits", True, torch.float32, (2 + 1 + 3 + 2 + 0 + 2) * 400)])
def test_touched_bytes_are_the_rows_that_are_needed(accepted, kind, draft, dtype, expected):
    assert bench.touched_bytes(rows(kind, draft, dtype), torch.tensor(accepted)) == expected


def test_touched_bytes_of_an_empty_batch():
    empty = SimpleNamespace(draft_start=torch.zeros(1, dtype=torch.int32), kind="probs", vocab=5, target=torch.empty(0, 5), draft=None)
    assert bench.touched_bytes(empty, torch.empty(0, dtype=torch.int32)) == 0


def test_without_a_gpu_it_says_what_to_do():
    with pytest.raises(bench.NeedsGPU, match=r"problem is on 'cpu'.*problem\.to\('cuda'\)"):
        bench.benchmark(SimpleNamespace(name="v1"), rows())
    with pytest.raises(bench.NeedsGPU):
        bench.limits(1000, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(bench.NeedsGPU, match="is_available"):
            bench.limits(1000)


def test_names_repeats_and_flush_are_checked():
    for samplers, repeats in (([], 1), ([SimpleNamespace(name="v1")] * 2, 1), ([SimpleNamespace(name="v1")], 0)):
        with pytest.raises(ValueError, match="accepted are"):
            bench.compare(samplers, rows(), repeats)
    with pytest.raises(ValueError, match="'read', 'write', 'written'"):
        bench.Clock(torch.device("cuda"), "none")


def test_no_candidate_always_follows_the_same_neighbour():
    names = list("abcd")
    orders = [clocks._order(names, turn) for turn in range(8)]
    assert all(sorted(order) == names for order in orders)
    before = {(order[i - 1], order[i]) for order in orders for i in range(1, 4)}
    assert all(len({b for b, c in before if c == name}) >= 2 for name in names)
    assert {order[0] for order in orders} == set(names)


def test_read_shapes_never_launch_blocks_with_nothing_to_read():
    assert clocks.read_shapes(0, 132) == [(1, 1), (2, 1), (4, 1), (8, 1)]
    for nbytes in (16, 513024, 239_000_000):
        shapes = clocks.read_shapes(nbytes, 132)
        assert all((blocks - 1) * unroll * clocks.THREADS * 16 < nbytes for unroll, blocks in shapes)
    assert max(blocks for _, blocks in shapes) == 132 * 32


class FakeEvent:
    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = FakeEvent.now

    def elapsed_time(self, other):
        return other.at - self.at


@pytest.fixture
def clock(monkeypatch):
    """A Clock whose GPU is a counter: each candidate advances it by its own ms, each flush by 1 s."""
    made = bench.Clock.__new__(bench.Clock)
    made.device, made.waits = None, 0
    made.wait = lambda: setattr(made, "waits", made.waits + 1)
    made.flush = lambda: setattr(FakeEvent, "now", FakeEvent.now + 1000)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    return made


def advance(ms):
    return lambda: setattr(FakeEvent, "now", FakeEvent.now + ms)


def test_rounds_keep_every_sample_in_us_and_synchronise_only_between_chunks(clock):
    samples = clock.rounds({"a": advance(0.5), "b": advance(2)}, 250)
    assert samples["a"] == pytest.approx([500] * 250) and samples["b"] == pytest.approx([2000] * 250)
    assert clock.waits == 3


def test_host_rounds_give_up_on_slow_calls_but_not_before_ten(clock):
    host, whole = clock.host_rounds({"fast": lambda: None, "slow": lambda: bench.time.sleep(0.004)}, 30, 0.02)
    assert len(host["fast"]) == 30 and 10 <= len(whole["slow"]) < 30
    assert all(h <= w for h, w in zip(host["slow"], whole["slow"])) and whole["slow"][0] > 4000


def test_a_slow_replay_gets_fewer_samples_but_not_below_ten(clock):
    samples = clock.rounds({"fast": advance(0.001), "slow": advance(10)}, 100, seconds=0.15)
    assert len(samples["fast"]) == 100 and len(samples["slow"]) == 20, "150 ms are over after two chunks of ten"
    assert len(clock.rounds({"slow": advance(10)}, 100, seconds=0)["slow"]) == 10
    assert len(clock.rounds({"slow": advance(10)}, 4, seconds=0)["slow"]) == 4


def test_the_written_flush_leaves_every_row_as_it_was():
    made = clocks.Clock.__new__(clocks.Clock)
    rows = torch.tensor([[0.1, float("inf"), 1e-41], [3.0, float("nan"), -0.0]])
    padded = torch.full((2, 5), 7.0)
    padded[:, :3] = rows
    read = []
    made.kind, made.rows, made._read = "written", [padded[:, :3]], lambda: read.append(1)
    version = padded._version
    made._flush_once()
    assert read and padded._version > version, "written"
    assert torch.equal(padded[:, :3].view(torch.int32), rows.view(torch.int32)) and (padded[:, 3:] == 7).all()
    made.kind = "read"
    made._flush_once()
    assert padded._version == version + 1 and len(read) == 2


class Slow:
    def bind(self, problem):
        bench.time.sleep(0.002)
        return "call"


def test_binding_is_timed_and_the_last_call_is_kept(clock):
    call, times = bench._bound(clock, Slow(), None)
    assert call == "call" and len(times) == bench.BINDS and all(us >= 2000 for us in times) and clock.waits == bench.BINDS


def outputs(values=((1, -1),)):
    from spec_toolkit.problem import Outputs
    return Outputs(torch.tensor(values, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32))


def test_a_failed_check_is_no_time():
    def failing(sampler, problem):
        return ()                                                      # falsy, as a failed CheckResult is
    with pytest.raises(bench.UncheckedSampler, match="v1 is not timed"):
        bench._checked(failing, SimpleNamespace(name="v1"), "problem", "it")


class Sampler:
    name, ulps = "v1", 1.0

    def __call__(self, problem):
        return outputs()


def test_a_graph_that_writes_something_else_is_refused(clock):
    kept = outputs()
    clock.capture = lambda function: (function(), lambda: kept.out_tokens.fill_(5))[1]
    seen = []

    def check(sampler, problem):
        seen.append((sampler.name, sampler.ulps, sampler.bind(problem)().out_tokens.tolist()))
        return False
    with pytest.raises(bench.UncheckedSampler, match="captured graph"):
        bench._capture(clock, Sampler(), lambda: kept, None, check)
    assert seen == [("v1", 1.0, [[5, 5]])]


def test_a_good_graph_is_kept_and_a_failed_capture_gives_its_reason(clock):
    kept = outputs()

    def replay():
        for ours, theirs in zip(kept, outputs()):
            ours.copy_(theirs)
    clock.capture = lambda function: (function(), replay)[1]
    assert bench._capture(clock, Sampler(), lambda: kept, None, None) == (replay, None)

    def fails(function):
        raise RuntimeError("operation not permitted\nlong trace")
    clock.capture = fails
    assert bench._capture(clock, Sampler(), lambda: kept, None, None) == (None, "capture failed: RuntimeError: operation not permitted")
    loop = SimpleNamespace(name="python_loop")
    assert "synchronises" in bench._capture(clock, loop, None, None, None)[1]


def test_a_timing_prints_in_a_line():
    made = bench.Timing("v1", True, "read", "r", "c", [8.0, 8.0, 9.0], None, [30.0], [10.0], 12_000_000, 1,
                        {"stream_read_us": [6.0], "empty_launch_us": [3.5]})
    assert repr(made) == "v1: 8.0 µs on the GPU (p10 8.0, p90 8.8), 12.0 MB, floor 6.0 µs (75%); call 30.0 µs, host 10.0 µs"
    made.gpu_us, made.gpu_us_missing = None, "why"
    assert repr(made) == "v1: no GPU time (why); call 30.0 µs, host 10.0 µs" and made.median() is None


@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_our_kernels_compile_without_a_gpu_and_do_not_spill(arch):
    compiler = pytest.importorskip("cupy.cuda.compiler")
    log = io.StringIO()
    try:
        program = compiler._NVRTCProgram(clocks.SOURCE, "clock.cu", method="cubin")
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"no NVRTC here: {error}")
    program.compile((f"-arch={arch}", "--std=c++17", "--ptxas-options=-v"), log)
    assert log.getvalue().count("0 bytes spill stores") == 5


def problem_and_samplers():
    from spec_toolkit.sampler import load_sampler
    from spec_toolkit.synthetic import make_problem
    return make_problem(device="cuda"), [load_sampler(name) for name in ("python_loop", "torch_vectorised", "v1", "v2")]


@needs_gpu
@pytest.mark.parametrize("flush", clocks.FLUSHES)
def test_compare_on_the_gpu(flush):
    problem, samplers = problem_and_samplers()
    times = bench.compare(samplers, problem, repeats=20, flush=flush)
    assert len({t.run_id for t in times.values()}) == 1 and all(t.check for t in times.values())
    for name, timing in times.items():
        assert len(timing.call_us) >= 10 and timing.median("host_us") <= timing.median("call_us")
        assert (timing.gpu_us is None) == (name == "python_loop"), timing.gpu_us_missing
    assert 2 < times["v1"].median("empty_launch_us") < times["v1"].median("stream_read_us") + 1 < times["v1"].median() + 1


@needs_gpu
def test_the_floor_reads_at_memory_speed_and_grows_with_the_bytes():
    small, large = (bench.spread(bench.limits(n, repeats=20)["stream_read_us"])["median"] for n in (60_000_000, 240_000_000))
    assert 2.5 < large / small < 4.5 and 240 / large > 0.1, "MB/us is TB/s; the slowest GPUs that run this have 0.2"
