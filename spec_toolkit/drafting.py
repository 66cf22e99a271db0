"""Where draft tokens come from: a small model (with its rows), or the text itself (n-grams, without rows).

A drafter makes a Draft for the texts as they are: `drafter.start(prompts)` -> state, `state.draft(texts, positions)` -> Draft,
`state.take_back(texts)` after the step.
"""
from __future__ import annotations

from typing import NamedTuple

import torch

from .cached_model import CachedModel, padded, read_prompts
from .philox import DRAFT, random_words, uniform52


class Draft(NamedTuple):
    """What one step proposes. A request may draft fewer than K: the rest of its row is NO_TOKEN, an id that every sampler rejects
    without looking it up, and whose residual (of a one-hot draft) is the whole target row."""
    tokens: torch.Tensor          # [batch, K] int64
    logits: torch.Tensor | None   # [batch, K, vocab] in the row dtype, that the tokens were drawn from; None: one-hot
    counts: list[int]             # drafts of each request


NO_TOKEN = -1


def draw(logits, temperature, uniform):
    """[batch] int64: the token of each row of softmax(logits / temperature) at `uniform` of its cumulative sum, in float64.

    logits [batch, vocab]; temperature [batch] float32, 0 = the maximum; uniform [batch] float64 in (0, 1).
    """
    heat = torch.where(temperature > 0, temperature, 1.0).double()[:, None]
    cumulative = torch.softmax(logits.double() / heat, 1).cumsum(1)
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return torch.where(temperature > 0, drawn.clamp(max=logits.shape[1] - 1), logits.argmax(1))


class DraftNumbers:
    """The uniform numbers that drafts are drawn by: number k of the DRAFT stream at the position of a step's first draft.

    Philox by torch is 300 launches whatever the size, so they are made for many positions at once.
    """

    def __init__(self, seeds, draft_len: int):
        self.seeds, self.index, self.first = seeds, torch.arange(draft_len, device=seeds.device), None
        self.ahead = max(1, 2048 // len(seeds))

    def at(self, lengths: list[int], positions):
        """[batch, draft_len] float64. lengths and positions are the same numbers, on the host and [batch] int64 on the device."""
        if self.first is None or any(not 0 <= length - first < self.ahead for length, first in zip(lengths, self.first)):
            self.first, self.base = lengths, positions.clone()
            ahead = torch.arange(self.ahead, device=positions.device)[:, None]
            self.table = uniform52(*random_words(self.seeds[:, None, None], positions[:, None, None] + ahead, DRAFT, self.index)[:2])
        return self.table.gather(1, (positions - self.base)[:, None, None].expand(-1, 1, len(self.index)))[:, 0]


def fit(logits, vocab: int):
    """Rows [.., n] as rows [.., vocab]: ids that the target lacks are cut off, ids that the draft lacks get -inf."""
    n = logits.shape[-1]
    return logits[..., :vocab] if n >= vocab else torch.nn.functional.pad(logits, (0, vocab - n), value=-torch.inf)


class ModelDrafter:
    """Drafts by a model: `draft_len` tokens a step, each drawn from the rows that are handed on with them."""
    has_rows = True

    def __init__(self, model, draft_len: int):
        self.model, self.draft_len = model, draft_len

    def start(self, prompts, *, vocab, dtype, temperature, seeds):
        """State for a batch: rows of `vocab` ids in `dtype`; temperature and seeds [batch] on the model's device."""
        return ModelDrafting(self, prompts, vocab, dtype, temperature, seeds)


class ModelDrafting:
    def __init__(self, drafter, prompts, vocab, dtype, temperature, seeds):
        self.draft_len, self.vocab, self.dtype, self.temperature = drafter.draft_len, vocab, dtype, temperature
        self.numbers = DraftNumbers(seeds, self.draft_len)
        self.reader, self.known = CachedModel(drafter.model, len(prompts)), drafter.model.get_input_embeddings().weight.shape[0]
        read_prompts(self.reader, self._readable(prompts))

    def draft(self, texts, positions) -> Draft:
        """First the tokens that the cache lacks (one, or two after a step without rejection), then each draft but the last."""
        missing = self._readable(text[length:] for text, length in zip(texts, self.reader.lengths))
        counts = [len(rest) for rest in missing]
        last = torch.tensor(counts).to(self.reader.device)[:, None, None] - 1  # copied before the model runs, so that nothing waits
        rows = self.reader.read(padded(missing, self.reader.device), counts)
        logits, tokens, kept = rows.gather(1, last.expand(-1, 1, rows.shape[2]))[:, 0], [], []
        uniform = self.numbers.at([len(text) for text in texts], positions)
        for index in range(self.draft_len):
            if index:
                logits = self.reader.read(tokens[-1][:, None])[:, -1]
            # The row is rounded first: the draft is drawn from the very numbers that the sampler gets.
            kept.append(fit(logits, self.vocab).to(self.dtype))
            tokens.append(draw(kept[-1], self.temperature, uniform[:, index]))
        return Draft(torch.stack(tokens, 1), torch.stack(kept, 1), [self.draft_len] * len(texts))

    def _readable(self, rows):
        """An id that the draft lacks is read as id 0: its drafts are worse for it, the text is not."""
        return [[token if token < self.known else 0 for token in row] for row in rows]

    def take_back(self, texts):
        """Leave at least the last token of each text to be read: its row is where the next draft begins."""
        self.reader.take_back([len(text) - 1 for text in texts])


class NgramDrafter:
    """Prompt look-up: find the last `longest`..`shortest` tokens of the text earlier in it, and propose what followed there."""
    has_rows = False

    def __init__(self, draft_len: int, longest: int = 4, shortest: int = 2):
        if not 1 <= shortest <= longest:
            raise ValueError(f"shortest, longest: got {shortest}, {longest}, accepted: 1 <= shortest <= longest")
        self.draft_len, self.longest, self.shortest = draft_len, longest, shortest

    def start(self, prompts, *, vocab, dtype, temperature, seeds):
        """Itself: it keeps nothing between steps."""
        return self

    def draft(self, texts, positions) -> Draft:
        found = [self.look_up(text) for text in texts]
        rows = [[*drafts, *[NO_TOKEN] * (self.draft_len - len(drafts))] for drafts in found]
        return Draft(torch.tensor(rows, dtype=torch.int64).to(positions.device), None, [len(drafts) for drafts in found])

    def look_up(self, text: list[int]) -> list[int]:
        """Up to draft_len tokens that followed the most recent earlier place of the longest suffix that has one; or none."""
        for n in range(min(self.longest, len(text) - 1), self.shortest - 1, -1):
            suffix = text[-n:]
            for start in range(len(text) - n - 1, -1, -1):
                if text[start:start + n] == suffix:
                    return text[start + n:start + n + self.draft_len]
        return []

    def take_back(self, texts):
        """Nothing to forget."""
