"""The pools of a target's own texts that a draft is distilled on: one is held out, of the others the last few are kept."""
from __future__ import annotations

import random
import time

import torch

from .distill_recipe import HEATS
from .own_text import Pool, TextSampler
from .own_text_openings import openings, turns


class Pools:
    """kept: the last `recipe.pools_kept`. count: how many were sampled for training; drawn: tokens that the model drew in them, on
    all ranks. seconds: of sampling, the held-out pool included; last_seconds: of the last pool."""

    def __init__(self, target, tokenizer, recipe, device, ranks):
        self.tokenizer, self.recipe, self.device, self.ranks = tokenizer, recipe, device, ranks
        self.sampler = TextSampler(target, recipe.batch, recipe.length, turns(tokenizer))
        self.kept: list[Pool] = []
        self.count = self.drawn = 0
        self.seconds = self.last_seconds = 0.0

    def add(self) -> None:
        pool = self.sample()
        self.drawn += round(self.ranks.total(pool.drawn))
        self.kept = [*self.kept, pool][-self.recipe.pools_kept:]

    def held_out(self) -> Pool:
        return self.sample(held_out=True).rows(slice(0, self.recipe.held_out))

    def sample(self, held_out: bool = False) -> Pool:
        """A fresh pool. The one that is held out: other seeds, other files, and never trained on."""
        begun, size = time.monotonic(), self.recipe.batch
        self.count += not held_out
        seed = self.recipe.seed * 1_000_003 + self.ranks.rank * 10_007 + (0 if held_out else self.count)
        dice = random.Random(seed)
        heats = [HEATS[0][i % 2] for i in range(size)] if held_out else dice.choices(*HEATS, k=size)
        texts = [ids[:self.recipe.length // 2] for ids in openings(self.tokenizer, size, seed, held_out)]
        pool = self.sampler.sample(texts, heats, seed)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the pool is there when the clock is read
        self.last_seconds = time.monotonic() - begun
        self.seconds += self.last_seconds
        return pool
