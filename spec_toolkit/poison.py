"""Outputs that are poisoned before a call: every element must be written, and a second call must give the same.

The tensors are filled with a sentinel; a sampler that returns fresh ones (`fresh_outputs`) is called while torch.empty gives the
largest integer.
"""
import contextlib
import warnings

import numpy as np
import torch

SENTINEL = -1717986919  # no token, count or status has this value


def run_poisoned(sampler, problem):
    """(outputs of the first call as CPU arrays or None, what the poison showed, failures)."""
    call = sampler.bind(problem)
    runs, failures, poison = [], [], "all written"
    own = getattr(sampler, "own_generator", False)  # a peer: its status is a constant, its second call may differ
    for _ in range(2):
        for tensor in call.outputs[:2 if own else 3]:
            tensor.fill_(SENTINEL)
        with poisoned_memory() if getattr(sampler, "fresh_outputs", False) else contextlib.nullcontext():
            outputs = call()
        if wrong := _wrong_shape(problem, call, outputs):
            return None, "not usable", [wrong]
        runs.append([tensor.cpu().numpy().copy() for tensor in outputs])
    left = {name: int((array == SENTINEL).sum()) for name, array in zip(("out_tokens", "num_accepted", "status"), runs[0])}
    if any(left.values()):
        poison = "NOT all written"
        failures.append("elements left unwritten: " + ", ".join(f"{n} of {name}" for name, n in left.items() if n))
    if not own and not all(np.array_equal(first, second) for first, second in zip(*runs)):
        failures.append("a second call on the same inputs gave other outputs")
    return runs[0], poison, failures


def _wrong_shape(problem, call, outputs):
    shapes = [(problem.batch, problem.max_draft + 1), (problem.batch,), (problem.batch,)]
    for name, shape, tensor, bound in zip(("out_tokens", "num_accepted", "status"), shapes, outputs, call.outputs):
        if tuple(tensor.shape) != shape or tensor.dtype != torch.int32 or tensor.device != problem.device:
            return (f"{name}: got {list(tensor.shape)} {tensor.dtype} on {tensor.device}, "
                    f"expected {list(shape)} torch.int32 on {problem.device}")
        if tensor.data_ptr() != bound.data_ptr():
            return f"{name}: the call returned another tensor than its own outputs, so unwritten elements could not be seen"
    return None


@contextlib.contextmanager
def poisoned_memory():
    """torch.empty gives the largest integer (NaN for floats) inside: for calls that return fresh tensors, whose unwritten
    elements a sentinel could not show. A mode of PyTorch, put back afterwards; other effects of it only warn."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
