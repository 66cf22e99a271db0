"""When does the sampler matter? Its share of a decoding step, from recorded times. Sees only records, like reading.py.

A step here is one pass of the draft and target models, `step_ms` without the sampler, then one call of the sampler after it.
"""
from __future__ import annotations

from .reading import kernels_first, number, sizes, two_digits, value
from .tables import NONE, markdown

PART = 0.01  # a sampler that takes less than this part of a step can be forgotten


def share(us: float, step_ms: float) -> float:
    """The sampler's part of a step: its `us` over the whole, models and sampler."""
    return us / (us + 1000 * step_ms)


def matters_below(us: float, part: float = PART) -> float:
    """The length in ms of the models' part below which a sampler of `us` takes more than `part` of the step."""
    return us * (1 - part) / part / 1000


def time_of(record, metric: str) -> float | None:
    """The record's median in µs; of a sampler that cannot be captured in a graph, the whole call."""
    return value(record, metric) or value(record, "call_us")


def table(records, steps, metric: str = "gpu_us") -> str:
    """A Markdown table of the records of one problem: each sampler's share of a step of each length (ms), and when it matters."""
    rows = []
    for name in kernels_first(records):
        record = next(r for r in records if r["sampler"] == name)
        us = time_of(record, metric)
        called = "" if value(record, metric) else " (whole call)"
        rows.append([name + called, number(us), *(_percent(share(us, ms)) for ms in steps), two_digits(matters_below(us))] if us else [name, *[NONE] * (len(steps) + 2)])
    return markdown(["sampler", f"µs, {sizes(records[0])}", *(f"of a {ms:g} ms step" for ms in steps), f"more than {PART:.0%} below, ms"], rows)


def _percent(part: float) -> str:
    return two_digits(100 * part) + "%"
