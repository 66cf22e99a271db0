"""Is our clock right? The same bound call by our clock and by `triton.testing.do_bench`, in one run: `spec-toolkit crosscheck`.

do_bench flushes by writing 256 MB and takes events around an *eager* call, queued behind the flush, so where the host
issues a call faster than the flush takes, both clocks time the same GPU work; what is left is the gap between the
launches of an eager call and of a graph. A call slower to issue than a flush (the Python loop, transformers) is timed
by the host's speed in do_bench: `issue_bound` says when.
"""
from __future__ import annotations

import json
import re
import statistics
from datetime import UTC, datetime
from pathlib import Path

from . import bench, clock, recording, results
from .experiments import best_rung, grid
from .reading import number
from .synthetic import make_problem
from .tables import NONE, markdown

WARMUP_MS, REP_MS = 25, 200
FLUSH_US = 60.0  # writing 256 MB takes about this long on the fastest GPU we know
FORMAT = "spec_toolkit crosscheck 1"
PROBLEMS = grid(batch=(1, 64, 256), draft_len=4, vocab=128256)
OTHERS = ("flashinfer_chain", "torch_vectorised")


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
        empty = 1000 * do_bench(lambda: clock.launch("empty_launch", device), return_mode="median", warmup=WARMUP_MS, rep=REP_MS)
    gpu, host = ours.median("gpu_us"), statistics.median(ours.host_us)
    return {"sampler": sampler.name, "source_hash": sampler.source_hash, "problem": repr(problem), "run_id": ours.run_id, "flush": "write",
            "repeats": repeats, "gpu_us": gpu, "gpu_us_missing": ours.gpu_us_missing, "call_us": ours.median("call_us"), "host_us": host,
            "do_bench_us": theirs, "ratio": theirs / gpu if gpu else None, "difference_us": theirs - gpu if gpu else None,
            "empty_launch_us": ours.median("empty_launch_us"), "empty_do_bench_us": empty, "issue_bound": host > FLUSH_US}


def record(out="results", names=None, problems=PROBLEMS, repeats: int = 100) -> Path:
    """Cross-check the samplers on each problem, print the table, write out/<gpu>/crosscheck/crosscheck.json; its path.

    names None: the best rung and OTHERS. A peer that is missing or refuses is printed and left out. Raises as `crosscheck`.
    """
    bench.gpu_of("cuda")
    samplers = [s for name in names or (best_rung(), *OTHERS) if (s := recording.load(name)[0])]
    found = []
    for arguments in problems:
        problem = make_problem(**arguments, device="cuda")
        ready, left_out = recording.fitting(samplers, problem)
        for name, why in left_out.items():
            print(f"{name} is left out: {why}", flush=True)
        found += [crosscheck(sampler, problem, repeats) for sampler in ready]
    print(table(found), flush=True)
    environment = results.environment("cuda")
    path = Path(out) / results.slug(environment["gpu"] or "cpu") / "crosscheck" / "crosscheck.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"format": FORMAT, "created": datetime.now(UTC).isoformat(timespec="seconds"), "environment": environment, "compared": found}
    results.write_atomically(path, results.to_text(made))
    return path


def load_crosscheck(folder) -> list[dict]:
    """What `record` compared, of the newest file below folder; [] if there is none."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).rglob("crosscheck.json"))]
    newest = max((r for r in read if r.get("format") == FORMAT), key=lambda r: r["created"], default={"compared": []})
    return newest["compared"]


def _sizes(problem: str) -> str:
    """The sizes in the text of a problem, as reading.sizes has them: "B=1, K=4, V=128,256"."""
    said = dict(re.findall(r"(batch|draft_len|vocab)=(\d+)", problem))
    return ", ".join(f"{short}={int(said[name]):,}" for name, short in (("batch", "B"), ("draft_len", "K"), ("vocab", "V")) if name in said)


def table(compared) -> str:
    """A Markdown table of `crosscheck`s. The empty launches are what each clock reads for a kernel that does nothing."""
    us = lambda x: NONE if x is None else number(x) if x >= 0 else f"-{number(-x)}"
    rows = [[_sizes(c["problem"]), c["sampler"], us(c["gpu_us"]), us(c["do_bench_us"]),
             us(c["difference_us"]), us(c["empty_launch_us"]), us(c["empty_do_bench_us"]),
             "the host's speed" if c["issue_bound"] else "the GPU"] for c in compared]
    head = ["problem", "sampler", "ours µs", "do_bench µs", "difference µs", "empty, ours", "empty, do_bench", "do_bench times"]
    return markdown(head, rows, texts=2)
