"""Every rung: exact, whatever the order of its threads, its batch or its GPU; on the CPU executor, and on a GPU where there is one."""
import functools
import random
import shutil
import threading

import pytest
import torch

from spec_toolkit import bench, check, load_sampler, make_problem, reference, sampler, suite
from spec_toolkit.cpu import fibre_order
from spec_toolkit.edges import EDITS
from spec_toolkit.gpu import ARCHITECTURES, KernelCompileError
from spec_toolkit.paths import kernels_dir
from spec_toolkit.problem import ROW_DTYPES
from spec_toolkit.sampler import list_kernels

each_rung = pytest.mark.parametrize("name", list_kernels())
RAGGED = [3, 0, 1, 5, 2, 4]


def gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")(test))


@functools.cache
def quick(kind):
    return dict(suite.cases("quick", "cpu", kind))


@pytest.fixture(scope="module")
def rungs():
    """{name: sampler}: one for all tests, so that each row type is compiled once."""
    return {name: load_sampler(name) for name in list_kernels()}


def problem_for(one, **words):
    return make_problem(**{"batch": 6, "draft_len": RAGGED, "vocab": 1025, "logits": one.input == "logits", **words})


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# ---- exact

@each_rung
def test_the_suite_passes(rungs, name):
    one = rungs[name]
    found = suite.run_suite(one, "quick", "cpu", one.input)
    failed = [f"{case}: {result}" for case, result in found if not result]
    assert len(found) > 40 and not failed, "\n".join(failed)


BROKEN = {  # edits of the rule in common.cuh, which every rung follows
    "accepts too much": ("usable(target) && (double)u * draft < target", "usable(target)"),
    "recovers from the target": ("usable(target - draft) ? target - draft : 0.0f", "usable(target) ? target : 0.0f"),
    "other random numbers": ("unsigned k0 = (unsigned)seed", "unsigned k0 = (unsigned)seed + 1"),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_rule_does_not_pass(tmp_path, mistake):
    shutil.copytree(kernels_dir(), tmp_path, dirs_exist_ok=True)
    header, (right, wrong) = tmp_path / "common.cuh", BROKEN[mistake]
    assert right in header.read_text()
    header.write_text(header.read_text().replace(right, wrong))
    path = next(tmp_path.glob("v1_*.cu"))
    assert not check(load_sampler(source=path), problem_for(load_sampler("v1"), vocab=33))


# ---- the order of blocks, warps and lanes

ORDERED = ("vocab 33, ragged", "one-hot drafts", "zero residual", "empty rows", "NaN and inf", "bad ids", "vocab 1025", "all rejected, bfloat16, padded", "K 128")


@each_rung
def test_the_order_of_threads_changes_nothing(rungs, name):
    """Threads run from barrier to barrier, so that most missing barriers show in one of these orders. Blocks run one by one,
    or take turns where they wait for each other."""
    one = rungs[name]
    cases = {case: given for case, given in quick(one.input).items() if case in ORDERED}
    cases["many tiles"] = EDITS["zero residual"](problem_for(one, batch=2, draft_len=[1, 0], vocab=17001, acceptance=1.0))
    assert len(cases) == len(ORDERED) + 1 and check(one, cases["many tiles"])
    for case, given in cases.items():
        call = one.bind(given)
        forward = [tensor.clone() for tensor in call()]
        for order, seed in (("reversed", 0), ("shuffled", 1), ("shuffled", 2)):
            for tensor in call.outputs:
                tensor.fill_(-99)
            with fibre_order(order, seed):
                assert equal(forward, call()), f"{case}, {order}, seed {seed}"


# ---- a request's tokens are its own

def moved(one, whole, rebatchings, seed=0):
    """Differences between a request's outputs in `whole` and in random re-batchings of it: other slots, sizes, neighbours."""
    choose, found = random.Random(seed), []
    tokens, counts, status = one(whole)
    for _ in range(rebatchings):
        picked = choose.choices(range(whole.batch), k=choose.randint(1, 2 * whole.batch))
        again = one(whole.take(picked))
        for slot, b in enumerate(picked):
            row, width = again.out_tokens[slot], again.out_tokens.shape[1]
            alike = torch.equal(row[:tokens.shape[1]], tokens[b, :width]) and (row[tokens.shape[1]:] == -1).all()
            if not alike or again.num_accepted[slot] != counts[b] or again.status[slot] != status[b]:
                found.append(f"request {b} in slot {slot} of {picked}: {row.tolist()}, alone {tokens[b].tolist()}")
    return found


@each_rung
@pytest.mark.parametrize("words", [{"vocab": 1025}, {"vocab": 5003, "dtype": torch.float16, "row_padding": 5}, {"vocab": 130, "draft_probs": False, "shape": "flat"}],
                         ids=["odd", "half", "one-hot"])
def test_a_request_moves_and_its_tokens_do_not_change(rungs, name, words):
    one = rungs[name]
    differences = moved(one, problem_for(one, **words), rebatchings=24)
    assert not differences, "\n".join(differences[:5])


@each_rung
def test_the_number_of_multiprocessors_changes_nothing(rungs, name, monkeypatch):
    """Rungs that split a row over blocks do so by sm_count."""
    one, outputs = rungs[name], {}
    given = problem_for(one, batch=3, draft_len=[2, 0, 1], vocab=9001)
    for count in (1, 7, 132):
        monkeypatch.setattr(sampler, "CPU_SM_COUNT", count)
        outputs[count] = one(given)
    assert equal(outputs[1], outputs[7]) and equal(outputs[1], outputs[132])


LAZY = [{"MOST": most, "RUSH": rush, "SHARE": 32} for most in (1, 2, 8) for rush in (0, 100_000_000)] + [{"SHARE": 4}]


def test_the_split_of_the_lazy_rung_changes_nothing(monkeypatch):
    """Its blocks wait for each other: one to eight of a row (MOST), one position at a time or all (RUSH), in two ways to take their places."""
    words = {"batch": 4, "draft_len": [3, 0, 1, 2], "logits": True}  # and 18 tiles, of which some blocks get none; or 32
    kinds = (9001, [1.0, 0.0, 0.7, 1.3]), (16001, [0.0, 0.5, 1.0, 0.0])
    problems = [make_problem(**words, vocab=vocab, temperature=heat, draft_lse=lse, seed=vocab) for vocab, heat in kinds for lse in (False, True)]
    first, splits = None, set()
    for tune in LAZY:
        one = load_sampler("v9", **tune)
        for count in (4, 132):
            monkeypatch.setattr(sampler, "CPU_SM_COUNT", count)
            known = one.contract.resolve(one.symbols(problems[0]))
            splits.add((known["ahead"], known["parts"], known["ordered"]))
            for order in ("forward", "reversed"):
                with fibre_order(order):
                    outputs = [one(given) for given in problems]
                first = first or outputs
                assert all(map(equal, first, outputs)), f"{tune}, {count} multiprocessors, {order}"
    assert {(1, 1, 0), (1, 2, 0), (1, 8, 0), (4, 2, 0), (4, 8, 0), (4, 8, 1)} <= splits, splits
    assert all(check(load_sampler("v9"), given) for given in problems)


def test_a_kernel_that_looks_at_its_slot_is_seen():
    text, right = next(kernels_dir().glob("v1_*.cu")).read_text(), "= seeds[request]"
    assert right in text, "v1 reads its seed otherwise now: rewrite this mutant"
    slotted = load_sampler(source=text.replace(right, right + " + (request > 0)"))
    assert moved(slotted, problem_for(slotted), rebatchings=4)


# ---- bytes, compilers

@each_rung
@pytest.mark.parametrize("draft_probs", [True, False])
def test_predicted_bytes_lie_between_the_rows_of_the_draws_and_everything(rungs, name, draft_probs):
    one = rungs[name]
    given = problem_for(one, draft_probs=draft_probs)
    row = given.vocab * given.target.element_size()
    predicted = [one.predicted_bytes(given, rejected) for rejected in range(given.batch + 1)]
    assert predicted == sorted(predicted) and given.batch * row <= predicted[0]
    assert predicted[-1] <= 3 * (2 * given.num_draft + given.batch) * row, "three times every row there is"


@pytest.fixture(scope="module")
def nvrtc():
    """Skips only where CuPy or NVRTC is missing: a kernel that does not compile is an error."""
    pytest.importorskip("cupy", reason="offline compilation needs CuPy: pip install '.[cuda12]'")
    from cupy.cuda import nvrtc
    try:
        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"offline compilation needs NVRTC: {str(error).splitlines()[0]}")


# Every row type on the oldest architecture, where bfloat16 is emulated, and on the one that is measured; else one each (a second apiece).
COMPILED = {75: ROW_DTYPES, 80: (torch.bfloat16,), 89: (torch.float16,), 90: ROW_DTYPES, 100: (torch.float32,)}


@each_rung
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_every_architecture(rungs, nvrtc, name, arch):
    kernels = {launch.kernel for launch in rungs[name].contract.launches}
    for dtype in COMPILED[arch]:
        used = rungs[name].registers(arch, dtype)
        assert kernels <= set(used) and all(0 < used[kernel]["registers"] <= 255 for kernel in kernels), (dtype, used)
        most = 0 if arch == 90 else 80  # nothing where it is measured; elsewhere some registers may be put aside
        assert all(used[kernel]["spill_bytes"] <= most for kernel in kernels), (dtype, used)


def test_what_nvrtc_refuses_names_the_line(nvrtc):
    text = next(kernels_dir().glob("v1_*.cu")).read_text() + "\n__device__ int broken() { return no_such_name; }\n"
    with pytest.raises(KernelCompileError, match=rf"source\.cu does not compile for sm_80:(.|\n)*source\.cu\({len(text.splitlines())}\): error(.|\n)*no_such_name"):
        load_sampler(source=text).registers(80)


def test_a_spill_is_reported(nvrtc):
    """200 live numbers in the 64 registers that a block of 1024 threads leaves each thread."""
    each = "\n#pragma unroll\nfor (int i = 0; i < 200; ++i) "
    text = ('/*\n--- contract ---\ngrid = 1\nblock = 1024\ndraw = "cdf"\n*/\n'
            'extern "C" __global__ void __launch_bounds__(1024) crowded(int vocab, int* status) {\nfloat x[200];'
            f"{each} x[i] = status[i];\nfor (int turn = 0; turn < vocab; ++turn) {{{each} x[i] = x[i] * x[(i + 7) % 200];\n}}{each} status[i] = x[i];\n}}\n")
    used = load_sampler(source=text).registers(90)["crowded"]
    assert used["spill_bytes"] > 0 and 0 < used["registers"] <= 64


# ---- on a GPU

@gpu
@each_rung
def test_gpu_suite(rungs, name):
    one = rungs[name]
    failed = [f"{case}: {result}" for case, result in suite.run_suite(one, "few", "cuda", one.input) if not result]
    assert not failed, "\n".join(failed)


@gpu
@each_rung
def test_gpu_gives_the_tokens_of_the_cpu(rungs, name):
    """Not by contract (a boundary may be rounded otherwise), but on this fixed problem."""
    given = problem_for(rungs[name])
    assert equal([tensor.cpu() for tensor in rungs[name](given.to("cuda"))], reference(given, rungs[name].draw))


@gpu
@each_rung
def test_gpu_graph_follows_positions_in_device_memory(rungs, name):
    one = rungs[name]
    given = problem_for(one, device="cuda", vocab=5003)
    call, seen = one.bind(given), set()
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for _ in range(6):
        given.positions.add_(9)
        for tensor in call.outputs:
            tensor.fill_(-99)
        graph.replay()
        torch.cuda.synchronize()
        assert equal(call.outputs, one(given)) and check(one, given)
        seen.add(str(call.outputs.out_tokens.tolist()))
    assert len(seen) > 3, "new positions give new tokens"


@gpu
@each_rung
def test_gpu_call_from_another_thread(rungs, name):
    given = problem_for(rungs[name], device="cuda")
    call = rungs[name].bind(given)
    expected, raised = [tensor.clone() for tensor in call()], []
    for tensor in call.outputs:
        tensor.fill_(-99)
    torch.cuda.synchronize()

    def work():
        try:
            call()
            torch.cuda.synchronize()
        except BaseException as error:
            raised.append(error)
            raise
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not raised and equal(expected, call.outputs)


@gpu
@each_rung
def test_gpu_call_is_on_the_current_stream(rungs, name):
    """The call must wait for the positions, which its stream writes only after a long wait."""
    one = rungs[name]
    given = problem_for(one, device="cuda")
    call, stream = one.bind(given), torch.cuda.Stream()
    before = [tensor.clone() for tensor in call()]
    later = given.positions + 1000
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        given.positions.copy_(later)
        call()
    stream.synchronize()
    torch.cuda.synchronize()
    assert not torch.equal(before[0], call.outputs.out_tokens) and equal(call.outputs, one(given))


@gpu
@each_rung
def test_gpu_graph_is_timed(rungs, name):
    timing = bench.benchmark(rungs[name], problem_for(rungs[name], device="cuda"), repeats=10)
    assert timing.check and timing.gpu_us and not timing.gpu_us_missing


@gpu
def test_gpu_compile_error_names_the_line():
    text = next(kernels_dir().glob("v1_*.cu")).read_text() + "\n__device__ int broken() { return no_such_name; }\n"
    with pytest.raises(KernelCompileError, match=rf"source\.cu\({len(text.splitlines())}\): error"):
        load_sampler(source=text)(make_problem(2, 1, vocab=3, device="cuda"))


@gpu
def test_shared_memory_of_both_kinds_that_only_together_is_more_than_is_given_unasked():
    """48 KB of dynamic shared memory beside static memory: refused by the driver if it has not been asked for."""
    source = '''/*
K - a test
--- contract ---
grid   = "batch"
block  = 1
shared = 49152
draw   = "cdf"
*/
extern "C" __global__ void k(int* status) {
    extern __shared__ int most[];
    __shared__ int one;
    most[12287] = 2, one = 1;
    status[blockIdx.x] = most[12287] + one;
}'''
    assert load_sampler(source=source).bind(make_problem(2, 1, vocab=9, device="cuda"))().status.tolist() == [3, 3]
