"""Is our clock right? The same bound call by our clock and by `triton.testing.do_bench`, in one run. Writes nothing.

do_bench flushes by writing 256 MB and takes events around an *eager* call, queued behind the flush, so where the host
issues a call faster than the flush takes, both clocks time the same GPU work; what is left is the gap between the
launches of an eager call and of a graph. A call slower to issue than a flush (the Python loop, transformers) is timed
by the host's speed in do_bench: `issue_bound` says when.
"""
import statistics

from . import bench

WARMUP_MS, REP_MS = 25, 200
FLUSH_US = 60.0  # writing 256 MB takes about this long on the fastest GPU we know


def crosscheck(sampler, problem, repeats=100) -> dict:
    """Medians in µs: ours (`gpu_us`, a graph replay; `call_us`, eager with synchronisation), `do_bench_us`, their `ratio`.

    `empty_launch_us` and `empty_do_bench_us`: what each clock reads for a kernel that does nothing. GPU only: NeedsGPU, also
    where Triton is missing. UncheckedSampler if the check fails. gpu_us None (with `gpu_us_missing`): no graph, no ratio.
    """
    import torch
    device = bench.gpu_of(problem.device)
    try:
        from triton.testing import do_bench
    except ImportError as error:
        raise bench.NeedsGPU("the cross-check needs Triton (it comes with PyTorch's CUDA builds): pip install triton") from error
    ours = bench.benchmark(sampler, problem, repeats, flush="write")
    call = sampler.bind(problem)
    call()
    with torch.cuda.device(device):
        theirs = 1000 * do_bench(call, return_mode="median", warmup=WARMUP_MS, rep=REP_MS)
        empty = 1000 * do_bench(lambda: bench._launch("empty_launch", device), return_mode="median", warmup=WARMUP_MS, rep=REP_MS)
    gpu, host = ours.median("gpu_us"), statistics.median(ours.host_us)
    return {"sampler": sampler.name, "problem": repr(problem), "run_id": ours.run_id, "flush": "write", "repeats": repeats,
            "gpu_us": gpu, "gpu_us_missing": ours.gpu_us_missing, "call_us": ours.median("call_us"), "host_us": host,
            "do_bench_us": theirs, "ratio": theirs / gpu if gpu else None, "difference_us": theirs - gpu if gpu else None,
            "empty_launch_us": ours.median("empty_launch_us"), "empty_do_bench_us": empty, "issue_bound": host > FLUSH_US}
