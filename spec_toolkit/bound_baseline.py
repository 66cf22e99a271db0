"""A vectorised baseline bound once, for a loop that must not make random numbers by torch in every step: it has them made ahead.

Philox by torch is some 600 launches for one step. Bound anew at each step, a baseline would be timed for these and for its index
tables; so it gets both before the clock starts, as where a single call is timed, and a CUDA graph can hold the rest.
"""
from __future__ import annotations

import torch

from .philox import ACCEPT, RECOVER, random_words, uniform23, uniform52

MOST = 1 << 17  # requests x positions whose numbers are held; beyond that a loop binds anew at each step


def can_be_bound(sampler, batch: int, slots: int | None) -> bool:
    """Is it a baseline without a look from the host, and are there few enough positions?"""
    return getattr(sampler, "kind", None) == "baseline" and sampler.name != "python_loop" and bool(slots) and batch * slots <= MOST


class BoundBaseline:
    """`sampler` bound to `problem`, whose `positions` move on by fewer than `slots` after `prepare`. Every request has K drafts.

    The temperatures are those that `problem` had when this was made.
    """

    def __init__(self, sampler, problem, slots: int):
        self.call, self.problem, self.draft_len = sampler.bind(problem), problem, problem.max_draft
        self.outputs, self.first = self.call.outputs, torch.zeros_like(problem.positions)
        room = lambda width: torch.zeros(problem.batch, slots, width, dtype=torch.float64, device=problem.device)
        self.accept, self.recover = room(self.draft_len), room(self.draft_len + 1)

    def prepare(self) -> None:
        """Make the numbers of all positions from the problem's on, for its seeds."""
        self.first.copy_(self.problem.positions)
        slots, index = (torch.arange(count, device=self.first.device) for count in (self.accept.shape[1], self.draft_len + 1))
        at, seeds = (self.first[:, None] + slots)[:, :, None], self.problem.seeds[:, None, None]
        self.accept.copy_(uniform23(random_words(seeds, at, ACCEPT, index[:-1])[0]))
        self.recover.copy_(uniform52(*random_words(seeds, at, RECOVER, index)[:2]))

    def __call__(self):
        at = (self.problem.positions - self.first)[:, None, None]
        for held, numbers in ((self.accept, self.call.accept_u), (self.recover, self.call.recover_u)):
            numbers.copy_(held.gather(1, at.expand(-1, 1, held.shape[2])).view(numbers.shape))
        return self.call()
