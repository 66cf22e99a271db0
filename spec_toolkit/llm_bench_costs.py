"""What a speedup takes: the cost of a step against the tokens that it emits, at batch 1 and temperature 1. Sees only records.

A step of K drafts emits 1 + a + ... + a^K = (1 - a^(K+1)) / (1 - a) tokens on average if each draft is accepted with a chance of a,
independently; plain decoding emits one. So the speedup is that sum over what a step costs, counted in plain steps, and an acceptance
that a speedup needs can be told from costs alone.
"""
from __future__ import annotations

from dataclasses import dataclass

from . import llm_bench_records as records_of
from .llm_bench_records import LoopRecord
from .tables import NONE, markdown


@dataclass(frozen=True)
class Cost:
    """K drafts in one record: ms of the parts of a step, of a plain step, what was accepted, and the tokens of a step."""
    record: LoopRecord
    draft_len: int
    plain: dict
    step: dict
    acceptance: float
    tokens: float

    @property
    def plain_ms(self) -> float:
        return sum(self.plain.values())

    @property
    def step_ms(self) -> float:
        return sum(self.step.values())

    @property
    def plain_steps(self) -> float:
        """What a step costs, in steps of plain decoding."""
        return self.step_ms / self.plain_ms

    @property
    def seen(self) -> float:
        """The speedup of all runs together: tokens of a step over its cost. (A median over prompts differs a little.)"""
        return self.tokens / self.plain_steps

    def speedup(self, acceptance: float) -> float:
        """The model's, at these costs."""
        return records_of.expected_tokens(acceptance, self.draft_len) / self.plain_steps

    def needed(self, times: float) -> float | None:
        """The least acceptance that gives this speedup; None if not even 1 does."""
        low, high = 0.0, 1.0
        if self.speedup(high) < times:
            return None
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self.speedup(middle) >= times else (middle, high)
        return high


def costs(records) -> list[list[Cost]]:
    """A list for each path and forward, by K: of its K sweep, or of its comparison where there is no sweep."""
    alone = [r for r in records if r["batch"] == 1 and r["temperature"] == 1 and r["kind"] in ("compare", "k_sweep")]
    chosen = {r.forms: r for r in sorted(alone, key=lambda r: (r["path"] != "graph", r.rank, r["kind"] == "k_sweep"))}
    return [found for r in chosen.values() if (found := sorted(_of(r), key=lambda cost: cost.draft_len))]


def _of(record) -> list[Cost]:
    plain, arms = record.arm("plain"), record.measured()
    if plain is None or not (alone := records_of.step_ms(plain)):
        return []
    return [Cost(record, arm["draft_len"], alone, parts, records_of.mean_acceptance(arm), records_of.tokens_per_step(arm))
            for arm in arms if (parts := records_of.step_ms(arm)) and sum(arm["tested"])]


def cheapest(found: list[Cost], times: float) -> Cost | None:
    """The K that needs the least acceptance for this speedup; None if none can give it."""
    return min((cost for cost in found if cost.needed(times) is not None), key=lambda cost: cost.needed(times), default=None)


def cost_model(record: LoopRecord) -> dict:
    """A K sweep's model, from two of its arms and the acceptance over all: a step costs one target forward (between those of the
    narrowest and the widest arm by a line), K draft forwards (the widest arm's, each), and sampler and rest of the widest arm.

    {"acceptance", "draft_ms", "target_ms": (plain, narrowest, widest), "other_ms", "tokens_per_s": {K: ...}, "best": K}
    """
    arms = sorted((arm for arm in record["arms"] if arm["method"] == "speculation"), key=lambda arm: arm["draft_len"])
    first, last = arms[0]["draft_len"], arms[-1]["draft_len"]
    alone, narrow, wide = (records_of.step_ms(arm) for arm in (record.arm("plain"), arms[0], arms[-1]))
    rate = sum(sum(arm["accepted"]) for arm in arms) / sum(sum(arm["tested"]) for arm in arms)
    target = lambda k: narrow["target"] + (wide["target"] - narrow["target"]) * (k - first) / max(1, last - first)
    draft, other = wide["draft"] / last, wide["sampler"] + wide["rest"]
    ks = sorted({arm["draft_len"] for arm in arms})
    model = {k: 1000 * records_of.expected_tokens(rate, k) / (target(k) + k * draft + other) for k in ks}
    return {"acceptance": rate, "draft_ms": draft, "target_ms": tuple(parts["target"] for parts in (alone, narrow, wide)),
            "other_ms": other, "tokens_per_s": model, "best": max(model, key=model.get)}


def table(records, times: float) -> str:
    """A Markdown table: for each path and K, what a step costs and the acceptance that `times` takes; "" without records."""
    rows = [[cost.record.forms, str(cost.draft_len), f"{cost.plain_ms:#.3g}", f"{cost.step_ms:#.3g}", f"{cost.plain_steps:.2f}",
             f"{cost.tokens:.2f}", f"{cost.acceptance:.3f}", f"{cost.seen:.2f}x", f"{times * cost.plain_steps:.2f} of {cost.draft_len + 1}",
             NONE if (least := cost.needed(times)) is None else f"{least:.3f}", f"{cost.speedup(1):.2f}x"]
            for found in costs(records) for cost in found]
    head = ["path", "K", "plain step, ms", "step, ms", "in plain steps", "tokens of a step", "acceptance", "speedup, all runs",
            f"tokens of a step for {times:g}x", f"acceptance needed for {times:g}x", "speedup if all were accepted"]
    return markdown(head, rows) if rows else ""
