"""Plain against speculative decoding of one model: the same prompts and seeds by both, in turn, and what came of it.

    print(compare(decoder, prompts, max_new_tokens=48, repeats=3))
"""
from __future__ import annotations

import statistics
from dataclasses import dataclass

from .decoding import PARTS, Decoded


@dataclass
class Comparison:
    """Pairs (plain, speculative) of runs of the same prompts and seeds; `greedy`: texts must be equal, but for ties."""
    pairs: list[tuple[Decoded, Decoded]]
    draft_len: int
    greedy: bool

    @property
    def speedups(self) -> list[float]:
        """Tokens/s of speculation over tokens/s of plain decoding, of each pair."""
        return [ours.tokens_per_second / plain.tokens_per_second for plain, ours in self.pairs]

    @property
    def acceptance(self) -> list[float | None]:
        """[K] by position, over all runs; None where no draft was looked at."""
        columns = zip(*((zip(ours.accepted, ours.tested)) for _, ours in self.pairs))
        sums = [(sum(accepted for accepted, _ in column), sum(tested for _, tested in column)) for column in columns]
        return [accepted / tested if tested else None for accepted, tested in sums]

    @property
    def equal_texts(self) -> tuple[int, int]:
        """(texts that are the same both ways, texts)."""
        same = [left == right for plain, ours in self.pairs for left, right in zip(plain.tokens, ours.tokens)]
        return sum(same), len(same)

    def verdict(self) -> str:
        """Is there a speedup? In how many runs, and how large; in words."""
        middle, faster, runs = statistics.median(self.speedups), sum(ratio > 1 for ratio in self.speedups), len(self.pairs)
        spread = f"{middle:.2f}x ({min(self.speedups):.2f}x to {max(self.speedups):.2f}x)"
        if faster == runs:
            return f"Speculation was faster in each of {runs} runs: {spread}."
        if middle > 1:
            return f"Speculation was faster in {faster} of {runs} runs, not in all: {spread}."
        return f"No speedup: speculation was faster in {faster} of {runs} runs: {spread}."

    def __str__(self):
        methods = {"plain": [plain for plain, _ in self.pairs], f"speculation, K={self.draft_len}": [ours for _, ours in self.pairs]}
        head = f"{'':<20}{'tokens/s':>9}  {'(min to max)':<18}{'tokens/step':>12}   "
        lines = [head + "".join(f"{part:>9}" for part in PARTS)]
        lines += [f"{name:<20}{_row(runs)}" for name, runs in methods.items()]
        rates = ["none looked at" if rate is None else f"{rate:.0%}" for rate in self.acceptance]
        lines += ["", "accepted, by position: " + ", ".join(rates)]
        if self.greedy:
            lines += [f"greedy texts that are the same both ways: {self.equal_texts[0]} of {self.equal_texts[1]}"
                      + ("" if self.equal_texts[0] == self.equal_texts[1] else " (the others part where rounding turns a near tie)")]
        return "\n".join([*lines, self.verdict()])


def _row(runs):
    """Median, least and most tokens/s; tokens of a step; each part's share of the time."""
    rates = [run.tokens_per_second for run in runs]
    seconds = {part: sum(run.seconds[part] for run in runs) for part in PARTS}
    emitted = [count for run in runs for count in run.emitted]
    return (f"{statistics.median(rates):9.1f}  {f'({min(rates):.1f} to {max(rates):.1f})':<18}{statistics.mean(emitted):12.2f}   "
            + "".join(f"{seconds[part] / sum(seconds.values()):9.1%}" for part in PARTS))


def compare(decoder, prompts, *, max_new_tokens: int, temperature: float = 0.0, repeats: int = 3, batch: int = 1, seed: int = 0, stop=(),
            progress=None) -> Comparison:
    """Every prompt `repeats` times, `batch` prompts at a time, plainly and with drafts by turns; a short run of each goes before.

    prompts: lists of ids. progress: called with a line after every pair.
    """
    if repeats < 1 or batch < 1:
        raise ValueError(f"repeats, batch: got {repeats}, {batch}, accepted: 1 or more")
    pairs, methods = [], (decoder.plain, decoder.speculate)
    for method in methods:
        method(prompts[:batch], max_new_tokens=min(4, max_new_tokens), temperature=temperature)
    for repeat in range(repeats):
        for start in range(0, len(prompts), batch):
            group = prompts[start:start + batch]
            options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "stop": stop,
                       "seeds": [seed + 1000 * repeat + start + b for b in range(len(group))]}
            order = (0, 1) if len(pairs) % 2 == 0 else (1, 0)  # neither is always the one that finds the machine warm
            done = {which: methods[which](group, **options) for which in order}
            pairs.append((done[0], done[1]))
            if progress:
                progress(f"  run {repeat + 1}, prompt {start + 1}: plain {done[0].tokens_per_second:.1f}, "
                         f"speculation {done[1].tokens_per_second:.1f} tokens/s")
    return Comparison(pairs, decoder.drafter.draft_len, temperature == 0)
