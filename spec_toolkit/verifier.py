"""A sampler inside a loop: buffers of one shape, bound once where the sampler allows it, refilled at every step."""
from __future__ import annotations

import torch

from .bound_baseline import BoundBaseline, can_be_bound
from .composed import Composed
from .problem import ROW_DTYPES, from_torch
from .sampler import load_sampler

BEST = "v10"  # the sampler from logits that is taken on a GPU where none is named; it draws the drafts of the graph path, too
LEAST_HEAT = 1e-4  # logits of language models over this stay far inside float32's range


def usual_sampler(device) -> str:
    """The sampler where none is named: BEST on a GPU, on a CPU, where kernels run for their logic and not for speed, a baseline."""
    return BEST if torch.device(device).type == "cuda" else "torch_vectorised"


def loop_sampler(sampler):
    """A sampler (or its name) that takes logits: one of probabilities gets a softmax in front of it, inside the call."""
    found = load_sampler(sampler) if isinstance(sampler, str) else sampler
    takes_logits = getattr(found, "input", None) == "logits" or found.kind == "baseline" or getattr(found, "copies_rows", False)
    return found if takes_logits else Composed(found)


class Verifier:
    """Verifies `batch` requests with `draft_len` drafts each: `verifier(target, tokens, draft, positions)` -> Outputs.

    A kernel reads seeds and positions where they lie and makes its random numbers itself: it is bound once, and a step is the
    copy of the rows into its buffers (`fill`) and its launches (`verify`), without a look from the host. Baselines make their
    numbers when they are bound, and a peer looks at the rows then, so these are bound again at every step, unless `slots` is given.
    """

    def __init__(self, sampler, *, seeds, temperature, draft_len: int, vocab: int, dtype, has_rows: bool, positions=None,
                 slots: int | None = None):
        """seeds [batch] int64, temperature [batch] float32, both on the device of the rows, and read where they are; so is positions
        [batch] int64, where given. slots: the most positions of a text, for a baseline to be bound too, where it can (`prepare` it)."""
        self.sampler, batch, device = sampler, len(seeds), seeds.device
        rows = lambda count: torch.zeros(batch, count, vocab, dtype=dtype, device=device)
        self.problem = from_torch(rows(draft_len + 1), torch.zeros(batch, draft_len, dtype=torch.int32, device=device),
                                  rows(draft_len) if has_rows and draft_len else None, kind="logits", seeds=seeds, temperature=temperature,
                                  positions=torch.zeros_like(seeds) if positions is None else positions)
        self.target = self.problem.target.view(batch, draft_len + 1, vocab)
        self.call = None
        if getattr(sampler, "inner", sampler).kind == "kernel":
            self.call = sampler.bind(self.problem)
        elif can_be_bound(sampler, batch, slots):
            self.call = BoundBaseline(sampler, self.problem, slots)

    def fill(self, target, tokens, draft, positions) -> None:
        """target [batch, w+1, vocab], draft [batch, K, vocab] or None, tokens [batch, K], positions [batch]; copied.

        w: the most drafts of a request. Rows behind stay what they were: their drafts are NO_TOKEN, and no draw comes that far.
        """
        self.target[:, :target.shape[1]].copy_(target)
        self.problem.draft_tokens.copy_(tokens.reshape(-1))
        self.problem.positions.copy_(positions)
        if self.problem.draft is not None:
            self.problem.draft.copy_(draft.reshape(self.problem.draft.shape))

    def verify(self):
        return self.call() if self.call else self.sampler(self.problem)

    def __call__(self, target, tokens, draft, positions):
        self.fill(target, tokens, draft, positions)
        return self.verify()


def row_dtype(dtype):
    """The dtype of the rows of a model of `dtype`: its own, or float32 where no sampler takes that (float64)."""
    return dtype if dtype in ROW_DTYPES else torch.float32
