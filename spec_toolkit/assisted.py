"""transformers' own speculative decoding, `target.generate(assistant_model=draft)`, timed as the loop here is: without the prompt.

    Assisted(target, draft, draft_len=4).speculate([prompt], max_new_tokens=32, temperature=1.0, seeds=[1])   # -> AssistedRun

It takes one request at a time, no static cache, and draws from torch's generator (seeded with the request's seed). Its first step
reads the prompt and verifies drafts in one forward, so the clock starts behind that step, and its tokens do not count either.
Limits on what is drawn from (top-k, top-p, ...) are switched off: the law is that of plain sampling at this temperature.
"""
from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass

import torch


@dataclass
class AssistedRun:
    """One text. `seconds` and `emitted` are those of the steps behind the first, `whole_seconds` is the call."""
    tokens: list[list[int]]
    emitted: list[int]
    seconds: float
    whole_seconds: float

    @property
    def new_tokens(self) -> int:
        return sum(map(len, self.tokens))

    @property
    def tokens_per_second(self) -> float | None:
        """None where the first step was the last."""
        return sum(self.emitted) / self.seconds if self.emitted else None

    @property
    def tokens_per_step(self) -> float | None:
        return sum(self.emitted) / len(self.emitted) if self.emitted else None


class Steps:
    """A streamer: what each step emitted, and when. `generate` hands it the prompt first, then the tokens of every step."""

    def __init__(self, device):
        self.device, self.counts, self.times = device, [], []

    def put(self, tokens):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.counts.append(tokens.numel())
        self.times.append(time.perf_counter())

    def end(self):
        """Nothing is kept back."""


class Assisted:
    """draft_len: drafts of every step, whatever their confidence; None: as transformers has it by default (it adapts)."""

    def __init__(self, target, draft, draft_len: int | None = 4):
        self.target, self.draft, self.draft_len = target, draft, draft_len

    def speculate(self, prompts, *, max_new_tokens: int, temperature: float = 0.0, seeds=(0,), stop=()) -> AssistedRun:
        """prompts: one list of ids. ValueError for more than one: `generate` refuses them with an assistant."""
        if len(prompts) != 1:
            raise ValueError(f"prompts: got {len(prompts)}, accepted: 1 (assisted generation takes one request at a time)")
        ids = torch.tensor(prompts, device=self.target.device)
        steps = Steps(self.target.device)
        torch.manual_seed(seeds[0] % 2**63)
        with torch.no_grad(), self._drafting():
            start = time.perf_counter()
            out = self.target.generate(ids, attention_mask=torch.ones_like(ids), assistant_model=self.draft, streamer=steps,
                                       generation_config=self._config(max_new_tokens, temperature, stop))
            text = out[0, ids.shape[1]:].tolist()
            whole = time.perf_counter() - start
        counts, times = steps.counts[1:], steps.times[1:]  # behind the prompt
        return AssistedRun([text], counts[1:], times[-1] - times[0], whole)

    def _config(self, max_new_tokens, temperature, stop):
        from transformers import GenerationConfig

        sampling, ends = {"do_sample": False}, sorted(stop) or None
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": float(temperature), "top_k": 0, "top_p": 1.0}
        return GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[0] if ends else 0, use_cache=True,
                                **sampling)

    @contextlib.contextmanager
    def _drafting(self):
        """The draft's own generation settings as asked for, and as they were behind it; stray settings of the models do not take part."""
        from transformers import GenerationConfig

        logger = logging.getLogger("transformers.generation.utils")
        before = self.target.generation_config, self.draft.generation_config
        fixed = {} if self.draft_len is None else {"num_assistant_tokens": self.draft_len, "num_assistant_tokens_schedule": "constant",
                                                   "assistant_confidence_threshold": 0.0}
        self.target.generation_config, self.draft.generation_config = GenerationConfig(), GenerationConfig(**fixed)
        logger.addFilter(_of_the_caller)
        try:
            yield
        finally:
            logger.removeFilter(_of_the_caller)
            self.target.generation_config, self.draft.generation_config = before


def _of_the_caller(record) -> bool:
    """False for the warning that transformers gives itself, for passing its draft settings and arguments. The call here passes settings."""
    return "together with generation-related" not in record.getMessage()
