"""What a run of the decoding loop returns: the tokens, what was accepted, and where the time went. Sees no model."""
from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

PARTS = ("draft", "target", "sampler", "rest")


class Stopwatch:
    """Time between marks, by the part it was spent on. CUDA: events, read at the end, so that a mark waits for nothing."""

    def __init__(self, device):
        self.cuda = torch.device(device).type == "cuda"
        self.marks = []
        self.mark("rest")

    def mark(self, part: str) -> None:
        """What has run since the last mark was `part`."""
        if self.cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self.marks.append((part, now))

    def seconds(self) -> dict:
        """{part: seconds}; on CUDA it waits for the device."""
        if self.cuda:
            torch.cuda.synchronize()
        total = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in zip(self.marks, self.marks[1:]):
            total[part] += before.elapsed_time(after) / 1000 if self.cuda else after - before
        return total


@dataclass
class Decoded:
    """Texts of a batch and how they came about. Acceptance is given position by position: of the drafts that were looked at there
    (all before them were accepted), the share that was accepted. Seconds leave out the reading of the prompts, `prefill_seconds`."""
    tokens: list[list[int]]                                  # new tokens of each request, a stop token included
    steps: int = 0
    emitted: list[int] = field(default_factory=list)         # tokens of each step of each unfinished request, before a cut at its end
    tested: list[int] = field(default_factory=list)          # [K] drafts looked at, by position
    accepted: list[int] = field(default_factory=list)        # [K] of these, accepted
    seconds: dict = field(default_factory=dict)              # {draft, target, sampler, rest}
    prefill_seconds: float = 0.0

    @property
    def new_tokens(self) -> int:
        return sum(map(len, self.tokens))

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / sum(self.seconds.values())

    @property
    def tokens_per_step(self) -> float:
        """Mean of the tokens that a request emits in a step: 1 without speculation, at most K + 1."""
        return sum(self.emitted) / len(self.emitted) if self.emitted else 0.0

    @property
    def acceptance(self) -> list[float | None]:
        """[K]: by position; None where no draft was looked at."""
        return [accepted / tested if tested else None for accepted, tested in zip(self.accepted, self.tested)]

    @property
    def shares(self) -> dict:
        """{part: its share of the time}."""
        whole = sum(self.seconds.values())
        return {part: seconds / whole for part, seconds in self.seconds.items()}

    def count(self, emitted: int, drafted: int) -> None:
        """One step of one request."""
        self.emitted.append(emitted)
        for position in range(min(emitted, drafted)):
            self.tested[position] += 1
            self.accepted[position] += position < emitted - 1

    def __repr__(self):
        split = ", ".join(f"{part} {share:.0%}" for part, share in self.shares.items())
        return (f"Decoded({len(self.tokens)} texts, {self.new_tokens} tokens, {self.tokens_per_second:.1f} tokens/s, "
                f"{self.tokens_per_step:.2f} tokens a step; {split})")
