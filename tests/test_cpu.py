"""The CPU executor: does it compute what CUDA would, and does it catch and name what a GPU would punish?"""
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from spec_toolkit.cpu import CpuCompileError, CpuExecutionError, compile_kernel, fibre_order

ORDERS = ["forward", "reversed", "shuffled", "interleaved"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of this module's own, so that the tests see real compilations."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("SPEC_TOOLKIT_CACHE")
    os.environ["SPEC_TOOLKIT_CACHE"] = str(folder)
    yield folder
    os.environ.pop("SPEC_TOOLKIT_CACHE") if before is None else os.environ.update(SPEC_TOOLKIT_CACHE=before)


def kernel(body, params, before="", defines=None, include_dirs=(), name="k"):
    """A kernel `name` with this signature and body; the body's first line is line 3 + (lines in `before`)."""
    signature = ", ".join(f"{t} {p}" for t, p in params)
    text = f'{before}\nextern "C" __global__ void {name}({signature})\n{{{body}\n}}\n'
    return compile_kernel(text, name, "test.cu", params, defines or {}, include_dirs)


def run(built, grid=1, block=1, shared_bytes=0, **args):
    shape = lambda n: n if isinstance(n, tuple) else (n, 1, 1)
    built.launch(shape(grid), shape(block), args, shared_bytes)


def error(built, grid=1, block=1, shared_bytes=0, **args):
    with pytest.raises(CpuExecutionError) as caught:
        run(built, grid, block, shared_bytes, **args)
    return str(caught.value)


X_OUT = [("const float*", "x"), ("float*", "out")]
OUT = [("int*", "out")]


# ---- computing

@pytest.mark.parametrize("order", ORDERS)
def test_block_reduction_in_a_template_with_static_shared_memory(order):
    built = kernel("float s = 0; for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];"
                   "s = block_sum<float>(s); if (threadIdx.x == 0) atomicAdd(out, s);", [*X_OUT, ("int", "n")],
                   before="""template <typename T> __device__ __forceinline__ T block_sum(T v) {
    __shared__ T part[32];
    for (int by = 16; by; by /= 2) v += __shfl_down_sync(0xffffffffu, v, by);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    T total = 0;
    for (int w = 0; w < blockDim.x / 32; ++w) total += part[w];
    return total;
}""")
    x, out = torch.arange(5000.0), torch.zeros(1)
    with fibre_order(order, seed=3):
        run(built, 4, 256, x=x, out=out, n=1000)
    assert out.item() == 999 * 1000 / 2


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("block", [1, 2, 31, 32, 33, 64, 100, 1024])
def test_scan_over_dynamic_shared_memory(block, order):
    built = kernel("""
    extern __shared__ __align__(16) unsigned char raw[];
    int* s = reinterpret_cast<int*>(raw);
    const int t = threadIdx.x;
    s[t] = x[t];
    __syncthreads();
    for (int by = 1; by < blockDim.x; by *= 2) {
        const int left = t >= by ? s[t - by] : 0;
        __syncthreads();
        s[t] += left;
        __syncthreads();
    }
    out[t] = s[t];""", [("const int*", "x"), ("int*", "out")])
    x, out = torch.randint(0, 99, (block,), dtype=torch.int32), torch.zeros(block, dtype=torch.int32)
    with fibre_order(order, seed=block):
        run(built, 1, block, shared_bytes=4 * block, x=x, out=out)
    assert torch.equal(out, x.cumsum(0).int())


def test_dynamic_shared_memory_at_file_scope_and_in_three_dimensions():
    built = kernel("const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);"
                   "tile[t] = t; __syncthreads(); const int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);"
                   "out[b * 24 + t] = 100 * b + tile[23 - t];", OUT, before="extern __shared__ int tile[];")
    out = torch.zeros(12, 24, dtype=torch.int32)
    run(built, (2, 3, 2), (2, 3, 4), shared_bytes=96, out=out)
    assert torch.equal(out, 100 * torch.arange(12).int()[:, None] + torch.arange(23, -1, -1).int())


COLLECTIVES = [
    ("__shfl_sync(~0u, lane * 10, 5)", lambda i: 50),
    ("__shfl_sync(~0u, lane, 2, 8)", lambda i: i // 8 * 8 + 2),
    ("__shfl_up_sync(~0u, lane, 3)", lambda i: i - 3 if i >= 3 else i),
    ("__shfl_down_sync(~0u, lane, 3, 16)", lambda i: i + 3 if i % 16 < 13 else i),
    ("__shfl_xor_sync(~0u, lane, 17)", lambda i: i ^ 17),
    ("(int)(__shfl_xor_sync(~0u, (1ull << 40) + lane, 1) - (1ull << 40))", lambda i: i ^ 1),
    ("(int)__shfl_xor_sync(~0u, lane + 0.5, 2)", lambda i: i ^ 2),
    ("(int)__ballot_sync(~0u, lane % 4 == 0)", lambda i: 0x11111111),
    ("__any_sync(~0u, lane == 7) + 2 * __all_sync(~0u, lane < 31)", lambda i: 1),
    ("(int)__popc(__match_any_sync(~0u, lane / 3))", lambda i: 2 if i >= 30 else 3),
    ("__reduce_add_sync(~0u, lane)", lambda i: 496),
    ("__reduce_min_sync(~0u, 5 - lane)", lambda i: -26),
    ("(int)__reduce_max_sync(~0u, (unsigned)(lane - 1)) ", lambda i: -1),
    ("lane < 8 ? __shfl_sync(0xffu, lane, 3) : __shfl_sync(0xffffff00u, lane, 9)", lambda i: 3 if i < 8 else 9),
    ("__syncthreads_count(lane < 5) * 100 + __syncthreads_and(lane < 5) * 10 + __syncthreads_or(lane < 5)", lambda i: 501),
]


@pytest.mark.parametrize("order", ORDERS)
def test_collectives(order):
    body = "const int lane = threadIdx.x;\n" + "\n".join(
        f"out[{32 * row} + lane] = {call};" for row, (call, _) in enumerate(COLLECTIVES))
    out = torch.zeros(len(COLLECTIVES), 32, dtype=torch.int32)
    with fibre_order(order):
        run(kernel(body, OUT), 1, 32, out=out)
    for row, (call, expected) in zip(out.tolist(), COLLECTIVES):
        assert row == [expected(i) for i in range(32)], call


def test_intrinsics():
    lines = ["__umulhi(0x80000000u, 6u) == 3", "__umul64hi(1ull << 63, 6ull) == 3", "__popcll(~0ull) == 64", "__clz(1) == 31",
             "__clzll(0) == 64", "__ffs(8) == 4", "__brev(1u) == 0x80000000u", "__float_as_uint(1.f) == 0x3f800000u",
             "__uint_as_float(0x40000000u) == 2.f", "__hiloint2double(0x3ff00000, 0) == 1.0", "max(1u, 2) == 2u",
             "fmaxf(NAN, 1.f) == 1.f", "max(NAN, 1.f) == 1.f", "min(2.0, 1.f) == 1.0", "isinf(INFINITY)", "__saturatef(2.f) == 1.f",
             "__fmaf_rn(2.f, 3.f, 4.f) == 10.f", "fabsf(__expf(1.f) - 2.7182818f) < 1e-6f", "warpSize == 32",
             "make_float4(1, 2, 3, 4).w == 4.f", "sizeof(float3) == 12 && alignof(uint4) == 16"]
    body = "\n".join(f"if (!({line})) atomicOr(out, 1 << {i});" for i, line in enumerate(lines))
    out = torch.zeros(1, dtype=torch.int32)
    run(kernel(body, OUT), out=out)
    assert [line for i, line in enumerate(lines) if out.item() >> i & 1] == []


def test_atomics():
    built = kernel("atomicMax(out, threadIdx.x); atomicMin(out + 1, -(int)threadIdx.x); atomicInc((unsigned*)out + 2, 4u);"
                   "if (atomicCAS(out + 3, 0, 9) == 0) atomicExch(out + 4, 7); atomicSub(out + 5, 1);", OUT)
    out = torch.zeros(6, dtype=torch.int32)
    run(built, 1, 12, out=out)
    assert out.tolist() == [11, -11, 2, 9, 7, -12]


def test_scalars_keep_their_width_and_none_is_a_null_pointer():
    params = [("long long*", "out"), ("long long", "a"), ("unsigned long long", "b"), ("int", "c"), ("double", "d"),
              ("float", "e"), ("const float*", "p")]
    built = kernel("out[0] = a; out[1] = (long long)b; out[2] = c; out[3] = d == 0.1; out[4] = e == 0.1f; out[5] = p == nullptr;", params)
    out = torch.zeros(6, dtype=torch.int64)
    given = {"out": out, "a": -(2**62), "b": 2**64 - 1, "c": -7, "d": 0.1, "e": 0.1, "p": None}
    run(built, **given)
    assert out.tolist() == [-(2**62), -1, -7, 1, 1, 1]
    with pytest.raises(ValueError, match="'c'.*does not fit"):
        run(built, **{**given, "c": 2**31})
    with pytest.raises(TypeError, match="missing.*'d'"):
        run(built, out=out)


SMALL = [("__half", "cuda_fp16.h", torch.float16, "__half2float", "__float2half"),
         ("__nv_bfloat16", "cuda_bf16.h", torch.bfloat16, "__bfloat162float", "__float2bfloat16")]


@pytest.mark.parametrize("ctype, header, dtype, widen, narrow", SMALL)
def test_16_bit_conversions_match_torch(ctype, header, dtype, widen, narrow):
    params = [("const ROW*", "rows"), ("const float*", "x"), ("float*", "wide"), ("ROW*", "narrow")]
    built = kernel(f"const int i = blockIdx.x * blockDim.x + threadIdx.x; wide[i] = {widen}(rows[i]); narrow[i] = {narrow}(x[i]);",
                   params, before=f"#include <{header}>", defines={"ROW": ctype})
    rows = torch.arange(-32768, 32768).to(torch.int16).view(dtype)
    # each value, and the floats about half way to the next, where rounding decides
    middles = (rows.float().view(torch.int32) + (0x1000 if dtype == torch.float16 else 0x8000)).view(torch.float32)
    for x in (rows.float(), middles, (middles.view(torch.int32) + 1).view(torch.float32),
              (middles.view(torch.int32) - 1).view(torch.float32), torch.randn(65536) * 10.0 ** torch.randint(-9, 6, (65536,))):
        wide, out = torch.zeros(65536), torch.zeros(65536, dtype=dtype)
        run(built, 256, 256, rows=rows, x=x, wide=wide, narrow=out)
        number = ~rows.isnan()
        assert torch.equal(wide[number].view(torch.int32), rows.float()[number].view(torch.int32)) and wide[~number].isnan().all()
        number = ~x.isnan()
        assert torch.equal(out[number].view(torch.int16), x.to(dtype)[number].view(torch.int16)) and out[~number].isnan().all()


def test_float32_subnormals_are_zero_and_the_mode_ends_with_the_launch():
    built = kernel("out[0] = x[0] * two; out[1] = x[0] > 0.f; out[2] = x[1] / two; out[3] = x[1];", [*X_OUT, ("float", "two")])
    x, out = torch.tensor([1e-40, 1.2e-38]), torch.ones(4)
    run(built, x=x, out=out, two=2)
    assert out.tolist() == [0, 0, 0, x[1].item()]
    assert (x[0] * 1.0).item() > 0


def test_shared_memory_starts_as_nan_in_every_block():
    built = kernel("__shared__ float s[4]; out[blockIdx.x] = s[1]; s[1] = 1.f;", X_OUT[1:])
    out = torch.zeros(3)
    run(built, 3, out=out)
    assert out.isnan().all()


def test_padded_rows_and_misaligned_base():
    built = kernel("out[threadIdx.x] = x[threadIdx.x * stride]; where[0] = (int)((unsigned long long)x % 16);",
                   [*X_OUT, ("int*", "where"), ("int", "stride")])
    whole = torch.arange(103.0)
    for offset in (0, 1, 3):
        rows = whole[offset:offset + 100].view(10, 10)[:, :7]
        out, where = torch.zeros(10), torch.zeros(1, dtype=torch.int32)
        run(built, 1, 10, x=rows, out=out, where=where, stride=10)
        assert torch.equal(out, rows[:, 0]) and where.item() == rows.data_ptr() % 16


# ---- catching

def test_missing_barrier_shows_in_the_order_of_the_fibres():
    body = "__shared__ float s[64]; s[threadIdx.x] = x[threadIdx.x]; {} out[threadIdx.x] = s[63 - threadIdx.x];"
    x = torch.arange(64.0)
    for barrier, same in (("__syncthreads();", True), ("", False)):
        built, results = kernel(body.format(barrier), X_OUT), []
        for order in ("forward", "reversed"):
            out = torch.zeros(64)
            with fibre_order(order):
                run(built, 1, 64, x=x, out=out)
            results.append(out)
        assert torch.equal(*results) is same


def test_block_order_is_reversed_and_seeds_differ():
    built = kernel("out[atomicAdd(out + 40, 1)] = blockIdx.x;", OUT)
    seen = {}
    for order, seed in (("forward", 0), ("reversed", 0), ("shuffled", 1), ("shuffled", 2)):
        out = torch.zeros(41, dtype=torch.int32)
        with fibre_order(order, seed):
            run(built, 40, out=out)
        seen[order, seed] = out[:40].tolist()
    assert seen["forward", 0] == list(range(40)) and seen["reversed", 0] == list(range(39, -1, -1))
    assert seen["shuffled", 1] != seen["shuffled", 2] and sorted(seen["shuffled", 1]) == list(range(40))


def test_blocks_take_turns_at_barriers():
    """Each block counts what it finds started, behind a barrier: run one by one, it is alone."""
    built = kernel("if (threadIdx.x == 0) atomicAdd(out + gridDim.x, 1); __syncthreads(); if (threadIdx.x == 0) out[blockIdx.x] = out[gridDim.x];", OUT)
    seen = {}
    for order, seed in (("forward", 0), ("interleaved", 0), ("interleaved", 1), ("interleaved", 1)):
        out = torch.zeros(41, dtype=torch.int32)
        with fibre_order(order, seed):
            run(built, 40, 64, out=out)
        assert out[40] == 40 and seen.setdefault((order, seed), out[:40].tolist()) == out[:40].tolist()
    assert seen["forward", 0] == list(range(1, 41))
    assert len(set(map(tuple, seen.values()))) == 3


def test_divergent_barriers_are_named():
    text = error(kernel("\n if (threadIdx.x < 16)\n __syncthreads();\n else\n __syncthreads();", OUT), 2, 64, out=torch.zeros(1).int())
    assert "k (test.cu): divergent barrier" in text and "block (0, 0, 0)" in text
    assert "threads 0-15 wait in __syncthreads at test.cu:5; threads 16-63 wait in __syncthreads at test.cu:7" in text


def test_deadlock_between_a_barrier_and_a_warp_collective():
    text = error(kernel("\n if (threadIdx.x == 3) __syncthreads();\n else out[0] = __ballot_sync(~0u, 1);", OUT), 1, 32,
                 out=torch.zeros(1).int())
    assert "deadlock: threads 0-2 wait in __ballot_sync at test.cu:5; thread 3 wait in __syncthreads at test.cu:4" in text


def test_returned_threads_do_not_hold_up_a_barrier():
    out = torch.zeros(1, dtype=torch.int32)
    run(kernel("if (threadIdx.x >= 10) return; __syncthreads(); atomicAdd(out, 1); __syncthreads();", OUT), 1, 64, out=out)
    assert out.item() == 10


def test_shuffle_with_a_returned_or_missing_lane():
    built = kernel("if (threadIdx.x == 9) return;\n out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1, 1);", OUT)
    text = error(built, 1, 32, out=torch.zeros(32).int())
    assert "__shfl_down_sync: the mask 0xffffffff names lane 9, which has returned at test.cu:4" in text
    assert "which this block does not have" in error(built, 1, 8, out=torch.zeros(32).int())
    built = kernel("out[threadIdx.x] = __shfl_sync(0x0fu, 1, 1);", OUT)
    assert "lane 4 is not in its own mask 0xf" in error(built, 1, 8, out=torch.zeros(8).int())


@pytest.mark.parametrize("body, word", [("out[0] = x[n];", "read"), ("out[n] = x[0];", "write")])
def test_one_row_past_the_end(body, word):
    built = kernel(f"if (threadIdx.x == 5 && blockIdx.x == 1)\n {body}", [*X_OUT, ("int", "n")])
    x, out = torch.zeros(12, 64), torch.zeros(12, 64)
    text = error(built, 2, 8, x=x, out=out, n=12 * 64)
    name = "x" if word == "read" else "out"
    assert f"out-of-bounds {word} 0 bytes past the end of argument '{name}' (3072 bytes)" in text
    assert "k (test.cu)" in text and "at test.cu:4" in text and "block (1, 0, 0), thread (5, 0, 0)" in text
    assert f"{8 * 256} bytes past the end" in error(built, 2, 8, x=x, out=out, n=20 * 64)
    assert not out.any()


def test_before_the_start_and_null():
    built = kernel("\n out[0] = x[i];", [*X_OUT, ("int", "i")])
    text = error(built, x=torch.zeros(4), out=torch.zeros(1), i=-(1 << 16))
    assert "bytes before the start of argument 'x' (16 bytes)" in text and "test.cu:4" in text
    assert "read through a null pointer" in error(built, x=None, out=torch.zeros(1), i=2)


def test_writes_too_near_for_the_guard_damage_a_canary():
    built = kernel("out[i] = 1.f;", [("float*", "out"), ("int", "i")])
    assert "wrote 4 bytes before the start of argument 'out'" in error(built, out=torch.zeros(8), i=-1)
    storage = torch.zeros(9)  # 28 bytes at a multiple of 16: the guard is 4 bytes beyond the end
    assert "wrote 0 bytes past the end of argument 'out'" in error(built, out=storage[:7], i=7)


def test_dynamic_shared_memory_ends_at_a_guard():
    built = kernel("extern __shared__ int s[];\n s[threadIdx.x] = 1; out[0] = s[0];", OUT)
    text = error(built, 1, 33, shared_bytes=128, out=torch.zeros(1).int())
    assert "write 0 bytes past the end of dynamic shared memory (128 bytes) at test.cu:4" in text and "thread (32, 0, 0)" in text


@pytest.mark.parametrize("body, words", [
    ("__shared__ int s[32];\n s[threadIdx.x] = 1; __syncthreads(); out[0] = s[0];", "index 32 outside an array of type 'int [32]'"),
    ("int a[4] = {};\n out[0] = a[(int)threadIdx.x - 33];", "index -33 outside an array of type 'int [4]'"),
    ("\n out[0] = 7 / (32 - (int)threadIdx.x);", "integer division by zero"),
    ("\n out[0] = 1u << threadIdx.x;", "shift by 32: outside the width of type 'unsigned int'"),
    ("\n out[0] = ((const int4*)(out + threadIdx.x))->y;", "misaligned access"),
    ("\n assert(threadIdx.x < 32);", "assertion failed: threadIdx.x < 32"),
    ("\n if (threadIdx.x == 32) __trap();", "__trap() was called"),
])
def test_checks_name_the_line(body, words):
    text = error(kernel(body, OUT), 1, 33, out=torch.zeros(64).int())
    assert words in text and "at test.cu:4" in text, text


def test_a_fault_in_libc_and_a_full_stack():
    text = error(kernel("\n memcpy(out, x, n);\n out[0] += 1;", [*X_OUT, ("int", "n")]), x=torch.zeros(4), out=torch.zeros(99), n=300)
    assert "past the end of argument 'x'" in text and "test.cu:4" in text
    deep = kernel("out[0] = sum(1 << 20, x);", X_OUT, before="__device__ __noinline__ float sum(int n, const float* x)"
                  "{ volatile float a[64]; a[n % 64] = *x; return n ? a[n % 64] + sum(n - 1, x) : 0; }")
    assert "stack overflow" in error(deep, x=torch.zeros(1), out=torch.zeros(1))


def test_spinning_for_another_thread():
    built = kernel("volatile int* flag = out; if (threadIdx.x == 0) {\n while (!*flag) __nanosleep(20); } else out[i] = 1;",
                   [*OUT, ("int", "i")])
    run(built, 1, 64, out=torch.zeros(2).int(), i=0)
    text = error(built, 3, 64, out=torch.zeros(2).int(), i=1)
    assert "k (test.cu): waiting for what no block does (blocks: 3 wait, 0 ended, 0 not started" in text
    assert "thread 0 spin in __nanosleep at test.cu:4" in text and "in block (" in text and "thread (0, 0, 0)" in text


def test_an_error_leaves_the_executor_and_the_process_fit():
    built = kernel("out[0] = x[i];", [*X_OUT, ("int", "i")])
    out = torch.zeros(1)
    for _ in range(3):
        error(built, x=torch.ones(1), out=out, i=1 << 20)
        run(built, x=torch.ones(1), out=out, i=0)
    assert out.item() == 1
    code = ("import sys, torch, ctypes; sys.path[:0] = %r; from spec_toolkit.cpu import *\n"
            "k = compile_kernel('extern \"C\" __global__ void k(int* p) { p[0] = 1; }', 'k', 'k.cu', [('int*', 'p')], {}, [])\n"
            "k.launch((1, 1, 1), (1, 1, 1), {'p': torch.zeros(1).int()}); ctypes.string_at(0)")
    assert subprocess.run([sys.executable, "-c", code % sys.path], capture_output=True).returncode == -11


def test_ctrl_c_ends_an_endless_kernel():
    built = kernel("volatile int* flag = out;\n while (!*flag) {}", OUT)
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt, match="interrupted at test.cu:4"):
        run(built, out=torch.zeros(1).int())
    timer.join()


# ---- blocks that wait for each other

PORTABLE = "g++ -DSPEC_UCONTEXT"


@pytest.mark.parametrize("compiler", [None, PORTABLE], ids=["own switch", "portable switch"])
def test_two_blocks_exchange_words_and_keep_what_is_their_own(compiler, monkeypatch):
    """Ten times to and fro. Shared arrays, the threads' local arrays and blockIdx are those of the block that runs."""
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    built = kernel("""
    extern __shared__ int dynamic[];
    __shared__ int fixed[64];
    __shared__ int got;
    const int t = threadIdx.x, me = blockIdx.x, other = 1 - me;
    int local[40];
    for (int i = 0; i < 40; ++i) local[(i + t) % 40] = 1000 * me + i;
    fixed[t] = 100 * me + t, dynamic[t] = 200 * me + t;
    volatile int* word = out;
    for (int turn = 1; turn <= 10; ++turn) {
        __syncthreads();
        if (t == 0) word[me] = turn * (me + 1);
        if (t == 37) {
            while (word[other] < turn * (other + 1)) __nanosleep(20);
            got = word[other];
        }
        __syncthreads();
        if (got < turn * (other + 1)) atomicAdd(out + 2, 1);
    }
    int wrong = fixed[t] != 100 * blockIdx.x + t || dynamic[t] != 200 * (int)blockIdx.x + t || me != blockIdx.x;
    for (int i = 0; i < 40; ++i) wrong += local[(i + t) % 40] != 1000 * me + i;
    atomicAdd(out + 2, wrong);
    atomicAdd(out + 3, 1);""", OUT)
    for order in ORDERS:
        out = torch.zeros(4, dtype=torch.int32)
        with fibre_order(order, 1):
            run(built, 2, 64, shared_bytes=256, out=out)
        assert out.tolist() == [10, 20, 0, 128], order


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("step", [1, -1])
def test_a_chain_of_blocks_in_any_order(order, step):
    """Block b waits for block b + step: in one of the orders all must have started before the first can end."""
    built = kernel("""volatile int* done = out;
    const int before = (int)blockIdx.x + step;
    if (threadIdx.x == 5 && before >= 0 && before < (int)gridDim.x) while (!done[before]) __nanosleep(20);
    __syncthreads();
    if (threadIdx.x == 0) done[blockIdx.x] = 1 + atomicAdd(out + gridDim.x, 1);""", [*OUT, ("int", "step")])
    out = torch.zeros(201, dtype=torch.int32)
    with fibre_order(order, 2):
        run(built, 200, 33, out=out, step=step)
    assert out[:200].tolist() == list(range(1, 201))[::-step]


POLL = """__shared__ int seen;
    const int t = threadIdx.x;
    if (t == 0) atomicAdd(out, 1);
    for (;;) {
        if (t == 0) seen = *(volatile int*)out >= needed;
        __syncthreads();
        if (seen) break;
        __syncthreads();
        if (t % 32 == 0) __nanosleep(20);
        __syncwarp();
    }
    atomicAdd(out + 1, __shfl_sync(~0u, 1, 0));"""


@pytest.mark.parametrize("order", ORDERS)
def test_a_grid_barrier_waits_between_barriers_of_the_block(order):
    out = torch.zeros(2, dtype=torch.int32)
    with fibre_order(order, 3):
        run(kernel(POLL, [*OUT, ("int", "needed")]), (2, 3, 2), 64, out=out, needed=12)
    assert out.tolist() == [12, 12 * 64]


def test_a_wait_that_nobody_ends_is_named_though_barriers_pass():
    text = error(kernel(POLL, [*OUT, ("int", "needed")]), 2, 64, out=torch.zeros(2).int(), needed=3)
    assert "waiting for what no block does (blocks: 2 wait, 0 ended, 0 not started" in text and "in __nanosleep at test.cu:11" in text


def test_more_blocks_than_run_together():
    built = kernel(POLL, [*OUT, ("int", "needed")])
    out = torch.zeros(2, dtype=torch.int32)
    run(built, 600, 32, out=out, needed=256)
    assert out.tolist() == [600, 600 * 32]
    text = error(built, 600, 32, out=torch.zeros(2).int(), needed=257)
    assert "blocks: 256 wait, 0 ended, 344 not started; at most 256 run together" in text


def test_no_more_blocks_are_under_way_than_must_be():
    """One where none sleeps; two where each even block waits for the next."""
    built = kernel("""if (threadIdx.x == 0) atomicMax(out + 1, 1 + atomicAdd(out, 1));
    __syncthreads();
    if (pairs && blockIdx.x % 2 == 0) while (!((volatile int*)out)[3 + blockIdx.x]) __nanosleep(20);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(out, -1), out[2 + blockIdx.x] = 1;""", [*OUT, ("int", "pairs")])
    for pairs in (0, 1):
        out = torch.zeros(12, dtype=torch.int32)
        run(built, 8, 64, out=out, pairs=pairs)
        assert out[:2].tolist() == [0, 1 + pairs]


def test_a_fault_while_others_sleep_names_its_own_block():
    built = kernel("""volatile int* flag = out;
    if (blockIdx.x == 2)
    out[i] = 1;
    while (!*flag) __nanosleep(20);""", [*OUT, ("int", "i")])
    for _ in range(2):
        text = error(built, 3, 64, out=torch.zeros(4).int(), i=1 << 20)
        assert "past the end of argument 'out'" in text and "at test.cu:5" in text and "block (2, 0, 0)" in text
        run(built, 3, 64, out=torch.zeros(4).int(), i=0)


# ---- compiling

@pytest.mark.parametrize("body, before, words", [
    ('\n asm volatile("mov.u32 %0, %laneid;" : "=r"(out[0]));', "", ["inline PTX", "__CUDA_ARCH__", "test.cu:4"]),
    ("\n out[0] = __activemask();", "", ["__activemask", "test.cu:4"]),
    ("", "#include <cooperative_groups.h>", ["cooperative groups"]),
    ("", "#include <cub/cub.cuh>", ["cub/cub.cuh", "test.cu:1", "__CUDA_ARCH__"]),
    ("\n out[0] = undeclared_name;", "", ["undeclared_name", "test.cu:4"]),
    ("\n out[0] = 1", "", ["expected ';'", "test.cu:4"]),
])
def test_compile_errors_name_kernel_and_line(body, before, words):
    with pytest.raises(CpuCompileError) as caught:
        kernel(body, OUT, before=before)
    for word in ["kernel k (test.cu)", *words]:
        assert word in str(caught.value)


def test_device_only_branches_are_skipped():
    built = kernel('\n#ifdef __CUDA_ARCH__\n asm("trap;");\n#else\n out[0] = 4;\n#endif', OUT,
                   before="#include <vector>\n#include <stdint.h>\nstruct Pair { int a; __device__ int twice() const { return 2 * a; } };\n"
                          "template <typename T> __device__ T one(); template <> __device__ int one<int>() { return 1; }\n"
                          "static __device__ __forceinline__ int idle() { static __shared__ int s[2]; return s[0]; }")
    out = torch.zeros(1, dtype=torch.int32)
    run(built, out=out)
    assert out.item() == 4


def test_cache_and_headers(cache, tmp_path):
    header = tmp_path / "common.cuh"
    header.write_text("#pragma once\n__device__ inline int answer() { return 41; }\n")

    def answer():
        out, start = torch.zeros(1, dtype=torch.int32), time.perf_counter()
        built = kernel("out[0] = answer() + EXTRA;", OUT, before='#include "common.cuh"', defines={"EXTRA": 1}, include_dirs=[tmp_path])
        run(built, out=out)
        return out.item(), built.library, time.perf_counter() - start

    first, second = answer(), answer()
    assert first[:2] == (42, second[1]) and second[0] == 42 and second[2] < first[2] / 3
    header.write_text(header.read_text().replace("41", "6"))
    third = answer()
    assert third[0] == 7 and third[1] != first[1]
    assert not list((cache / "cpu").glob(".build-*"))


def test_the_portable_switch_gives_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", PORTABLE)
    built = kernel("__shared__ int s[64]; s[threadIdx.x] = threadIdx.x; __syncthreads();"
                   "out[threadIdx.x] = s[63 - threadIdx.x] + __shfl_xor_sync(~0u, 1, 1);", OUT)
    out = torch.zeros(64, dtype=torch.int32)
    run(built, 2, 64, out=out)
    assert out.tolist() == list(range(64, 0, -1))
    assert "lane 0 is not in its own mask" in error(kernel("__syncwarp(2u);", OUT), 1, 1, out=out)


def test_launch_arguments_are_checked():
    built = kernel("out[0] = 1;", OUT)
    for bad in ({"grid": 0}, {"block": 1025}, {"block": (1, 1, 65)}, {"shared_bytes": 1 << 20}):
        with pytest.raises(ValueError):
            run(built, out=torch.zeros(1).int(), **bad)
    with pytest.raises(TypeError, match="'out'"):
        run(built, out=3)
    with pytest.raises(ValueError, match="order"), fibre_order("sideways"):
        pass
