"""A kernel file as a sampler: found, read, compiled, bound by name, launched; and its errors. On the CPU executor."""
import ctypes
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spec_toolkit import baselines, cpu, gpu, load_sampler, make_problem, peers, sampler
from spec_toolkit.contract import ContractError
from spec_toolkit.paths import kernels_dir
from spec_toolkit.sampler import list_kernels, list_samplers

PLAIN = 'grid = "batch"\nblock = 1\ndraw = "cdf"\n'
STATUS = "int batch, int* status"


def text(body="status[blockIdx.x] = 1;", parameters=STATUS, toml=PLAIN, before="", name="k"):
    """The text of a kernel file."""
    return f'/*\nK - a test\nIdea  none\n--- contract ---\n{toml}*/\n{before}\nextern "C" __global__ void {name}({parameters}) {{\n{body}\n}}\n'


def statuses(source, problem=None, **tune):
    return load_sampler(source=source, **tune)(problem or make_problem(3, [2, 0, 1], vocab=33)).status.tolist()


def refused(error=ContractError, **words):
    with pytest.raises(error) as caught:
        load_sampler(source=text(**words))
    return str(caught.value)


@pytest.fixture(scope="module")
def problem():
    return make_problem(3, [2, 0, 1], vocab=33)


# ---- finding

def test_by_name_stem_text_and_path(problem):
    path = next(kernels_dir().glob("v1_*.cu"))
    found = [load_sampler("v1"), load_sampler(path.stem), load_sampler(source=path), load_sampler(source=path.read_text())]
    assert [one.name for one in found] == ["v1", "v1", path.stem, path.stem]
    assert len({one.source_hash for one in found}) == 1 and {one.kind for one in found} == {"kernel"}
    tokens = [one(problem).out_tokens for one in found]
    assert all(torch.equal(tokens[0], others) for others in tokens) and (tokens[0][:, 0] >= 0).all()


def test_a_new_file_is_a_new_rung_and_rungs_are_in_numerical_order(monkeypatch, tmp_path, problem):
    for name in ("v10_last", "v2_second", "v9_mine"):
        (tmp_path / f"{name}.cu").write_text(text(f"status[blockIdx.x] = {name[1]};", name=name))
    (tmp_path / "notes.cu").write_text("not a rung")
    monkeypatch.setattr(sampler, "kernels_dir", lambda: tmp_path)
    assert list_kernels() == ["v2", "v9", "v10"] and list_samplers() == ["v2", "v9", "v10", *baselines.BASELINES]
    assert load_sampler("v9")(problem).status.tolist() == [9] * 3 and load_sampler("v10_last").name == "v10"


def test_no_rung_hides_another():
    assert len(list_kernels()) == len(list(kernels_dir().glob("v*.cu")))


@pytest.mark.parametrize("name", ["v0", "V1", "v1_one", "v1.cu", "", "python", "../v1"])
def test_an_unknown_name_is_answered_with_the_names(name):
    with pytest.raises(ValueError) as caught:
        load_sampler(name)
    assert str(caught.value) == f"sampler: got {name!r}, accepted: {', '.join([*list_samplers(), *peers.PEERS])}"


def test_a_name_and_a_source_or_neither():
    for words in ({}, {"name": "v1", "source": text()}):
        with pytest.raises(ValueError, match="give a name or source=, not both; names: v1, v2"):
            load_sampler(**words)
    with pytest.raises(FileNotFoundError):
        load_sampler(source=Path("no/such/kernel.cu"))


def test_baselines_come_by_name_and_take_no_tune():
    for name in baselines.BASELINES:
        assert load_sampler(name).name == name
    for name in (*baselines.BASELINES, *peers.PEERS):
        with pytest.raises(ValueError, match=f"{name}: got BLOCK, accepted: no tune parameters"):
            load_sampler(name, BLOCK=32)


# ---- tune macros and headers

TUNED = PLAIN + "tune = { WIDTH = 4, DEPTH = 5 }\n"


def test_tune_changes_the_kernel_its_name_and_its_hash():
    source = text("status[blockIdx.x] = 100 * WIDTH + DEPTH;", toml=TUNED)
    plain, same, wide, both = (load_sampler(source=source, **tune) for tune in ({}, {"WIDTH": 4}, {"WIDTH": 7}, {"WIDTH": 7, "DEPTH": 6}))
    assert [one.name for one in (plain, same, wide, both)] == ["k", "k-WIDTH4", "k-WIDTH7", "k-DEPTH6-WIDTH7"]
    assert plain.source_hash == same.source_hash and len({one.source_hash for one in (plain, wide, both)}) == 3
    assert wide.tune == {"WIDTH": 7, "DEPTH": 5} and wide.defines(torch.float16) == {"ROW": "__half", "WIDTH": 7, "DEPTH": 5}
    assert [statuses(source, **tune)[0] for tune in ({}, {"WIDTH": 7, "DEPTH": 6})] == [405, 706]


def test_tune_reaches_the_expressions():
    source = text("atomicAdd(status, blockIdx.x == 0 && threadIdx.x == 0 ? 1000 * gridDim.x + blockDim.x : 0);",
                  toml='grid = "batch * WIDTH"\nblock = "DEPTH"\ndraw = "cdf"\ntune = { WIDTH = 1, DEPTH = 2 }\n')
    call = load_sampler(source=source, WIDTH=5, DEPTH=3).bind(make_problem(2, 1, vocab=3))
    call.outputs.status.zero_()
    assert call().status[0] == 10_003


@pytest.mark.parametrize("tune, words", [({"BLOKC": 1}, "unknown tune parameter 'BLOKC'; accepted: "), ({"BLOCK": "32"}, "BLOCK: got '32', accepted: an integer")])
def test_wrong_tune(tune, words):
    with pytest.raises(ContractError, match=words) as caught:
        load_sampler("v1", **tune)
    assert str(caught.value).startswith("v1_one_thread.cu: ")


def test_a_changed_header_changes_the_hash_and_the_result(tmp_path, problem):
    path = tmp_path / "mine.cu"
    path.write_text(text("status[blockIdx.x] = ANSWER;", before='#include "outer.cuh"'))
    (tmp_path / "outer.cuh").write_text('#include "inner.cuh"\n')
    hashes = []
    for answer in (41, 42, 41):
        (tmp_path / "inner.cuh").write_text(f"#define ANSWER {answer}\n")
        mine = load_sampler(source=path)
        hashes.append(mine.source_hash)
        assert mine.name == "mine" and mine(problem).status.tolist() == [answer] * 3
    assert hashes[0] == hashes[2] != hashes[1]
    (tmp_path / "bystander.cuh").write_text("// included by nobody\n")
    assert load_sampler(source=path).source_hash == hashes[0]


def test_a_kernel_in_another_folder_finds_the_rungs_headers_behind_its_own(tmp_path, monkeypatch, problem):
    (tmp_path / "mine.cu").write_text(next(kernels_dir().glob("v1_*.cu")).read_text())
    monkeypatch.chdir(tmp_path)
    mine, rung = load_sampler(source=Path("mine.cu")), load_sampler("v1")
    assert mine.source_hash == rung.source_hash and torch.equal(mine(problem).out_tokens, rung(problem).out_tokens)
    (tmp_path / "common.cuh").write_text((kernels_dir() / "common.cuh").read_text() + "#define OWN 1\n")
    own = load_sampler(source=Path("mine.cu"))
    assert own.source_hash != rung.source_hash and next(iter(gpu.headers(own.text, own.folders))) == tmp_path / "common.cuh"
    monkeypatch.chdir("/")
    assert torch.equal(own(problem).out_tokens, rung(problem).out_tokens)


def test_a_header_looks_beside_itself_first(tmp_path):
    for folder in ("mine", "rungs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "inner.cuh").write_text(folder)
    (tmp_path / "rungs" / "outer.cuh").write_text('#include "inner.cuh"')
    found = gpu.headers('#include "outer.cuh"\n  # include "inner.cuh"\n#include "absent.cuh"\n#include <cuda_fp16.h>', [tmp_path / "mine", tmp_path / "rungs"])
    assert {str(path.relative_to(tmp_path)) for path in found} == {"rungs/outer.cuh", "rungs/inner.cuh", "mine/inner.cuh"}


def test_cupys_cache_is_told_of_the_headers(tmp_path):
    """CuPy's key is the source alone: a change of a header must show in it, and the line numbers must not."""
    source, seen = text(before='#include "a.cuh"'), []
    for answer in "12":
        (tmp_path / "a.cuh").write_text(answer)
        seen.append(gpu._source(source, "mine.cu", [tmp_path]))
    assert seen[0] != seen[1] and all(one.endswith(f'\n#line 1 "mine.cu"\n{source}') for one in seen)


# ---- parameters, bound by name

def test_an_unknown_parameter_is_answered_with_the_names():
    said = refused(parameters="int batch, int* stauts", toml=PLAIN + 'values = { tiles = "1" }\nscratch = { sums = "1" }\n')
    assert said.startswith("source.cu: unknown parameter 'stauts'; accepted: target_probs, draft_probs, ")
    assert {"out_tokens", "status", "draft_start", "batch", "sm_count", "draft_stride", "tiles", "sums"} <= {*re.findall(r"\w+", said)}


@pytest.mark.parametrize("parameter, words", [
    ("const float* target_probs", "'target_probs': got type 'const float*', accepted: const ROW* (inputs are const"),
    ("ROW* target_probs", "'target_probs': got type 'ROW*', accepted: const ROW*"),
    ("const int* seeds", "'seeds': got type 'const int*', accepted: const unsigned long long*"),
    ("long long* num_accepted", "'num_accepted': got type 'long long*', accepted: int*"),
    ("const int* status", "'status': got type 'const int*', accepted: int*"),
    ("int* batch", "'batch': got type 'int*', accepted: int, unsigned, "),
    ("float vocab", "'vocab': got type 'float', accepted: int, unsigned, unsigned int, long long, unsigned long long"),
    ("int draft_start", "'draft_start': got type 'int', accepted: const int*"),
    ("float tiles", "'tiles': got type 'float', accepted: int, "),
    ("short* sums", "'sums': got type 'short*', accepted: float*, double*, int*, "),
    ("const short* sums", "'sums': got type 'const short*', accepted: float*"),
])
def test_a_wrong_type_is_answered_with_the_right_one(parameter, words):
    assert words in refused(parameters=parameter, toml=PLAIN + 'values = { tiles = "1" }\nscratch = { sums = "1" }\n')


EVERYTHING = ("const ROW* __restrict__ target_probs, const ROW* draft_probs, const int* draft_tokens, const int* draft_start, const float* temperature, "
              "const unsigned long long* seeds, const long long* positions, int batch, const int vocab, unsigned num_draft, long long max_draft, "
              "unsigned int itemsize, unsigned long long sm_count, long long target_stride, int draft_stride, int tiles, int* out_tokens, "
              "int* num_accepted, int* status")


def test_every_parameter_holds_what_its_name_says():
    source = text("""
    if (blockIdx.x) return;
    const long long got[] = {batch, vocab, num_draft, max_draft, itemsize, (long long)sm_count, target_stride, draft_stride, tiles};
    for (int i = 0; i < 9; ++i) out_tokens[i] = (int)got[i];
    num_accepted[0] = draft_tokens[1], num_accepted[1] = draft_start[3], num_accepted[2] = seeds[2] >> 40;
    status[0] = positions[2] >> 20, status[1] = (temperature == nullptr) + 2 * (draft_probs == nullptr);
    status[2] = target_probs[5 * target_stride + 1] == ROW(0.25f) && (!draft_probs || draft_probs[2 * draft_stride + 1] == ROW(0.5f));""", EVERYTHING,
                  PLAIN + 'values = { tiles = "ceil_div(vocab, 8) * sm_count" }\n')
    for draft_probs in (True, False):
        given = make_problem(3, [2, 0, 1], vocab=33, row_padding=7, draft_probs=draft_probs, dtype=torch.bfloat16)
        given.target[5, 1] = 0.25
        if draft_probs:
            given.draft[2, 1] = 0.5
        tokens, counts, status = load_sampler(source=source)(given)
        stride = 40 if draft_probs else 0
        assert tokens.flatten().tolist() == [3, 33, 3, 2, 2, sampler.CPU_SM_COUNT, 40, stride, 5 * sampler.CPU_SM_COUNT]
        assert counts.tolist() == [int(given.draft_tokens[1]), 3, int(given.seeds[2]) >> 40]
        assert status.tolist() == [int(given.positions[2]) >> 20, 1 if draft_probs else 3, 1]


def test_a_number_that_does_not_fit_its_c_type(problem):
    source = text("", "long long big", PLAIN + 'values = { big = "batch * 1000000000" }\n')
    assert load_sampler(source=source)(problem)
    with pytest.raises(ValueError, match=r"'big': 3000000000 does not fit"):
        load_sampler(source=source.replace("long long big", "int big"))(problem)
    assert load_sampler(source=source.replace("long long big", "unsigned big"))(problem)


def test_a_stride_past_32_bits_needs_a_long_long():
    wide = torch.as_strided(torch.rand(5), (1, 5), (2**31, 1))
    given = replace(make_problem(1, 0, vocab=5), target_probs=wide)
    source = text("status[0] = target_stride >> 31;", "long long target_stride, int* status")
    assert statuses(source, given) == [1]
    with pytest.raises(ValueError, match="'target_stride': 2147483648 does not fit"):
        statuses(source.replace("long long", "int"), given)


def test_values_for_the_gpu_have_the_width_of_the_signature():
    """What GpuCall is given; the launch itself is in test_kernels.py."""
    numbers = {"n": 3_000_000_000}
    assert ctypes.sizeof(sampler._value("const long long", "n", {}, numbers)) == 8 and sampler._value("unsigned", "n", {}, numbers).value == 3_000_000_000
    assert ctypes.sizeof(sampler._value("int", "n", {}, {"n": 3})) == 4
    with pytest.raises(ValueError, match="n: 3000000000 does not fit int; use long long in the kernel's signature"):
        sampler._value("int", "n", {}, numbers)
    assert sampler._value("const ROW*", "draft_probs", {"draft_probs": 0}, {}).value is None


# ---- problems

def test_the_kind_of_the_problem():
    logits = make_problem(2, 2, vocab=9, logits=True)
    with pytest.raises(ValueError) as caught:
        load_sampler("v1").bind(logits)
    assert str(caught.value) == "v1: got a problem of logits, accepted: probs; problem.probs() gives its probabilities"
    assert load_sampler("v1")(logits.probs()).num_accepted.shape == (2,)
    source = text("status[blockIdx.x] = temperature[blockIdx.x] * 2;", "const ROW* target_logits, const float* temperature, int* status",
                  PLAIN + 'input = "logits"\n')
    assert statuses(source, make_problem(2, 1, vocab=9, logits=True, temperature=[0.5, 2.0])) == [1, 4]
    with pytest.raises(ValueError, match=r"k: got a problem of probs, accepted: logits$"):
        load_sampler(source=source).bind(logits.probs())


def test_bound_outputs_are_reused_and_fresh_ones_are_not(problem):
    one = load_sampler("v1")
    call = one.bind(problem)
    assert call() is call.outputs and call() is call.outputs
    first, second = one(problem), one(problem)
    addresses = {tensor.data_ptr() for outputs in (call.outputs, first, second) for tensor in outputs}
    assert len(addresses) == 9
    expected = first.out_tokens.clone()
    second.out_tokens.fill_(-7), call.outputs.out_tokens.fill_(-7)
    assert torch.equal(first.out_tokens, expected) and torch.equal(call().out_tokens, expected)


def test_a_bound_call_reads_the_tensors_as_they_are_now():
    given = make_problem(3, [2, 0, 1], vocab=33)
    call = load_sampler(source=text("status[blockIdx.x] = (int)positions[blockIdx.x];", "const long long* positions, int* status")).bind(given)
    for step in (5, 6):
        given.positions.fill_(step)
        assert call().status.tolist() == [step] * 3


@pytest.mark.parametrize("name", ["v1", "broken"])
def test_an_empty_batch_launches_and_compiles_nothing(name):
    source = {"source": text("this is no C;")} if name == "broken" else {"name": name}
    outputs = load_sampler(**source)(make_problem(0, 3, vocab=33))
    assert [tuple(tensor.shape) for tensor in outputs] == [(0, 1), (0,), (0,)]


def test_a_launch_that_cannot_start_says_so(problem):
    with pytest.raises(ValueError, match="grid and block are three sizes of at least 1"):
        load_sampler(source=text(toml='grid = "batch - 3"\nblock = 1\ndraw = "cdf"\n'))(problem)
    with pytest.raises(ContractError, match=r"source\.cu: expression 'batches': 'batches' is not accepted; names: batch, vocab, .*sm_count"):
        load_sampler(source=text(toml='grid = "batches"\nblock = 1\ndraw = "cdf"\n')).bind(problem)


# ---- several launches and scratch

PAIR = '''/*
--- contract ---
draw    = "cdf"
scratch = { squares = "batch * 2", calls = 1 }
[[launch]]
kernel = "first"
grid   = "batch"
block  = 2
[[launch]]
kernel = "second"
grid   = 1
block  = 1
shared = "4 * batch"
*/
extern "C" __global__ void first(long long* squares) {
    const int i = blockIdx.x * 2 + threadIdx.x;
    squares[i] = i * i;
}
extern "C" __global__ void second(const int* draft_start, long long* squares, int* calls, int batch, int* status) {
    extern __shared__ int copy[];
    for (int i = 0; i < batch; ++i) copy[i] = 100 * ++calls[0] + (int)(squares[2 * i] + squares[2 * i + 1]);
    for (int i = 0; i < batch; ++i) status[i] = copy[i];
}
'''


def test_two_launches_share_scratch_which_is_zero_at_the_first_call(problem):
    call = load_sampler(source=PAIR).bind(problem)
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in call.scratch.items()} == {
        "squares": (torch.int64, [0] * 6), "calls": (torch.int32, [0])}
    sums = [0 + 1, 4 + 9, 16 + 25]
    assert call().status.tolist() == [100 * (i + 1) + s for i, s in enumerate(sums)]
    assert call().status.tolist() == [100 * (i + 4) + s for i, s in enumerate(sums)], "scratch is kept between the calls of one Call"
    assert load_sampler(source=PAIR)(problem).status[0] == 101, "and is a Call's own"


def test_scratch_that_no_kernel_takes(problem):
    with pytest.raises(ContractError, match=r"source\.cu: scratch 'lost' is no kernel's parameter"):
        load_sampler(source=text(toml=PLAIN + "scratch = { lost = 1 }\n")).bind(problem)


# ---- compiling

def test_a_compile_error_names_the_line_of_the_kernel(problem):
    broken = load_sampler(source=text("status[0] = missing_name;"))
    with pytest.raises(cpu.CpuCompileError) as caught:
        broken(problem)
    line = broken.text.splitlines().index("status[0] = missing_name;") + 1
    assert f"source.cu:{line}:" in str(caught.value) and "missing_name" in str(caught.value) and "kernel k" in str(caught.value)


def test_a_kernel_is_compiled_once_for_each_row_type(monkeypatch):
    compiled, compile_kernel = [], cpu.compile_kernel
    monkeypatch.setattr(sampler.cpu, "compile_kernel", lambda *words: compiled.append(words[4]["ROW"]) or compile_kernel(*words))
    one = load_sampler(source=text("status[blockIdx.x] = sizeof(ROW);", before='#include "common.cuh"'))
    for dtype, size in ((torch.float32, 4), (torch.float16, 2), (torch.float32, 4), (torch.bfloat16, 2)):
        assert one(make_problem(2, 1, vocab=3, dtype=dtype)).status.tolist() == [size] * 2
    assert compiled == ["float", "__half", "__nv_bfloat16"]


def test_predicted_bytes(problem):
    one = load_sampler(source=text(toml=PLAIN + 'bytes = "(batch + rejected) * vocab * itemsize"\n'))
    assert [one.predicted_bytes(problem, rejected) for rejected in (0, 2)] == [3 * 33 * 4, 5 * 33 * 4]


# ---- printing

def test_show(monkeypatch, capsys, problem):
    monkeypatch.setattr(gpu, "compile_offline", lambda *words: {"k": {"registers": 17, "spill_bytes": 8, "shared_bytes": 256}})
    one = load_sampler(source=text(toml=TUNED + 'bytes = "(batch + rejected) * vocab"\n'), WIDTH=9)
    assert one.show(problem) is None
    said = capsys.readouterr().out
    assert said.startswith("k-WIDTH9  (source.cu, cdf draw)\n\nK - a test\nIdea  none\n\n") and "--- contract ---" not in said
    assert "launch    k  grid ('batch', '1', '1')  block ('1', '1', '1')" in said and "tune      WIDTH = 9, DEPTH = 5" in said
    assert "sm_90     k: 17 registers, 8 bytes spilled, 256 bytes shared" in said and "bytes     99 (all accepted) to 198 (all rejected)" in said
    assert repr(one) == "KernelSampler('k-WIDTH9', draw='cdf', ulps=1, source.cu)"


def test_show_without_cupy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy._core.core", None)
    load_sampler("v1").show(arch=80)
    said = capsys.readouterr().out
    assert "sm_80     not compiled: " in said and "bytes  " not in said
