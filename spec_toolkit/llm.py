"""Speculative decoding of language models (`transformers`) around any sampler of ours: the plain path, made to be read.

    decoder = Decoder(target_model, draft=draft_model, sampler="v10", draft_len=4)   # or draft=NgramDrafter(4)
    decoded = decoder.speculate(prompts, max_new_tokens=64, temperature=0.7, seeds=[1, 2], stop=[tokenizer.eos_token_id])
    decoded = decoder.plain(prompts, ...)                                           # the same contract without drafts

A step drafts K tokens, lets the target read the last token of each text and the drafts (K + 1 positions), verifies, and takes both
caches back to what was accepted. Requests of a batch progress unevenly (cached_model.py). A finished one stays in the batch, so that
shapes do not change; what it emits is dropped.

Random numbers: every draw of a step has the request's seed and, as position, the length of its text then: the absolute position of
the first draft token. A step lengthens the text, so no number is used twice; drafts come from the DRAFT stream, acceptance and
recovery from their own. A request's text thus depends on its prompt and seed, not on the batch around it, as far as the
models' rows do not (their rounding may).

Host and device: a step waits for the device once, where it reads out_tokens. It must: whether a request has ended, what the caches
keep, and what an n-gram follows, is decided from these tokens. Copies to the device (ids, positions, masks) go out behind that, when
the device has nothing to do. Baselines and peers look more often, inside their own time.
"""
from __future__ import annotations

import torch

from .cached_model import CachedModel, padded, read_prompts
from .decoding import Decoded, Stopwatch
from .drafting import Draft, ModelDrafter
from .feature_drafting import FeatureDrafter
from .features import takes_features
from .problem import MAX_DRAFT
from .verifier import LEAST_HEAT, Verifier, loop_sampler, row_dtype, usual_sampler


class NoMass(RuntimeError):
    """A row of the target held NaN or nothing to draw from: the model or its dtype is broken, and there is no token to go on with."""


class Decoder:
    """The target model, a sampler and a way to draft. draft: a model, or a drafter such as NgramDrafter(4); None: `plain` only.

    sampler: a name or a sampler; one that takes probabilities gets a softmax in front of it. None: verifier.py's usual one. A draft model
    that takes features (features.py) is handed the target's hidden states, whose width must be its own.
    """

    def __init__(self, target, draft=None, sampler=None, draft_len: int = 4):
        if not 1 <= draft_len <= MAX_DRAFT:
            raise ValueError(f"draft_len: got {draft_len}, accepted: 1 to {MAX_DRAFT}")
        self.target, self.device = target, target.device
        self.sampler = loop_sampler(sampler or usual_sampler(self.device))
        self.drafter, self.features = draft, isinstance(draft, torch.nn.Module) and takes_features(draft)
        if isinstance(draft, torch.nn.Module):
            self.drafter = (FeatureDrafter if self.features else ModelDrafter)(draft, draft_len)
        if self.features and draft.config.hidden_size != target.config.hidden_size:
            raise ValueError(f"draft: got features of width {draft.config.hidden_size}, accepted: the target's, {target.config.hidden_size}")

    def speculate(self, prompts, **options) -> Decoded:
        """Decode with drafts; options as `plain`."""
        if self.drafter is None:
            raise ValueError("draft: got None, accepted: a model or a drafter (Decoder(target, draft=...)) to speculate")
        return self._decode(self.drafter, self.drafter.draft_len, prompts, **options)

    def plain(self, prompts, *, max_new_tokens: int, temperature=0.0, seeds=None, stop=()) -> Decoded:
        """One token a step, drawn by the same sampler as a request without drafts. prompts: lists of ids, none empty.

        temperature: a number or one per request, 0 = greedy. seeds: one per request (default 0, 1, ...). stop: ids that end a text.
        """
        return self._decode(None, 0, prompts, max_new_tokens=max_new_tokens, temperature=temperature, seeds=seeds, stop=stop)

    def _decode(self, drafter, draft_len, prompts, *, max_new_tokens, temperature=0.0, seeds=None, stop=()):
        texts = [list(map(int, prompt)) for prompt in prompts]
        vocab, dtype = self.target.get_output_embeddings().weight.shape[0], row_dtype(self.target.dtype)
        self._check(texts, max_new_tokens, draft_len, vocab)
        heat, seeds = self._temperature(temperature, len(texts)), self._seeds(seeds, len(texts))
        state = drafter and drafter.start(texts, vocab=vocab, dtype=dtype, temperature=heat, seeds=seeds)
        verifier = Verifier(self.sampler, seeds=seeds, temperature=heat, draft_len=draft_len, vocab=vocab, dtype=dtype,
                            has_rows=bool(drafter and drafter.has_rows))
        reader, begin = CachedModel(self.target, len(texts)), Stopwatch(self.device)
        hidden = read_prompts(reader, texts, both=bool(state and self.features))
        if state and self.features:
            state.begin(hidden, max(map(len, texts)) + max_new_tokens + draft_len + 2)
        begin.mark("rest")
        ends = [len(text) + max_new_tokens for text in texts]
        decoded, open_ = Decoded([], tested=[0] * draft_len, accepted=[0] * draft_len), set(range(len(texts)))
        watch = Stopwatch(self.device)
        while open_ and max_new_tokens:
            rows = self._step(texts, reader, state, verifier, watch, counts := [])
            append(decoded, texts, rows, counts, ends, stop, open_)
            reader.take_back([len(text) - 1 for text in texts])
            if state:
                state.take_back(texts)
            watch.mark("rest")
        decoded.tokens = [text[len(prompt):] for text, prompt in zip(texts, prompts)]
        decoded.seconds, decoded.prefill_seconds = watch.seconds(), sum(begin.seconds().values())
        return decoded

    def _step(self, texts, reader, state, verifier, watch, counts):
        """One step of all requests -> the tokens that each emits, a list of lists; `counts` receives how many it drafted."""
        positions = torch.tensor([len(text) for text in texts], dtype=torch.int64).to(self.device)
        last = padded([text[-1:] for text in texts], self.device)
        watch.mark("rest")
        draft = state.draft(texts, positions) if state else Draft(last[:, :0], None, [0] * len(texts))
        counts += draft.counts
        watch.mark("draft")
        width = max(draft.counts)  # n-grams often draft less than K, or nothing: then the target reads no more than that
        tokens = torch.cat([last, draft.tokens[:, :width].clamp(min=0)], 1)
        if state and self.features:
            target, hidden = reader.read_both(tokens)
            state.hear(hidden, positions)
        else:
            target = reader.read(tokens)
        watch.mark("target")
        verifier.fill(target, draft.tokens, draft.logits, positions)
        watch.mark("rest")
        outputs = verifier.verify()
        watch.mark("sampler")
        return emitted(outputs.out_tokens.tolist(), outputs.status)  # the host waits here, and only here

    def _check(self, texts, max_new_tokens, draft_len, vocab):
        if not texts or not all(texts):
            raise ValueError(f"prompts: got lengths {[len(text) for text in texts]}, accepted: one or more lists of at least one id")
        if wrong := [token for text in texts for token in text if not 0 <= token < vocab]:
            raise ValueError(f"prompts: got the id {wrong[0]}, accepted: ids in [0, {vocab})")
        longest, limit = max(map(len, texts)) + max_new_tokens + draft_len, getattr(self.target.config, "max_position_embeddings", None)
        if max_new_tokens < 0 or limit and longest > limit:
            raise ValueError(f"max_new_tokens: got {max_new_tokens}, accepted: 0 to {limit and limit - longest + max_new_tokens} for "
                             f"these prompts (the model reads {limit} positions)")

    def _temperature(self, given, batch):
        heat = torch.as_tensor(given, dtype=torch.float32).expand(batch).contiguous().to(self.device)
        if not bool(((heat == 0) | (heat >= LEAST_HEAT) & heat.isfinite()).all()):
            raise ValueError(f"temperature: got {heat.tolist()}, accepted: 0 (greedy) or finite values >= {LEAST_HEAT}")
        return heat

    def _seeds(self, given, batch):
        seeds = list(range(batch)) if given is None else [int(seed) % 2**64 for seed in given]
        if len(seeds) != batch:
            raise ValueError(f"seeds: got {len(seeds)}, accepted: one per prompt, {batch}")
        return torch.tensor(seeds, dtype=torch.uint64).view(torch.int64).to(self.device)


def emitted(rows, status):
    """The tokens that each request emits, of out_tokens as lists and status [batch]. NoMass if one emits none."""
    rows = [[token for token in row if token >= 0] for row in rows]
    if not all(rows):
        raise NoMass(f"request {rows.index([])}: its target row has nothing to draw from (NaN?); status bits {status.tolist()}")
    return rows


def append(decoded, texts, rows, counts, ends, stop, open_) -> None:
    """Take a step into the texts and into `decoded`: rows of tokens, drafts `counts`; what has ended leaves the set `open_`."""
    for b in sorted(open_):
        decoded.count(len(rows[b]), counts[b])
        texts[b] += cut(rows[b], ends[b] - len(texts[b]), stop)
        if len(texts[b]) == ends[b] or texts[b][-1] in stop:
            open_.remove(b)
    decoded.steps += 1


def cut(tokens, room, stop):
    """The tokens up to the first stop token, included, and at most `room`."""
    end = next((i + 1 for i, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[:min(end, room)]
