"""Functions of a step as CUDA graphs, so that the host launches a few graphs where it would launch a thousand kernels."""
from __future__ import annotations

import gc
import textwrap

import torch

WARM_UPS = 3  # libraries choose and allocate in their first calls; none of that may fall into a capture


class CaptureFailed(RuntimeError):
    """A part of the step does something that a CUDA graph cannot hold."""


def captured(parts: dict, device, eager=()) -> dict:
    """{name: function} -> {name: what replays it}. The functions run in this order, and only they touch what they write.

    They are run WARM_UPS times before. They take and return nothing, and keep nothing that they allocate: all graphs share one
    pool of memory. Names in `eager` stay plain calls. On a CPU all do. Raises CaptureFailed, which names the part.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return dict(parts)
    done = {}
    with torch.cuda.device(device):
        current, side, pool = torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                for function in parts.values():
                    function()
        current.wait_stream(side)
        torch.cuda.synchronize()
        gc.collect()
        gc.disable()  # what it frees during a capture may not be freed then
        try:
            for name, function in parts.items():
                done[name] = function if name in eager else _capture(name, function, pool, side)
        finally:
            gc.enable()
        torch.cuda.synchronize()
    return done


def _capture(name, function, pool, stream):
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            function()
    except Exception as error:
        said = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")  # PyTorch's has several lines of advice
        raise CaptureFailed(f"{name}: got {said}; accepted: launches alone, without a look from the host. "
                            "GraphDecoder(..., capture=False) runs the same step launch by launch") from error
    return graph.replay
