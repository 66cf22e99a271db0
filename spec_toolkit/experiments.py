"""The experiments, as data: which problems, which samplers, how often. `spec-toolkit gpu` checks, times and records them.

What they answer is in the notebooks of the same names; EXPERIMENTS is all that a new one needs.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

from .baselines import BASELINES
from .contract import ContractError
from .peers import list_peers
from .sampler import list_kernels, load_sampler

# The seed project's own figures: how many times faster than its Python loop its kernel was, by (batch, vocab), draft_len 8.
SEED_GPU = "RTX 3060"
SEED_BATCHES = {(1, 128256): 19.99, (2, 128256): 0.76, (4, 128256): 0.69, (8, 128256): 1.14, (16, 128256): 1.86}
SEED_VOCABS = {(4, 32000): 3.88, (1, 32000): 2.05, (1, 128256): 0.13, (16, 128256): 0.97}  # the last: "larger batch", taken as 16
VOCABS = (32000, 49152, 128256, 151936, 262144)


def grid(**axes) -> list[dict]:
    """Every combination of the axes, the last one fastest. A tuple is an axis; anything else (a list too) is one value."""
    values = [value if isinstance(value, tuple) else (value,) for value in axes.values()]
    return [dict(zip(axes, chosen)) for chosen in product(*values)]


@dataclass(frozen=True)
class Experiment:
    """problems: arguments of make_problem, without the device.

    samplers: names, or "rungs" (all that take this kind of problem), "best" (the last of them), "baselines", "peers".
    repeats, seconds, flushes: of `bench.compare`, which is called for each problem and flush.
    """
    problems: Sequence[dict]
    samplers: Sequence[str] = ("rungs", "baselines")
    repeats: int = 200
    seconds: float = 1.0
    flushes: Sequence[str] = ("read",)

    @property
    def kinds(self) -> set[str]:
        return {"logits" if arguments.get("logits") else "probs" for arguments in self.problems}

    def names(self) -> list[str]:
        """The names of its samplers, whether they are installed here or not, each once."""
        ladder = [name for kind in sorted(self.kinds) for name in rungs(kind)]
        groups = {"rungs": ladder, "best": ladder[-1:], "baselines": list(BASELINES), "peers": list_peers()}
        return list(dict.fromkeys(name for word in self.samplers for name in groups.get(word, [word])))

    def takes(self, sampler) -> bool:
        """Is it one of its samplers, and does it take these problems? (One without an `input` takes both kinds.)"""
        return sampler.name in self.names() and getattr(sampler, "input", None) in (None, *self.kinds)


def rungs(kind: str = "probs") -> list[str]:
    """The kernels that take "probs" or "logits", in the order of the ladder (a file that cannot be read is among them)."""
    return [name for name in list_kernels() if _input(name) in (kind, None)]


def best_rung(kind: str = "probs") -> str:
    """The last rung that takes this kind of problem. ValueError if there is none."""
    if not (found := rungs(kind)):
        raise ValueError(f"kind={kind!r}: no kernel takes it; the kernels are {', '.join(list_kernels()) or 'none'}")
    return found[-1]


def _input(name: str) -> str | None:
    try:
        return load_sampler(name).input
    except ContractError:
        return None


TODAY = ("flashinfer_chain", "torch_compile", "torch_vectorised")  # with a GPU time
HALVES = (torch.float16, torch.bfloat16)
LOGITS = {"acceptance": 0.69, "logits": True, "dtype": torch.bfloat16}
FROM_LOGITS = ("rungs", "softmax+v7", "softmax+flashinfer_chain", "softmax+torch_vectorised", "torch_compile", "torch_vectorised")
LOGITS_SHAPES = ((1, 4, 128256), (8, 4, 128256), (16, 8, 151936), (64, 8, 32000), (64, 4, 128256), (256, 4, 128256))

EXPERIMENTS: dict[str, Experiment] = {
    "quick_demo": Experiment(grid(batch=4, draft_len=8, vocab=32000, acceptance=0.7)),
    "ladder": Experiment(grid(batch=(64, 1), draft_len=4, vocab=128256), ("rungs", *TODAY)),
    # The seed's table (up to 16), and on from there.
    "batch_scaling": Experiment(grid(batch=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512), draft_len=8, vocab=128256),
                                ("v1", "v2", "best", "baselines", "peers"), repeats=100, seconds=0.5),
    # The seed's four configurations, then the vocabularies of today's models.
    "vocab_scaling": Experiment([*grid(batch=(4, 1), draft_len=8, vocab=32000), *grid(batch=(1, 16), draft_len=8, vocab=128256),
                                 *grid(batch=16, draft_len=4, vocab=VOCABS)],
                                ("v1", "v2", "best", "baselines", "peers"), repeats=100, seconds=0.5),
    "grid": Experiment(grid(batch=(1, 4, 16, 64, 256), draft_len=(1, 4, 8), vocab=VOCABS),
                       ("best", *TODAY, "transformers"), repeats=100, seconds=0.3),
    "flush_modes": Experiment(grid(batch=(1, 16, 64, 256), draft_len=4, vocab=128256), ("best", "flashinfer_chain"),
                              flushes=("read", "write", "written")),
    "misaligned": Experiment([{"batch": batch, "draft_len": 4, **row} for batch in (1, 64) for row in (
        {"vocab": 32000}, {"vocab": 32001}, {"vocab": 32001, "row_padding": 1}, {"vocab": 128256}, {"vocab": 128257})],
        ("rungs", "flashinfer_chain"), repeats=100, seconds=0.3),
    "dtypes": Experiment(grid(batch=(1, 64, 256), draft_len=4, vocab=128256, dtype=(torch.float32, *HALVES)),
                         ("best", "flashinfer_chain", "torch_vectorised"), repeats=100),
    # One call taken apart: nothing but the draw, the accept test and the draw, and the rows as well.
    "profile": Experiment([{"batch": batch, **parts} for batch in (1, 64) for parts in (
        {"draft_len": 0, "vocab": 32}, {"draft_len": 4, "vocab": 32}, {"draft_len": 4, "vocab": 128256})],
        ("rungs", "flashinfer_chain")),
    # From logits: six shapes by the writing flush, as others measured them; with the drafter's log-normalisers; what stopping buys.
    "logits": Experiment([{"batch": b, "draft_len": k, "vocab": v, **LOGITS} for b, k, v in LOGITS_SHAPES], FROM_LOGITS, flushes=("write",)),
    "logits_lse": Experiment([{"batch": b, "draft_len": k, "vocab": v, **LOGITS, "draft_lse": True} for b, k, v in LOGITS_SHAPES],
                             FROM_LOGITS, flushes=("write",)),
    "acceptance": Experiment(grid(batch=64, draft_len=8, vocab=128256, **LOGITS | {"acceptance": (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)}),
                             ("rungs", "softmax+v7", "softmax+torch_vectorised"), flushes=("write",)),
}
