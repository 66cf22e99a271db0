"""The processes that train one draft together, one a GPU: their gradients are averaged, and rank 0 decides for all.

`spread` starts them on this machine, with torchrun's variables RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in their
environment; `joined` reads these. Gradients go through NCCL (gloo on a CPU). Decisions go through a gloo group of their own, over the
hosts, so that no device is waited for.
"""
from __future__ import annotations

import datetime
import os
import socket

import torch
import torch.distributed as dist

from .pretrained import ModelError

PATIENCE = datetime.timedelta(minutes=10)


class Ranks:
    """rank: this process's; size: how many there are; host: the group for decisions, None where this process is alone."""

    def __init__(self, rank: int = 0, size: int = 1, host=None):
        self.rank, self.size, self.host = rank, size, host

    def agreed(self, number: float) -> float:
        """What rank 0 gave."""
        return float(self._on_hosts(number, lambda told: dist.broadcast(told, 0, group=self.host)))

    def total(self, number: float) -> float:
        """The sum of what all gave."""
        return float(self._on_hosts(number, lambda told: dist.all_reduce(told, group=self.host)))

    def average(self, tensors) -> None:
        """Put the mean over the ranks into the tensors (of one dtype): all as one array."""
        if self.host is not None:
            flat = torch.cat([each.flatten() for each in tensors])
            dist.all_reduce(flat)
            flat /= self.size
            parts = flat.split([each.numel() for each in tensors])
            torch._foreach_copy_(tensors, [part.view_as(each) for part, each in zip(parts, tensors)])

    def _on_hosts(self, number, shared):
        if self.host is None:
            return number
        told = torch.tensor(float(number), dtype=torch.float64)
        shared(told)
        return told.item()


def spread(count: int, function, *given) -> None:
    """Call the function in `count` processes that `joined` finds together. One that fails ends the others, and raises here: ModelError and
    ValueError as they are."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    refused = torch.multiprocessing.get_context("spawn").SimpleQueue()
    try:
        torch.multiprocessing.spawn(_one_of, (shared, refused, function, given), nprocs=count)
    except torch.multiprocessing.ProcessExitedException:
        if refused.empty():
            raise
        raise refused.get() from None


def _one_of(rank, shared, refused, function, given):
    os.environ.update(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    try:
        function(*given)
    except (ModelError, ValueError) as error:  # what was asked for cannot be met: said as by one process, without a traceback
        refused.put(error)
        raise SystemExit(2) from error


def joined(device: str) -> tuple[Ranks, str]:
    """(the ranks, this one's device): from the environment; alone without it. device: "cpu" or "cuda", which then gets a number."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return Ranks(), device
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: its name need not resolve to an address
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    return Ranks(rank, size, dist.new_group(backend="gloo", timeout=PATIENCE)), device


def left(ranks: Ranks) -> None:
    """Wait for rank 0, which writes last, and part; `ranks` is one process alone behind that."""
    if ranks.host is not None:
        ranks.total(0)
        ranks.host = None  # a group that outlives the others ends its process with an error
        dist.destroy_process_group()
