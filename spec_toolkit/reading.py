"""What records say: medians, ratios, captions. Figures, tables and notebooks read records through here, never by hand.

Records are dicts as `results.load_records` gives them. A ratio is formed only within one run_id, on one problem.
"""
from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .results import problem_slug

METRICS = {"gpu_us": "GPU time (graph replay, cold L2), µs", "call_us": "whole eager call with its synchronisation, µs",
           "host_us": "host time to issue an eager call, µs", "bind_us": "host time to bind a problem, µs"}
TIMES = {"gpu_us": "GPU time", "call_us": "time of the whole call", "host_us": "host time", "bind_us": "time to bind"}  # in short
FLUSHED = {"read": "reading", "write": "writing", "written": "reading with the rows then written again"}
GOALS = ((20e6, 0.70), (50e6, 0.80), (200e6, 0.90))  # (bytes touched, share of the limit that we want from there on)
PROBLEM_COLUMNS = {"batch": "B", "draft_len": "K", "vocab": "V", "dtype": "rows", "acceptance_requested": "acceptance"}


def some(records) -> list:
    """The records as a list. ValueError if there are none."""
    records = list(records)
    if not records:
        raise ValueError("no records to draw: time on a GPU first (make gpu), or give another folder or experiment")
    return records


def is_stale(record) -> bool:
    return bool(getattr(record, "stale", False))


def label(record) -> str:
    """The sampler's name, marked when its source is not the one that ran."""
    return record["sampler"] + (" (stale)" if is_stale(record) else "")


def value(record, metric: str = "gpu_us", what: str = "median"):
    """record[metric_what], or None. The limits' metrics (stream_read_us, empty_launch_us) are found too."""
    key = f"{metric}_{what}"
    return record[key] if key in record else record.get("limits", {}).get(key)


def normalised(record) -> bool:
    """Were the draft rows' log-normalisers given (draft_lse)? Then fewer rows are needed than the plain read of the record has read."""
    return bool(record["problem"].get("spec", {}).get("draft_lse"))


def of_the_limit(record) -> float | None:
    """A plain streaming read of the same bytes in the same run / the sampler's GPU time; None where `normalised`."""
    if normalised(record):
        return None
    ours, floor = value(record), value(record, "stream_read_us")
    return floor / ours if ours and floor else None


def same_problem(a, b) -> bool:
    """Made by the same arguments, with the same flush."""
    keys = (*PROBLEM_COLUMNS, "kind", "draft_rows", "seed", "shape", "spec")
    return a.get("flush") == b.get("flush") and all(a["problem"].get(k) == b["problem"].get(k) for k in keys)


def beside(record, records, sampler: str):
    """The record of another sampler on the same problem in the same run, or None."""
    return next((other for other in records if other["sampler"] == sampler and other["run_id"] == record["run_id"]
                 and same_problem(record, other)), None)


def speedup(record, records, baseline: str, metric: str = "call_us"):
    """How many times faster than the baseline in the same run on the same problem; None if there is no such pair."""
    other = beside(record, records, baseline)
    ours, theirs = value(record, metric), other and value(other, metric)
    return theirs / ours if ours and theirs else None


def latest(records) -> list:
    """The timed records of the GPU that was recorded last: of each experiment and problem, those of its newest run."""
    timed = [r for r in records if value(r, "call_us")]
    gpu = max(timed, key=lambda r: r["created"])["environment"].get("gpu") if timed else None
    timed = [r for r in timed if r["environment"].get("gpu") == gpu]
    cell = lambda r: (r["experiment"], problem_slug(r["problem"], r.get("flush")))
    newest = {}
    for record in sorted(timed, key=lambda r: r["created"]):
        newest[cell(record)] = record["run_id"]
    return [r for r in timed if r["run_id"] == newest[cell(r)]]


def where(records, flush: str | None = None, **problem) -> list:
    """The records of that flush whose problem has these values: where(records, draft_len=8, vocab=128256)."""
    return [r for r in records if flush in (None, r.get("flush")) and all(r["problem"].get(k) == v for k, v in problem.items())]


def distinct(records, key) -> list:
    """The values of key(record), each once, None left out, in the order met."""
    return [item for item in dict.fromkeys(map(key, records)) if item is not None]


def kernels_first(records) -> list[str]:
    """Sampler names: the rungs in order, then the others as they come."""
    names = distinct(records, lambda r: r["sampler"])
    rungs = {r["sampler"]: [int(part) for part in re.findall(r"\d+", r["sampler"])] for r in records if r.get("sampler_kind") == "kernel"}
    return sorted(rungs, key=rungs.get) + [name for name in names if name not in rungs]


@dataclass(frozen=True)
class Ratio:
    """How many times faster than `peer`, over problems: the geometric mean, and the smallest with the record it is of."""
    peer: str
    metric: str
    cells: int
    mean: float
    least: float
    worst: dict


def ratios(records, ours: str) -> list[Ratio]:
    """One Ratio for each other sampler: GPU times, or whole eager calls where the other has no GPU time."""
    found, mine = [], [r for r in records if r["sampler"] == ours]
    for peer in (name for name in kernels_first(records) if name != ours):
        metric = "gpu_us" if any(value(r) for r in records if r["sampler"] == peer) else "call_us"
        pairs = [(times, r) for r in mine if (times := speedup(r, records, peer, metric))]
        if pairs:
            least, worst = min(pairs, key=lambda pair: pair[0])
            mean = math.exp(sum(math.log(times) for times, _ in pairs) / len(pairs))
            found.append(Ratio(peer, metric, len(pairs), mean, least, worst))
    return found


def lengths(record) -> str:
    """K as text; "0-5" for a ragged batch."""
    k = record["problem"]["draft_len"]
    return str(k) if not isinstance(k, list) else f"{min(k)}-{max(k)}" if k else "0"


def sizes(record) -> str:
    """"B=4, K=8, V=32,000"."""
    return f"B={record['problem']['batch']}, K={lengths(record)}, V={record['problem']['vocab']:,}"


def caption(records) -> str:
    """Hardware, dtype, flush, sizes, samples, commit and date: what a number needs beside it."""
    records = some(records)
    gpu = ", ".join(distinct(records, lambda r: r["environment"].get("gpu"))) or "no GPU"
    shape = "; ".join(f"{short}={_range(distinct(records, lambda r, key=key: r['problem'][key]))}" for key, short in (("batch", "B"), ("vocab", "V")))
    parts = [gpu, f"{shape}; K={_range(distinct(records, lengths))}",
             "/".join(distinct(records, lambda r: r["problem"]["dtype"])) + " " +
             "/".join(distinct(records, lambda r: "probabilities" if r["problem"]["kind"] == "probs" else "logits"))]
    acceptance = distinct(records, lambda r: r["problem"].get("acceptance_measured"))
    if acceptance:
        low, high = min(acceptance), max(acceptance)
        parts.append(f"measured acceptance {low:.2f}" + (f" to {high:.2f}" if round(high - low, 2) else ""))
    flushes = distinct(records, lambda r: r.get("flush"))
    if flushes:
        parts.append("L2 flushed by " + " or by ".join(FLUSHED.get(f, f) for f in flushes))
    counts = distinct(records, lambda r: len(r.get("gpu_us_samples") or r.get("call_us_samples") or []) or None)
    if counts:
        parts.append(f"median and p10 to p90 of {_range(counts)} samples")
    torch, cuda = records[0]["environment"].get("torch"), records[0]["environment"].get("driver")
    parts.append(f"torch {torch}" + (f", driver {cuda}" if cuda else ""))
    commit = distinct(records, commit_of)
    parts.append(_range(distinct(records, lambda r: r["created"][:10])) + (f", commit {_range(commit)}" if commit else ""))
    return "; ".join(parts) + "."


def commit_of(record) -> str | None:
    """The commit that ran, marked where the sources had changed since; None where it is not known."""
    commit = (record["environment"].get("git") or "")[:9]
    return commit + (" and changes" if record["environment"].get("git_clean") is False else "") if commit else None


def _range(values) -> str:
    values = sorted(values)
    texts = [f"{v:,}" if isinstance(v, int) else str(v) for v in values]
    return ", ".join(texts) if len(texts) < 4 else f"{texts[0]} to {texts[-1]}"


def percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "<1%"


def number(x: float) -> str:
    """Microseconds as they are printed: 1,234 or 12.3; never -0.0."""
    return f"{x:,.0f}" if x >= 100 else f"{round(x, 1) + 0.0:.1f}"


def times(factor: float) -> str:
    """A ratio in three digits: 2,803x, 16.8x, 5.00x, 0.07x."""
    return f"{factor:,.{0 if factor >= 99.95 else 1 if factor >= 9.995 else 2}f}x"


def tick(x: float, _=None) -> str:
    """A number beside an axis, never with an exponent: 0.01, 5, 1,000,000. (A formatter of matplotlib, hence the second argument.)"""
    return f"{x:,.10g}"


def two_digits(x: float) -> str:
    """A number of which two digits say enough, never with an exponent: 0.052, 3.1, 19, 4,100."""
    return tick(float(f"{x:.2g}"))
