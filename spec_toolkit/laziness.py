"""What it should buy to stop reading at the first rejection: rows of a step from logits, predicted and counted. No GPU needed.

A *row pair* is the target row and the draft row of one drafted position. To know a probability its whole row must be read,
so a step from logits needs the pairs up to the first rejection, and the bonus row where there is none. Where each draft is
accepted with probability a, position i is reached with probability a^i: 1 + a + ... + a^(K-1) = (1 - a^K) / (1 - a) pairs.
"""
from __future__ import annotations

from dataclasses import dataclass

from .bench import touched_bytes
from .reading import normalised
from .reference import reference
from .synthetic import make_problem

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Count:
    """One step of the reference: the acceptance measured, and row pairs per request, as predicted from it and as counted."""
    acceptance: float
    predicted: float
    counted: float
    error: float    # standard error of `counted`: each request ends where chance has it
    emitted: float  # tokens per request


def predicted_pairs(acceptance: float, draft_len: int) -> float:
    """(1 - a^K) / (1 - a), K where a is 1: the row pairs that one request needs on average."""
    return sum(acceptance**i for i in range(draft_len))


def predicted_bytes(acceptance: float, batch: int, draft_len: int, vocab: int, itemsize: int, draft_lse: bool = False) -> float:
    """Bytes of rows that a step from logits needs on average. With draft_lse, of the draft rows only the rejected one."""
    pairs, all_accepted = predicted_pairs(acceptance, draft_len), acceptance**draft_len
    rows = pairs + all_accepted + (1 - all_accepted if draft_lse else pairs)
    return rows * batch * vocab * itemsize


def counted_pairs(nbytes: int, batch: int, vocab: int, itemsize: int, rejected: int) -> float:
    """Row pairs per request in `bench.touched_bytes` of a logits problem with draft rows: without the bonus rows."""
    return (nbytes / (vocab * itemsize) - (batch - rejected)) / (2 * batch)


def recorded_pairs(record) -> float:
    """`counted_pairs` of a record (a logits problem with draft rows and without draft_lse, which needs fewer rows)."""
    problem = record["problem"]
    return counted_pairs(record["bytes"], problem["batch"], problem["vocab"], ITEMSIZE[problem["dtype"]], problem["rejected"])


def needed_bytes(record) -> float:
    """Bytes of rows that the step of a record with draft rows needed: its `bytes`; with draft_lse, of the draft rows only the rejected ones."""
    problem = record["problem"]
    if not normalised(record):
        return record["bytes"]
    row, rejected = problem["vocab"] * ITEMSIZE[problem["dtype"]], problem["rejected"]
    accepted = (record["bytes"] / row - problem["batch"] - rejected) / 2  # a target row and a draft row each
    return record["bytes"] - accepted * row


def count(acceptance: float, batch: int = 200, draft_len: int = 8, vocab: int = 1000) -> Count:
    """Make a logits problem, run the reference, count the rows. The vocabulary does not matter, as the acceptance is set."""
    problem = make_problem(batch, draft_len, vocab, acceptance, logits=True, seed=round(1000 * acceptance))
    accepted = reference(problem).num_accepted
    error = float((accepted + 1).clamp(max=draft_len).double().std() / batch**0.5)
    rejected = int((accepted < draft_len).sum())
    counted = counted_pairs(touched_bytes(problem, accepted), batch, vocab, 4, rejected)
    return Count(problem.acceptance, predicted_pairs(problem.acceptance, draft_len), counted, error, float(accepted.double().mean()) + 1)


def bytes_table(counts, batch: int, draft_len: int, vocab: int, dtype: str = "bfloat16") -> str:
    """A Markdown table of Counts: megabytes of rows that a step needs on average, with draft_lse too, and those of all rows."""
    head = f"| acceptance | MB needed, B={batch}, K={draft_len}, V={vocab:,}, {dtype} | with draft_lse | MB of all rows |\n|---:|---:|---:|---:|\n"
    size, whole = ITEMSIZE[dtype], batch * (2 * draft_len + 1) * vocab * ITEMSIZE[dtype]
    needed = lambda c, given: f"{predicted_bytes(c.acceptance, batch, draft_len, vocab, size, given) / 1e6:,.0f}"
    return head + "\n".join(f"| {c.acceptance:.3f} | {needed(c, False)} | {needed(c, True)} | {whole / 1e6:,.0f} |" for c in counts) + "\n"


def table(counts) -> str:
    """A Markdown table of Counts."""
    head = "| acceptance | row pairs predicted | row pairs counted | tokens emitted |\n|---:|---:|---:|---:|\n"
    return head + "\n".join(f"| {c.acceptance:.3f} | {c.predicted:.2f} | {c.counted:.2f} ± {c.error:.2f} | {c.emitted:.2f} |" for c in counts) + "\n"
