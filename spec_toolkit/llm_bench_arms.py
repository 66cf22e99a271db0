"""One way to decode while it is measured: made for a cell, its sampler checked, warmed up, run, and told as a record has it."""
from __future__ import annotations

import time
import traceback
from dataclasses import asdict
from pathlib import Path

from .assisted import Assisted
from .check import check
from .drafting import NgramDrafter
from .features import takes_features
from .llm import Decoder
from .llm_bench_cells import Arm, Cell
from .llm_bench_pair import Pair
from .llm_bench_records import PARTS
from .sampler import load_sampler
from .synthetic import make_problem
from .verifier import loop_sampler, row_dtype


def make_method(pair: Pair, cell: Cell, arm: Arm, sampler=None):
    """A function (prompts, **options) -> Decoded or AssistedRun. sampler: in place of the arm's own."""
    if arm.method == "assisted":
        if pair.draft is None:
            raise ValueError("assisted: got n-grams, accepted: a draft model")
        return Assisted(pair.target, pair.draft, arm.draft_len).speculate
    k = arm.draft_len or 1
    draft = None if arm.method == "plain" else pair.draft if pair.draft is not None else NgramDrafter(k)
    if arm.method == "bare":
        if pair.draft is None or not takes_features(pair.draft):
            raise ValueError("bare: got a draft without features, accepted: one that takes them, to be read without")
        draft = pair.bare
    decoder = make_decoder(cell.path, pair.target, draft, sampler or arm.sampler, k, _longest(pair, cell) + k + 2, cell.fused or "none", "both")
    return decoder.plain if arm.method == "plain" else decoder.speculate


def make_decoder(path: str, target, draft, sampler, draft_len: int, max_length: int | None = None, fused: str = "none",
                 compile: str = "draft"):
    """The loop of that path. max_length: of the longest text and its drafts: the graph path captures once; fused, compile: GraphDecoder's."""
    if path == "eager":
        return Decoder(target, draft=draft, sampler=sampler, draft_len=draft_len)
    from .graph_decoder import GraphDecoder

    rounded = max_length and -(-max_length // 64) * 64
    return GraphDecoder(target, draft=draft, sampler=sampler, draft_len=draft_len, max_length=rounded, fused=fused, compile=compile)


def _longest(pair, cell) -> int:
    return max(map(len, pair.prompts[:cell.prompts])) + cell.tokens


def check_sampler(pair: Pair, sampler, batch: int, draft_len: int):
    """The sampler as the loop calls it, on made-up rows of this vocabulary and dtype. RuntimeError if it fails: then it is not timed."""
    problem = make_problem(batch=batch, draft_len=draft_len, vocab=pair.vocab, dtype=row_dtype(pair.target.dtype), logits=True,
                           device=str(pair.target.device))
    found = check(sampler, problem)
    if not found:
        raise RuntimeError(f"the check has not passed: {found}")
    kept = ("passed", "problem", "requests", "exact", "explained_count", "compared")
    return {key: value for key, value in found.to_dict().items() if key in kept}


COLUMNS = ("prompt", "seed", "new_tokens", "tokens_per_s", "steps", "emitted", "request_steps", *(f"{part}_s" for part in PARTS),
           "prefill_s", "call_s")


class Running:
    """An arm while it is measured: its method and what its runs gave."""

    def __init__(self, pair: Pair, cell: Cell, arm: Arm):
        self.pair, self.cell, self.arm, self.failure, self.check, self.sampler = pair, cell, arm, None, None, None
        self.runs, self.texts, (self.tokens, self.seeds) = {key: [] for key in COLUMNS}, [], cell.of(arm)
        k = 0 if arm.method == "plain" else arm.draft_len or 0
        self.tested, self.accepted = [0] * k, [0] * k
        try:
            if arm.sampler:
                self.sampler = loop_sampler(arm.sampler)
                self.check = check_sampler(pair, self.sampler, cell.batch, max(1, k))
            self.method = make_method(pair, cell, arm, self.sampler)
            self._decode(range(cell.batch), 0, tokens=min(self.tokens, 2 * (k + 1) + 2))  # not counted
        except Exception as error:  # noqa: BLE001 (one arm that fails must not lose the others)
            self.failure = reason(error)

    def _decode(self, group, seed: int, tokens: int):
        return self.method([self.pair.prompts[i] for i in group], max_new_tokens=tokens, temperature=self.cell.temperature,
                           seeds=[1000 * seed + i for i in group], stop=self.pair.stop)

    def run(self, group, seed: int) -> None:
        """One run of a group of prompts; the failure of one ends the arm."""
        try:
            start = time.perf_counter()
            done = self._decode(group, seed, self.tokens)
            self._keep(done, group, seed, time.perf_counter() - start)
        except Exception as error:  # noqa: BLE001
            self.failure = reason(error)

    def _keep(self, done, group, seed, seconds):
        ours = isinstance(done.seconds, dict)
        row = {"prompt": group[0], "seed": seed, "new_tokens": done.new_tokens,
               "tokens_per_s": self._rate(done) if ours else done.tokens_per_second,
               "steps": done.steps if ours else len(done.emitted), "emitted": sum(done.emitted), "request_steps": len(done.emitted),
               **{f"{part}_s": done.seconds[part] if ours else None for part in PARTS},
               "prefill_s": done.prefill_seconds if ours else done.whole_seconds - done.seconds, "call_s": seconds}
        for key in COLUMNS:
            self.runs[key].append(round(row[key], 7) if isinstance(row[key], float) else row[key])
        if ours and self.tested:
            self.tested = [a + b for a, b in zip(self.tested, done.tested)]
            self.accepted = [a + b for a, b in zip(self.accepted, done.accepted)]
        if self.cell.temperature == 0:
            self.texts += done.tokens

    def _rate(self, done) -> float | None:
        """tokens/s. Where every text ran up to the limit, the tokens of its last step beyond it count too: they were decoded, and
        in a short run to drop them would cost speculation a tenth. (transformers drafts less before the limit.)"""
        whole = all(len(text) == self.tokens and text[-1] not in self.pair.stop for text in done.tokens)
        return (sum(done.emitted) if whole else done.new_tokens) / sum(done.seconds.values()) if done.new_tokens else None

    def record(self) -> dict:
        return asdict(self.arm) | {"name": str(self.arm), "tokens": self.tokens, "seeds": self.seeds, "check": self.check,
                                   "loop_sampler": self.sampler and self.sampler.name, "source_hash": source_hash(self.arm.sampler),
                                   "tested": self.tested, "accepted": self.accepted, "runs": self.runs, "texts": self.texts}


def source_hash(name):
    """Of the sampler of that name as it is today; None without one."""
    return name and load_sampler(name).source_hash


def reason(error: Exception) -> str:
    """What went wrong and in which line, in a line."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}{where}"
