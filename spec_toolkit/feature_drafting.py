"""Drafts of the eager loop by a model that takes features (features.py): the target's states are handed to it with every step.

Its forward is that of static_llama.py, launched call by call, over a cache of fixed size: transformers' does not know of features, and
has three times the launches. Beside the interface of drafting.py: `state.begin(hidden, slots)` before the first
step and `state.hear(hidden, positions)` after each forward of the target.
"""
from __future__ import annotations

import torch

from .draft_chain import Chain, KnownStates
from .drafting import Draft, DraftNumbers, ModelDrafter, draw
from .static_llama import StaticLlama
from .static_model import ROUND_SLOTS


class FeatureDrafter(ModelDrafter):
    """Drafts by a model with features."""

    def start(self, prompts, *, vocab, dtype, temperature, seeds):
        return FeatureDrafting(self, prompts, vocab, dtype, temperature, seeds)


class FeatureDrafting:
    def __init__(self, drafter, prompts, vocab, dtype, temperature, seeds):
        self.model, self.draft_len, self.texts, self.temperature = drafter.model, drafter.draft_len, prompts, temperature
        self.numbers = DraftNumbers(seeds, self.draft_len)
        self.rows = torch.zeros(len(prompts), self.draft_len, vocab, dtype=dtype, device=drafter.model.device)

    @torch.no_grad()
    def begin(self, hidden, slots: int) -> None:
        """hidden [batch, n, width]: of the target, where it has read the prompts but for their last tokens; None: all have one token.
        slots: of the longest text, with two more and a step's drafts."""
        batch, device, slots = len(self.texts), self.model.device, -(-slots // ROUND_SLOTS) * ROUND_SLOTS
        self.known = KnownStates(batch, slots, self.model.config.hidden_size, self.model.dtype, device)
        self.chain = Chain(StaticLlama(self.model, batch, slots), self.rows, self.known)
        self.offsets = torch.arange(self.draft_len + 1, device=device)  # from the last token to all that the target reads in a step
        if hidden is not None:
            count = hidden.shape[1]
            positions = torch.arange(count, device=device).expand(batch, count)
            self.known.keep(hidden, positions + 1)
            self.chain.begin(_rows([text[:count] for text in self.texts], count, device, behind=True), positions)

    @torch.no_grad()
    def draft(self, texts, positions) -> Draft:
        uniform, tokens = self.numbers.at([len(text) for text in texts], positions), []

        def draw_next(k):
            tokens.append(draw(self.rows[:, k], self.temperature, uniform[:, k]))
            return tokens[-1]

        self.chain.run(_rows([text[-self.chain.read:] for text in texts], self.chain.read, self.rows.device), positions, draw_next)
        return Draft(torch.stack(tokens, 1), self.rows, [self.draft_len] * len(texts))

    def hear(self, hidden, positions) -> None:
        """hidden [batch, n, width]: of the target, where it has read the last token of each text and its drafts; positions [batch]: the
        lengths of the texts then."""
        self.known.keep(hidden, positions[:, None] + self.offsets[:hidden.shape[1]])

    def take_back(self, texts):
        """Nothing to forget: what is read next lies at earlier positions."""


def _rows(rows, width: int, device, behind=False):
    """Lists of ids as [batch, width] int64, filled up with zeros before them, or behind."""
    fill = lambda row: [0] * (width - len(row))
    return torch.tensor([[*row, *fill(row)] if behind else [*fill(row), *row] for row in rows], dtype=torch.int64).to(device)
