"""A language model's own texts, many at a time: what a draft of it is distilled on.

    sampler = TextSampler(model, batch=4096, length=256, turns=turns(tokenizer))
    pool = sampler.sample(openings, heat, seed=7)   # openings: lists of ids that the texts begin with

All texts grow by one token a step, from their first token on: an opening is read like a text whose next token is given, so there is
no other code for it. On a GPU a step is a CUDA graph, and the host waits for nothing until the texts are read. A text that
ends goes on: behind the mark that ends a turn of a chat stand the words that open the other's turn.

The target's hidden states are kept with the tokens: times its head they are its logits, so that training needs no forward of it.
"""
from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch.nn import functional as F

from .own_text_step import LlamaStep

STRIDE = 64  # slots by which a step's view of the cache grows; one graph for each size


@dataclass(frozen=True)
class Turns:
    """Chat: `end` closes a turn, and words[0] opens the assistant's, words[1] the user's. Without a chat: Turns()."""
    end: int = -1
    words: tuple[tuple[int, ...], tuple[int, ...]] = ((0,), (0,))


@dataclass
class Pool:
    """Texts of one model. tokens [n, length] int64; hidden [n, length, width], behind the last norm, where token i was read;
    free [n, length] bool: the token behind i was drawn from the model, neither given nor a chat's fixed words (the last one is cut off);
    answer [n, length] bool: drawn, and in a turn of a chat's assistant; heat [n] float32, the temperatures. `hidden[i, j] @ head.T /
    heat[i]` is the log of the law that token j + 1 was drawn from, but for a constant.
    """
    tokens: torch.Tensor
    hidden: torch.Tensor
    free: torch.Tensor
    answer: torch.Tensor
    heat: torch.Tensor

    def rows(self, chosen) -> Pool:
        return Pool(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    @staticmethod
    def together(pools) -> Pool:
        return Pool(**{field.name: torch.cat([getattr(pool, field.name) for pool in pools]) for field in fields(Pool)})

    @property
    def drawn(self) -> int:
        """Tokens that the model drew; waits for the device."""
        return int(self.free.sum())


class TextSampler:
    """`batch` texts of `length` tokens at a time, drawn from a Llama at each text's temperature (in float32, by an exponential race)."""

    def __init__(self, model, batch: int, length: int, turns: Turns = Turns()):
        self.step, self.head, self.batch, self.length = LlamaStep(model, batch, length), model.lm_head.weight.detach(), batch, length
        device = self.head.device
        made = lambda *shape, dtype=torch.int64: torch.zeros(*shape, dtype=dtype, device=device)
        self.tokens, (self.free, self.answer) = made(batch, length + 1), (made(batch, length, dtype=torch.bool) for _ in range(2))
        self.hidden = made(batch, length, self.head.shape[1], dtype=self.head.dtype)
        self.place, self.given, self.heat = made(1), made(batch), torch.ones(batch, 1, device=device)
        self.spoken, self.role = made(batch), made(batch)  # words of a turn's opening that are out (0: none is due); whose turn it is
        self.end, widest = turns.end, max(map(len, turns.words))
        self.words = torch.tensor([[*words, *[0] * (widest - len(words))] for words in turns.words], device=device)
        self.word_count = torch.tensor([len(words) for words in turns.words], device=device)
        self.graphs, self.how = None, "eager"
        if device.type == "cuda":
            try:
                self.graphs, self.how = self._captured(), "CUDA graphs"
            except RuntimeError as error:  # about half as fast, and better than no texts
                self.how = f"eager, for capture failed: {error}"

    @torch.no_grad()
    def sample(self, openings, heat, seed: int) -> Pool:
        """openings: `batch` lists of ids, each of 1 to `length` ids; behind one whose last id ends a turn, the assistant speaks. heat: a
        number > 0 per text. Seeds PyTorch's generators."""
        if len(openings) != self.batch or not all(1 <= len(ids) <= self.length for ids in openings):
            sizes = [len(ids) for ids in openings] or [0]
            raise ValueError(f"openings: got {len(openings)} of {min(sizes)} to {max(sizes)} ids, "
                             f"accepted: {self.batch} of 1 to {self.length}")
        padded = torch.tensor([[*ids, *[0] * (self.length + 1 - len(ids))] for ids in openings])
        self.tokens.copy_(padded)
        self.given.copy_(torch.tensor([len(ids) for ids in openings]))
        self.heat.copy_(torch.as_tensor(heat, dtype=torch.float32).view(-1, 1))
        self.place.zero_(), self.spoken.zero_(), self.role.fill_(1)
        torch.manual_seed(seed)
        for place in range(self.length):
            end = self._end(place)
            self.graphs[end].replay() if self.graphs else self._advance(end)
        return Pool(*(each.clone() for each in (self.tokens[:, :self.length], self.hidden, self.free, self.answer, self.heat[:, 0])))

    def _end(self, place):
        return min((place // STRIDE + 1) * STRIDE, self.length)

    def _advance(self, end):
        """Read the token at `place` of each text, choose the next one, and move `place`. Nothing here waits for the device."""
        hidden = self.step.read(self.tokens.index_select(1, self.place)[:, 0], self.place, end)
        self.hidden.index_copy_(1, self.place, hidden[:, None])
        scores = F.linear(hidden, self.head).float().div_(self.heat)
        drawn = scores.sub_(torch.empty_like(scores).exponential_().log_()).argmax(-1)
        speaking = self.spoken > 0
        word = self.words[self.role, (self.spoken - 1).clamp_(min=0)]
        next_place = self.place + 1
        given = next_place < self.given
        token = torch.where(given, self.tokens.index_select(1, next_place)[:, 0], torch.where(speaking, word, drawn))
        self.tokens.index_copy_(1, next_place, token[:, None])
        free = ~(given | speaking)
        self.free.index_copy_(1, self.place, free[:, None])
        self.answer.index_copy_(1, self.place, (free & (self.role == 0))[:, None])
        ended = ~speaking & (token == self.end) & (next_place + 1 >= self.given)  # marks inside of an opening end nothing
        more = (self.spoken + 1) * (self.spoken < self.word_count[self.role])
        self.spoken.copy_(torch.where(speaking, more, ended.long()))
        self.role.copy_(torch.where(ended, 1 - self.role, self.role))
        self.place.copy_(next_place)

    @torch.no_grad()
    def _captured(self):
        """{end: graph}. Each shape is run once before its capture, on a side stream, since libraries allocate in their first call."""
        graphs, pool = {}, torch.cuda.graph_pool_handle()
        with torch.cuda.device(self.head.device):
            for end in sorted({self._end(place) for place in range(self.length)}):
                self.place.zero_()
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    self._advance(end)
                torch.cuda.current_stream().wait_stream(side)
                graphs[end] = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graphs[end], pool=pool):
                    self._advance(end)
        return graphs
