"""Records -> Markdown tables. Sees only records, like plot.py."""
from __future__ import annotations

import statistics

from .reading import (
    GOALS,
    PROBLEM_COLUMNS,
    distinct,
    kernels_first,
    label,
    lengths,
    normalised,
    number,
    of_the_limit,
    percent,
    sizes,
    some,
    speedup,
    value,
)

NONE = "–"


def markdown(head, rows, texts: int = 1) -> str:
    """The rows under the head, all of them lists of text; the first `texts` columns to the left, the others to the right."""
    rule = ["---" if i < texts else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows)) + "\n"


def table(records, baseline: str = "python_loop", metric: str = "call_us") -> str:
    """A Markdown table, slowest first within each problem, with the speedup of `metric` over the baseline of the same run.

    "of the limit" = a plain streaming read of the same bytes in the same run / the sampler's GPU time.
    """
    records = some(records)
    varying = [k for k in (*PROBLEM_COLUMNS, "flush") if len(distinct(records, lambda r, k=k: _column(r, k))) > 1]
    ordered = sorted(records, key=lambda r: ([_column(r, k).rjust(12) for k in varying], -(value(r, "call_us") or value(r) or 0)))
    head = [PROBLEM_COLUMNS.get(k, k) for k in varying]
    head += ["sampler", "GPU µs (p10 to p90)", "whole call µs (p10 to p90)", "host µs",
             f"speedup ({metric.removesuffix('_us')})", "of the limit", "check"]
    return markdown(head, [_row(r, records, varying, baseline, metric) for r in ordered], texts=len(varying) + 1)


def _column(record, key: str) -> str:
    value = lengths(record) if key == "draft_len" else record["flush"] if key == "flush" else record["problem"].get(key)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _row(record, records, varying, baseline, metric) -> list[str]:
    return [*(_column(record, k) for k in varying), label(record), _spread(record, "gpu_us"), _spread(record, "call_us"),
            _us(value(record, "host_us")), _times(speedup(record, records, baseline, metric), 2), _share(of_the_limit(record)),
            "pass" if record["check"].get("passed") else "FAIL"]


def _spread(record, metric: str) -> str:
    if value(record, metric) is None:
        return NONE
    middle, low, high = (number(value(record, metric, what)) for what in ("median", "p10", "p90"))
    return f"{middle} ({low} to {high})"


def _us(us) -> str:
    return NONE if us is None else number(us)


def _times(factor, places: int = 1) -> str:
    return NONE if factor is None else f"{factor:,.{0 if factor >= 99.95 else places}f}x"


def _share(part) -> str:
    return NONE if part is None else percent(part)


def ladder(records, first: str = "v1") -> str:
    """A row for each sampler, the rungs in order; for each problem its GPU time, share of the limit, and times faster than `first`."""
    records = some(records)
    problems = distinct(records, sizes)
    head = ["sampler"] + [text for p in problems for text in (f"µs, {p}", "of the limit", f"{first} / it")] + ["host µs"]
    rows = []
    for name in kernels_first(records):
        mine = [r for r in records if r["sampler"] == name]
        at = {sizes(r): (_us(value(r)), _share(of_the_limit(r)), _times(speedup(r, records, first, "gpu_us"))) for r in mine}
        hosts = [us for r in mine if (us := value(r, "host_us"))]
        rows.append([label(mine[0]), *(text for p in problems for text in at.get(p, (NONE,) * 3)), _us(min(hosts, default=None))])
    limit = {sizes(r): value(r, "stream_read_us") for r in records}
    rows.append(["plain read of the same bytes", *(text for p in problems for text in (_us(limit[p]), "100%", NONE)), NONE])
    return markdown(head, rows)


def ratios(found) -> str:
    """A row for each `reading.Ratio`: the geometric mean over the problems, and the smallest with its problem."""
    rows = [[r.peer, "GPU" if r.metric == "gpu_us" else "whole call", str(r.cells), _times(r.mean), _times(r.least, 2), sizes(r.worst)]
            for r in found]
    return markdown(["faster than", "time", "problems", "geometric mean", "least", "at"], rows)


def shares(records, ours: str) -> str:
    """The share of the limit that `ours` reaches, by bytes touched: the goal, the least and where, the median."""
    mine = [r for r in some(records) if r["sampler"] == ours and value(r)]
    bounds, rows = [*sorted(GOALS, reverse=True), (0, None)], []
    for (low, goal), high in zip(bounds, [float("inf"), *(low for low, _ in bounds)]):
        inside = [r for r in mine if low <= r["bytes"] < high]
        if inside:
            worst = min(inside, key=of_the_limit)
            above = max(value(r) - value(r, "stream_read_us") for r in inside)
            rows.append([f"{low / 1e6:.0f} MB or more" if low else f"under {high / 1e6:.0f} MB", str(len(inside)), _share(goal),
                         _share(of_the_limit(worst)), sizes(worst), _share(statistics.median(map(of_the_limit, inside))), f"{above:.1f}"])
    return markdown(["bytes touched", "problems", "goal", "least share", "at", "median share", "most µs above the limit"], rows)


def host(records) -> str:
    """A row for each problem and sampler: host time to bind and to issue a bound call, the whole call, and the GPU's part."""
    rows = [[sizes(r), label(r), *(_us(value(r, metric)) for metric in ("bind_us", "host_us", "call_us", "gpu_us"))]
            for problem in distinct(some(records), sizes) for name in kernels_first(records)
            for r in records if r["sampler"] == name and sizes(r) == problem]
    return markdown(["problem", "sampler", "bind µs", "host µs of a bound call", "whole bound call µs", "GPU µs (graph)"], rows, texts=2)


def side_by_side(records, *columns: str) -> str:
    """A row for each problem, a column for each sampler: its GPU time in µs, or its whole call where it has none; then the limit
    and the share of it that the last rung reaches, where it is one (reading.normalised). columns: what else tells the rows apart, keys of `DETAILS`."""
    records = some(records)
    key = lambda r: (sizes(r), *(str(detail(r, column)) for column in columns))
    names, given = kernels_first(records), all(map(normalised, records))
    kernels = [name for name in names if any(r["sampler"] == name and r.get("sampler_kind") == "kernel" for r in records)]
    body = []
    for row in sorted(distinct(records, key), key=lambda row: _order(next(r for r in records if key(r) == row), columns)):
        here = {r["sampler"]: r for r in records if key(r) == row}
        one = next(iter(here.values()))
        share = [] if given else [_share(of_the_limit(here[kernels[-1]]) if kernels and kernels[-1] in here else None)]
        body.append([*row, *(_time_or_call(here.get(name)) for name in names), _us(value(one, "stream_read_us")), *share])
    marked = {name: name + (" (stale)" if any(getattr(r, "stale", False) for r in records if r["sampler"] == name) else "") for name in names}
    head = ["problem", *(DETAILS[column] for column in columns), *marked.values(),
            *(["plain read of the row pairs"] if given else ["plain read", f"{kernels[-1]} of the limit" if kernels else "of the limit"])]
    note = "; *(call)* a whole eager call, of what cannot be captured in a graph" if any("*(call)*" in text for row in body for text in row) else ""
    return markdown(head, body, texts=1 + len(columns)) + f"\nMedian GPU time in µs{note}.\n"


DETAILS = {"flush": "flush", "dtype": "rows", "row_padding": "padding", "acceptance": "acceptance"}


def detail(record, column: str):
    """What a record has in a column of DETAILS."""
    of_problem = {"dtype": "dtype", "acceptance": "acceptance_requested"}
    return _padding(record) if column == "row_padding" else record["flush"] if column == "flush" else record["problem"][of_problem[column]]


def _order(record, columns) -> tuple:
    p = record["problem"]
    return p["batch"], str(p["draft_len"]), p["vocab"], *(str(detail(record, column)) for column in columns)


def _time_or_call(record) -> str:
    if record is None:
        return NONE
    return _us(value(record)) if value(record) else f"{_us(value(record, 'call_us'))} *(call)*"


def _padding(record) -> int:
    return record["problem"]["spec"].get("row_padding", 0)


def beside_the_seed(records, seed: dict, seed_gpu: str, *ours: str) -> str:
    """The seed's speedups over its Python loop, {(batch, vocab): times}, and those of `ours` over the loop in the same run.

    Whole eager calls. Two GPUs and two loops: the columns say how each kernel stands to a loop, not to the other kernel.
    """
    rows = []
    for (batch, vocab), times in seed.items():
        here = [r for r in records if r["problem"]["batch"] == batch and r["problem"]["vocab"] == vocab and lengths(r) == "8"]
        at = {r["sampler"]: r for r in here}
        loop = at.get("python_loop")
        rows.append([f"B={batch}, K=8, V={vocab:,}", _times(times, 2), _us(loop and value(loop, "call_us")),
                     *(text for name in ours for text in (_us(name in at and value(at[name], "call_us") or None),
                                                          _times(name in at and speedup(at[name], here, "python_loop") or None, 2)))])
    head = ["problem", f"the seed's kernel, {seed_gpu}", "Python loop µs"] + [text for name in ours for text in (f"{name} µs", "times faster")]
    return markdown(head, rows)


def left_out(records) -> str:
    """A line for each sampler that refused problems of these records, with the first reason; "" if none did."""
    found = {}
    for record in records:
        for name, reason in (record.get("left_out") or {}).items():
            found.setdefault(name, []).append((sizes(record), reason.strip().splitlines()[0]))
    return "\n".join(f"* {name} is left out of {len(set(at))} problem(s): {at[0][1]}" for name, at in found.items())
