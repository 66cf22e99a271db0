"""The drafts of a step by a model over a static cache: the end of the text is read, then each draft but the last, row after row.

    known = KnownStates(batch, slots, width, dtype, device)     # of the target, where the draft takes features
    chain = Chain(StaticLlama(draft, batch, slots), rows, known)
    chain.run(tokens, length, draw)                             # fills rows [batch, K, vocab]; draw(k) -> the tokens drawn from rows[:, k]

What is read of the text, `chain.read` tokens, is the same after every number of accepted drafts. Without features that is two: of what
was accepted, only the last draft has not been read. With features it is K + 1: the drafts of the step before were read with the draft's
own states, and are read again with the target's, which has seen them since. So the key and value of each token of the text are made
with features of the target, whatever the steps were. Positions below 0, of a text that is shorter, go to slot 0, seen by nobody.
"""
from __future__ import annotations

import torch

from .drafting import fit
from .static_llama import StaticLlama


class KnownStates:
    """The target's hidden states behind its last norm, [batch, slots, width], by position: p is in slot p + 1. Slot 0 holds zeros."""

    def __init__(self, batch: int, slots: int, width: int, dtype, device):
        self.held = torch.zeros(batch, slots, width, dtype=dtype, device=device)

    def keep(self, hidden, places) -> None:
        """hidden [batch, n, width] of what was read into `places` [batch, n] >= 1, the slots."""
        self.held.scatter_(1, places[:, :, None].expand_as(hidden), hidden)

    def before(self, positions):
        """[batch, n, width]: for positions [batch, n] the states of the positions before them; zeros where there is none."""
        return self.held.gather(1, positions.clamp(min=0)[:, :, None].expand(-1, -1, self.held.shape[2]))

    def clear(self) -> None:
        self.held.zero_()


class Chain:
    """model: a StaticLlama, or without `known` any StaticModel. rows [batch, K, vocab] receives what the drafts are drawn from, in its dtype:
    a row is rounded first, and ids that the draft lacks get -inf."""

    def __init__(self, model, rows, known: KnownStates | None = None):
        self.model, self.rows, self.known = model, rows, known
        self.draft_len, self.vocab = rows.shape[1:]
        self.words = model.model.get_input_embeddings().weight.shape[0]  # ids that the draft knows
        self.direct = isinstance(model, StaticLlama) and model.model.dtype == rows.dtype and self.words == self.vocab
        self.read = self.draft_len + 1 if known else 2
        self.offsets = torch.arange(-self.read, self.draft_len - 1, device=rows.device)  # from the length to all positions of a step

    def run(self, tokens, length, draw) -> None:
        """tokens [batch, `read`]: the last of each text, anything where it is shorter. length [batch] int64, of the texts."""
        at = self.model.at(length[:, None] + self.offsets)
        given, end = self.known and self.known.before(at.positions[:, :self.read]), self.read
        for k in range(self.draft_len):
            part = at.columns(end - tokens.shape[1], end)
            given = self._row(k, self.readable(tokens), part, given)
            tokens, end = draw(k)[:, None], end + 1

    def begin(self, tokens, positions) -> None:
        """Read texts from their start, tokens [batch, n] at positions [batch, n]; what the target has read of them is known."""
        if isinstance(self.model, StaticLlama):
            self.model.states(self.readable(tokens), positions, self.known and self.known.before(positions))
        else:
            self.model.read(self.readable(tokens), positions, keep=1)

    def readable(self, tokens):
        """An id that the draft lacks is read as id 0: its drafts are worse for it, the text is not."""
        return tokens if self.words >= self.vocab else torch.where(tokens < self.words, tokens, 0)

    def _row(self, k, tokens, at, given):
        """Fill rows[:, k] -> the state of the last token [batch, 1, width], where features are taken."""
        if not isinstance(self.model, StaticLlama):
            self.rows[:, k].copy_(fit(self.model.read(tokens, at, keep=1)[:, -1], self.vocab))
            return None
        last = self.model.states(tokens, at, given)[:, -1:]
        if self.direct:
            self.model.logits(last, out=self.rows[:, k:k + 1])
        else:
            self.rows[:, k].copy_(fit(self.model.logits(last)[:, -1], self.vocab))
        return last if self.known else None
