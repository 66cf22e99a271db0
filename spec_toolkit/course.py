"""What kernels/README.md shows of each rung: its header's notes, its recorded times beside its predicted bytes, its registers.

Nothing here is typed: notes come from the .cu file, times from records, registers from results/compiled.
"""
from __future__ import annotations

import re
from pathlib import Path

from . import compiled, contract, reading, results
from .sampler import list_kernels, load_sampler
from .tables import NONE, markdown

SHOWN_AT = {"probs": "ladder", "logits": "logits"}  # the experiment whose records are shown of a kernel that takes these
NOTE = re.compile(r"^(\w+) {2,}(.*(?:\n {4,}.*)*)", re.MULTILINE)


def title(sampler) -> str:
    """"V4 - tile sums: the row is read once"."""
    return sampler.contract.notes.strip().splitlines()[0]


def notes(sampler) -> dict[str, str]:
    """{"Idea" or "Changes", "Reads", "Slow": text} of the header comment, each on one line."""
    return {word: " ".join(text.split()) for word, text in NOTE.findall(sampler.contract.notes)}


def predicted(sampler, record) -> int | None:
    """The bytes that the contract predicts for a record's problem; None if it does not say, or the drafts are ragged."""
    p = record["problem"]
    if not isinstance(p["draft_len"], int) or p.get("rejected") is None:
        return None
    size = {"float32": 4, "float16": 2, "bfloat16": 2}[p["dtype"]]
    known = dict.fromkeys(contract.SYMBOLS, 1) | {"batch": p["batch"], "vocab": p["vocab"], "num_draft": p["batch"] * p["draft_len"],
                                                  "max_draft": p["draft_len"], "itemsize": size, **sampler.tune}
    return sampler.contract.number(sampler.contract.bytes, sampler.contract.resolve(known) | {"rejected": p["rejected"]}) or None


SHOWN_SIZES = {"batch": 64, "max_draft": 4, "vocab": 128256}
WIDTHS = {"int": 4, "unsigned": 4, "unsigned int": 4, "float": 4, "double": 8, "long long": 8, "unsigned long long": 8}


def extra_memory(sampler) -> str:
    """Bytes of the rung's scratch arrays at SHOWN_SIZES, on a GPU of 132 multiprocessors, beside those of the rows."""
    contract_, sizes = sampler.contract, SHOWN_SIZES
    itemsize = 2 if sampler.input == "logits" else 4
    known = contract_.resolve({**sizes, "num_draft": sizes["batch"] * sizes["max_draft"], "itemsize": itemsize, "sm_count": 132, "max_cluster": 16,
                               "together": 2**31 - 1, "shared_bytes": 227 << 10, **sampler.tune})
    types = {name: ctype.removeprefix("const ").removesuffix("*") for launch in contract_.launches for ctype, name in launch.parameters}
    total = sum(contract_.number(count, known) * WIDTHS[types[name]] for name, count in contract_.scratch.items())
    if not total:
        return "none"
    rows = sizes["batch"] * (2 * sizes["max_draft"] + 1) * sizes["vocab"] * itemsize
    return f"{total / 1e3:,.1f} KB for B={sizes['batch']}, K={sizes['max_draft']}, V={sizes['vocab']:,}, whose rows are {rows / 1e6:,.0f} MB"


def times(sampler, records) -> str:
    """A Markdown table: a row for each problem on which the rung was timed; "" if there is none."""
    rows = []
    for record in (r for r in records if r["sampler"] == sampler.name and reading.value(r)):
        bytes_read, share = predicted(sampler, record), reading.of_the_limit(record)
        rows.append([reading.sizes(record) + (" (stale)" if reading.is_stale(record) else ""),
                     NONE if bytes_read is None else f"{bytes_read / 1e6:.1f}", f"{record['bytes'] / 1e6:.1f}",
                     reading.number(reading.value(record, "stream_read_us")),
                     "{} ({} to {})".format(*(reading.number(reading.value(record, what=what)) for what in ("median", "p10", "p90"))),
                     NONE if share is None else reading.percent(share),
                     NONE if bytes_read is None else f"{bytes_read / reading.value(record) / 1e6:.2f}"])
    head = ["problem", "MB predicted", "MB needed", "plain read of those, µs", "GPU µs (p10 to p90)", "of the limit", "TB/s of predicted"]
    return markdown(head, rows) if rows else ""


def section(sampler, folders, found: dict, hashes: dict | None = None) -> str:
    """Markdown: title, notes, launch, registers, times on each GPU. folders: of the GPUs; found: `compiled.load`."""
    lines = [f"## {title(sampler)}", ""]
    lines += [f"* *{word}* {text}" for word, text in notes(sampler).items()]
    lines += [f"* *Launch* `{launch.kernel}`: grid {_size(launch.grid)}, block {_size(launch.block)}"
              f"{'' if launch.cluster == '1' else f', clusters of `{launch.cluster}`'}; {sampler.draw} draw; tuned by "
              f"{', '.join(f'`{key} = {value}`' for key, value in sampler.tune.items()) or 'nothing'}" for launch in sampler.contract.launches]
    if one := found.get(sampler.name):
        used = one["used"]["float32"]
        stale = " (stale)" if one["source_hash"] != sampler.source_hash else ""
        lines += [f"* *Registers*{stale} " + ", ".join(f"{arch} {compiled._used(kernels)}" for arch, kernels in used.items())]
    lines.append(f"* *Extra memory* {extra_memory(sampler)}")
    text = "\n".join(lines) + "\n"
    for folder in folders:
        experiment = SHOWN_AT[sampler.input]
        records = reading.latest(results.load_records(Path(folder) / experiment, experiment, hashes))
        if body := times(sampler, records):
            mine = [r for r in records if r["sampler"] == sampler.name]
            text += f"\n{body}\n{reading.caption(mine)}\n"
    return text


def _size(parts) -> str:
    while len(parts) > 1 and parts[-1] == "1":
        parts = parts[:-1]
    return "`" + " x ".join(parts) + "`"


def rest(shown: set[str], folders, found: dict, hashes: dict | None = None) -> str:
    """Sections of all rungs that are not in `shown`."""
    return "\n".join(section(load_sampler(name), folders, found, hashes) for name in list_kernels() if name not in shown)
