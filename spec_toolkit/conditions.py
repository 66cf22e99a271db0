"""What the records of other conditions say, in a sentence: an L2 that is not clean, rows that no vector load fits, rows of another type.

Each condition is a run of its own, so times stand beside each other and are not divided. Sees only records, like reading.py.
"""
from __future__ import annotations

from .reading import FLUSHED, distinct, kernels_first, lengths, number, of_the_limit, percent, value

VECTOR = 16  # bytes of a vector load, which must start at a multiple of as many


def _ours(records) -> str | None:
    """The last rung that was timed."""
    kernels = {r["sampler"] for r in records if r.get("sampler_kind") == "kernel" and value(r)}
    return next((name for name in reversed(kernels_first(records)) if name in kernels), None)


def _of(records, sampler: str, batch: int | None = None) -> list:
    return [r for r in records if r["sampler"] == sampler and value(r) and batch in (None, r["problem"]["batch"])]


def _time(record) -> str:
    share = of_the_limit(record)
    return f"{number(value(record))} µs" + (f" ({percent(share)} of the limit)" if share else "")


def flush_modes(records) -> str:
    """The last rung at each batch, under each flush, and the least share of the limit that it reaches."""
    ours, parts = _ours(records), []
    for batch in sorted(distinct(_of(records, ours), lambda r: r["problem"]["batch"])):
        here = sorted(_of(records, ours, batch), key=value)
        parts.append(f"{number(value(here[0]))} to {number(value(here[-1]))} µs at B={batch}")
    least, slowest = min(_of(records, ours), key=lambda r: of_the_limit(r) or 1), max(_of(records, ours), key=value)
    flush = FLUSHED.get(slowest["flush"], slowest["flush"])
    return (f"{ours} takes {', '.join(parts)}, according to what the L2 holds; at B={slowest['problem']['batch']} it is slowest after a flush by "
            f"{flush}. Beside a plain read under the same flush it reaches {percent(of_the_limit(least))} or more.") if of_the_limit(least) else ""


def is_odd(record) -> bool:
    """Do rows of this record start at addresses that are no multiple of VECTOR bytes?"""
    problem = record["problem"]
    size = {"float32": 4, "float16": 2, "bfloat16": 2}[problem["dtype"]]
    return (problem["vocab"] + (problem["spec"].get("row_padding") or 0)) * size % VECTOR != 0


def misaligned(records) -> str:
    """The largest problem of either kind: the last rung, the rung for which they lie farthest apart, and the peers."""
    ours, batch, pairs = _ours(records), max(r["problem"]["batch"] for r in records), {}
    for name in kernels_first(records):
        here = _of(records, name, batch)
        even, odd = ([r for r in here if is_odd(r) == which] for which in (False, True))
        if even and odd:
            pairs[name] = max(even, key=lambda r: r["problem"]["vocab"]), max(odd, key=lambda r: r["problem"]["vocab"])
    if ours not in pairs:
        return ""
    kernels = [name for name in pairs if pairs[name][0].get("sampler_kind") == "kernel"]
    worst = max(kernels, key=lambda name: value(pairs[name][1]) / value(pairs[name][0]), default=ours)
    named = dict.fromkeys([ours, worst, *(name for name in pairs if pairs[name][0].get("sampler_kind") != "kernel")])
    even, odd = pairs[ours]
    said = "; ".join(f"{name} takes {_time(pairs[name][0])} and {_time(pairs[name][1])}" for name in named)
    return f"At B={batch}, K={lengths(even)}, V={even['problem']['vocab']:,}, and at V={odd['problem']['vocab']:,}, whose rows do not start at multiples of {VECTOR} bytes: {said}."


def dtypes(records) -> str:
    """The last rung at the largest batch, for each type of rows, the slowest first."""
    ours, batch = _ours(records), max(r["problem"]["batch"] for r in records)
    here = sorted(_of(records, ours, batch), key=value, reverse=True)
    said = ", ".join(f"{_time(r)} for {r['problem']['dtype']} rows of {r['bytes'] / 1e6:,.0f} MB" for r in here)
    return f"At B={batch}, K={lengths(here[0])}, V={here[0]['problem']['vocab']:,} {ours} takes {said}." if here else ""


SENTENCES = {"flush_modes": flush_modes, "misaligned": misaligned, "dtypes": dtypes}


def sentence(experiment: str, records) -> str:
    """The sentence of one of SENTENCES' experiments; "" where there are no records, or none of a rung."""
    return SENTENCES[experiment](records) if _ours(records) else ""
