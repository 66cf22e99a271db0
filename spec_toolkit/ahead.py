"""torch_compile compiles anew for every shape, some seconds each. Here: all shapes ahead of the clock, in parallel processes.

What they compile lies in inductor's cache on disk, where the process that times finds it. Nothing is timed here.
"""
from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch

WORKERS = 8
WORKER_BYTES = 12 << 30  # GPU memory of each: a CUDA context and the grid's largest problem


def compile_ahead(problems, device="cuda", workers: int | None = None) -> dict[int, str]:
    """Bind torch_compile to each problem (arguments of make_problem); {index: error} of those that failed, {} if none."""
    size = lambda i: -problems[i]["batch"] * problems[i]["vocab"] * (problems[i].get("draft_len", 8) + 1)
    workers = workers or max(1, min(WORKERS, len(problems), (os.cpu_count() or 2) // 2, _room(device)))
    failed = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_alone) as pool:
        waiting = {pool.submit(_compile, problems[i], str(device)): i for i in sorted(range(len(problems)), key=size)}
        for done in as_completed(waiting):
            if error := done.exception():
                failed[waiting[done]] = f"{type(error).__name__}: {error}"
    return failed


def _room(device) -> int:
    """How many workers the device's free memory holds."""
    return torch.cuda.mem_get_info(device)[0] // WORKER_BYTES if torch.device(device).type == "cuda" else WORKERS


def _alone() -> None:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # the processes are the threads


def _compile(arguments: dict, device: str) -> None:
    from .baselines import load_baseline
    from .synthetic import make_problem
    load_baseline("torch_compile").bind(make_problem(**arguments, device=device))
