"""One step of the decoding loop as four functions over buffers that never change their place: what a CUDA graph can hold.

draft      reads the end of each text, then each draft but the last; draws every draft from the row handed on with it
target     reads the last token and the drafts: K + 1 rows, into the sampler's buffer; keeps its states where the draft takes features
sampler    verifies
follow     appends what was emitted and lengthens the texts, on the device

How much of the end is read again (draft_chain.py), two tokens or with features K + 1, does not depend on what was accepted, and reading a
known token again changes nothing. So shapes are the same after every number of accepted drafts.

Drawing a draft is what a sampler does for a request without drafts: a plain draw from one row. Its numbers come from a seed of
their own (`draft_seeds`), at the position that the token would have. A position may be drafted in several steps, with the same
number each time, but only until a draft there has been looked at: then the text goes beyond it. So each draft that is looked at
was drawn by a number that nothing before it depended on.
"""
from __future__ import annotations

import torch

from .draft_chain import Chain, KnownStates
from .drafting import draw
from .features import takes_features
from .philox import DRAFT, RECOVER, random_words, uniform52
from .problem import from_torch
from .static_llama import StaticLlama
from .verifier import Verifier


class Step:
    """Buffers and functions for one batch. target: a StaticModel; draft: a StaticModel (K drafts with rows; a StaticLlama, if it takes
    features), or None: `draft_len` drafts without rows, written into `drafts` by the host before `target`, or none.

    drawer: a kernel sampler of logits that draws the drafts, or None: by torch. temperature [batch] float32: of the first texts; a
    sampler that is no kernel of logits is bound to it. compile: "target", "draft", as far as they are StaticLlamas: for as many tokens
    as a step reads.
    """

    def __init__(self, target, draft, sampler, drawer, *, draft_len: int, vocab: int, dtype, temperature, compile=()):
        batch, device, slots = target.batch, target.device, target.slots
        whole = lambda *shape, dtype=torch.int64: torch.zeros(shape, dtype=dtype, device=device)
        self.reading, self.chain, self.known, self.draft_len, self.vocab = target, None, None, draft_len, vocab
        self.text = whole(batch, slots, dtype=torch.int32)  # the token of position p is in column p + 1
        self.length, self.limit = whole(batch) + 1, whole(batch) + 1  # tokens of each text; where it may not grow further
        self.seeds, self.draft_seeds, self.temperature = whole(batch), whole(batch), temperature.clone()
        self.verifier = Verifier(sampler, seeds=self.seeds, temperature=self.temperature, draft_len=draft_len, vocab=vocab, dtype=dtype,
                                 has_rows=draft is not None, positions=self.length, slots=slots)
        self.drafts = self.verifier.problem.draft_tokens.view(batch, draft_len)
        self.out_tokens, self.num_accepted = whole(batch, draft_len + 1, dtype=torch.int32), whole(batch, dtype=torch.int32)
        self.status = whole(batch, dtype=torch.int32)
        if self.verifier.call:
            self.out_tokens, self.num_accepted, self.status = self.verifier.call.outputs
        on_gpu = device.type == "cuda"
        self.here = torch.empty(self.out_tokens.shape, dtype=torch.int32, pin_memory=on_gpu)  # out_tokens, on the host
        self.copied = torch.cuda.Event() if on_gpu else None
        self.offsets = torch.arange(-1, draft_len, device=device)      # from the length to the positions that the target reads
        self.columns = torch.arange(1, draft_len + 2, device=device)   # ... and to the columns of what is emitted
        self.direct = isinstance(target, StaticLlama) and target.model.dtype == dtype  # its head writes rows where the sampler reads them
        self.positions = whole(draft_len, batch)
        if draft:
            self.rows = self.verifier.problem.draft.view(batch, draft_len, vocab)
            if takes_features(draft.model):
                self.known = KnownStates(batch, slots, draft.model.config.hidden_size, target.model.dtype, device)
            self.chain = Chain(draft, self.rows, self.known)
            self.end = torch.arange(1 - self.chain.read, 1, device=device)  # from the length to the columns that the draft reads first
            self.draws = [self._draw_by(drawer, k) for k in range(draft_len)]
        for role, model, counts in (("target", target, (draft_len + 1,)), ("draft", draft, (self.chain.read, 1) if self.chain else ())):
            if role in compile and isinstance(model, StaticLlama):
                model.compiled.update(counts)

    def _draw_by(self, drawer, k):
        """A function -> [batch] int32: tokens drawn from rows[:, k], by a kernel that reads them where they are, or by torch."""
        rows, positions = self.rows[:, k], self.positions[k]
        if drawer is None:
            number = lambda: uniform52(*random_words(self.draft_seeds, positions, RECOVER, torch.zeros_like(positions))[:2])
            return lambda: draw(rows, self.temperature, number()).int()
        call = drawer.bind(from_torch(rows, self.drafts[:0, 0], kind="logits", draft_start=[0] * (len(rows) + 1), positions=positions,
                                      seeds=self.draft_seeds, temperature=self.temperature))
        return lambda: call().out_tokens[:, 0]

    def parts(self) -> dict:
        """{name: function}, in the order of a step."""
        named = {"draft": self.draft, "target": self.target, "sampler": self.sampler, "follow": self.follow}
        return {name: part for name, part in named.items() if name != "draft" or self.chain}

    @torch.no_grad()
    def begin(self, texts, limits, seeds, temperature) -> None:
        """Take new texts (lists of ids) with their limits, seeds [batch] int64 and temperature [batch], and read the texts."""
        padded = torch.zeros(self.text.shape, dtype=torch.int32)
        for b, text in enumerate(texts):
            padded[b, 1:len(text) + 1] = torch.tensor(text, dtype=torch.int32)
        self.text.copy_(padded)
        self.length.copy_(torch.tensor([len(text) for text in texts]))
        self.limit.copy_(torch.tensor(limits))
        self.seeds.copy_(seeds)
        self.draft_seeds.copy_(seeds_of_drafts(seeds))
        self.temperature.copy_(temperature)
        if hasattr(self.verifier.call, "prepare"):
            self.verifier.call.prepare()
        count = max(map(len, texts)) - 1  # a shorter text reads zeros behind its end, where its own tokens go later
        positions = torch.arange(count, device=self.length.device).expand(len(texts), count)
        for held in filter(None, (self.reading, self.chain and self.chain.model, self.known)):
            held.clear()
        if count:
            tokens = self.text[:, 1:count + 1]
            if self.known:
                self.known.keep(self.reading.read_both(tokens, positions, keep=1)[1], positions + 1)
            else:
                self.reading.read(tokens, positions, keep=1)
            if self.chain:
                self.chain.begin(tokens, positions)

    @torch.no_grad()
    def draft(self) -> None:
        columns = self.length[:, None] + self.end
        torch.add(self.length, self.offsets[1:, None], out=self.positions)
        self.chain.run(self.text.gather(1, columns.clamp_(min=0) if self.known else columns), self.length, self._draw)

    def _draw(self, k):
        torch.clamp(self.draws[k](), min=0, out=self.drafts[:, k])  # a row of NaN gives -1, which no model could read
        return self.drafts[:, k]

    @torch.no_grad()
    def target(self) -> None:
        tokens = self.text.gather(1, self.length[:, None])
        if self.draft_len:
            tokens = torch.cat([tokens, self.drafts.clamp(min=0)], 1)
        at = self.reading.at(self.length[:, None] + self.offsets)
        if self.direct:
            hidden = self.reading.states(tokens, at)
            self.reading.logits(hidden, out=self.verifier.target)
        else:
            logits, hidden = self.reading.read_both(tokens, at)
            self.verifier.target.copy_(logits)
        if self.known:
            self.known.keep(hidden, at.places)

    def sampler(self) -> None:
        outputs = self.verifier.verify()
        if not self.verifier.call:
            for held, new in zip((self.out_tokens, self.num_accepted, self.status), outputs):
                held.copy_(new)

    def send(self) -> None:
        """Begin the copy of out_tokens to the host."""
        self.here.copy_(self.out_tokens, non_blocking=True)
        if self.copied:
            self.copied.record()

    def received(self) -> list[list[int]]:
        """out_tokens, when they are here: the one place of a step where the host waits."""
        if self.copied:
            self.copied.synchronize()
        return self.here.tolist()

    def follow(self) -> None:
        self.text.scatter_(1, self.length[:, None] + self.columns, self.out_tokens)  # -1 behind: overwritten before it is read
        self.length.add_(self.num_accepted).add_(1)
        torch.minimum(self.length, self.limit, out=self.length)


def seeds_of_drafts(seeds):
    """[batch] int64: a seed for drafting from each request's seed, by the DRAFT stream, which the loop uses for nothing else."""
    low, high, *_ = random_words(seeds, torch.zeros_like(seeds), DRAFT, torch.zeros_like(seeds))
    return high << 32 | low
