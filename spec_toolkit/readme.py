"""Writes the README's tables and figures from records, between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

NAME is an experiment; its block holds, for each GPU that has records of it, the figures, their captions and the tables.
`python -m spec_toolkit.readme [FILE ...] [--check]` rewrites README.md and kernels/README.md of the checkout, or the files
given (--check: write nothing, exit 1 if one would change).
"""
from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from . import plot, plot_grid, plot_ladder, reading, results, tables
from .parts import SMALL_VOCAB, take_apart
from .parts import table as parts_table

MARKERS = re.compile(r"<!-- (?P<name>\w+):begin -->\n(?P<body>.*?)<!-- (?P=name):end -->", re.DOTALL)


def current_hashes() -> dict[str, str | None]:
    """name -> source_hash of every sampler here, for `load_records`; None for a peer that is not installed: cannot be told."""
    from .composed import composed_hashes
    from .peers import PEERS, peer_hashes
    from .sampler import list_samplers, load_sampler
    hashes = {name: load_sampler(name).source_hash for name in list_samplers() if name not in PEERS} | peer_hashes()
    return hashes | composed_hashes(hashes)


def names(text: str) -> list[str]:
    """The blocks of a text. ValueError for a begin without its end, or the other way round."""
    found = [match["name"] for match in MARKERS.finditer(text)]
    loose = sorted(re.findall(r"<!-- (\w+):(?:begin|end) -->", text))
    if loose != sorted(found * 2):
        raise ValueError(f"markers without a partner: {sorted(set(loose) - set(found)) or loose}; "
                         "accepted are <!-- NAME:begin --> and <!-- NAME:end -->, each on a line")
    return found


def fill(text: str, blocks: dict[str, str]) -> str:
    """The text with the named blocks replaced; others stay. KeyError for a block that has no markers."""
    if missing := set(blocks) - set(names(text)):
        raise KeyError(f"no markers for {sorted(missing)}; the text has {names(text)}")

    def replaced(match):
        body = blocks.get(match["name"])
        if body is None:
            return match[0]
        return f"<!-- {match['name']}:begin -->\n{body.rstrip()}\n<!-- {match['name']}:end -->"
    return MARKERS.sub(replaced, text)


def figure(records) -> plot.Chart:
    """Bars for one problem; else lines over batch (over vocabulary where only that varies), the rest at its commonest."""
    x = "batch" if len({r["problem"]["batch"] for r in records}) > 1 else "vocab"
    for key in sorted({"batch", "vocab", "draft_len", "dtype", "kind", "acceptance_requested", "flush", "seed", "shape"} - {x}):
        values = [repr(r.get(key, r["problem"].get(key))) for r in records]
        kept = max(sorted(set(values)), key=values.count)
        records = [r for r, value in zip(records, values) if value == kept]
    return plot.bars(records) if all(plot.same_problem(records[0], r) for r in records) else plot.lines(records, x)


def _ladder(records) -> tuple[dict, str]:
    return {"figure": plot_ladder.ladder(records)}, tables.ladder(records)


def _grid(records) -> tuple[dict, str]:
    ours = reading.kernels_first(records)[0]
    peer = max((n for n in reading.kernels_first(records) if n != ours), key=lambda n: n == "flashinfer_chain")
    figures = {"figure": plot.heatmap(records, peer, ours), "bytes": plot_grid.against_bytes(records), "shares": plot_grid.shares(records, ours, peer)}
    text = tables.ratios(reading.ratios(records, ours)) + "\n" + tables.shares(records, ours)
    return figures, text + "".join("\n" + out + "\n" for out in filter(None, [tables.left_out(records)]))


def _profile(records) -> tuple[dict, str]:
    parts = take_apart(records)
    return ({"figure": plot_ladder.taken_apart(parts, records)} if parts else {}), parts_table(parts) + "\n" + tables.host(
        [r for r in records if r["problem"]["vocab"] > SMALL_VOCAB])


SHOWN = {"ladder": _ladder, "grid": _grid, "profile": _profile}  # others: `figure` and `plot.table`


def shown(experiment: str, records) -> tuple[dict, str]:
    """({name of a figure: figure}, Markdown table) of an experiment's records."""
    return SHOWN[experiment](records) if experiment in SHOWN else ({"figure": figure(records)}, plot.table(records))


def block(folder: Path, experiment: str, root: Path, hashes: dict | None = None) -> tuple[str, dict]:
    """(Markdown, {path without suffix: figure}) of one experiment, over all GPUs recorded below folder."""
    parts, figures = [], {}
    for gpu in sorted(p for p in Path(folder).glob("*") if p.is_dir() and p.name != "cpu"):
        if not (records := reading.latest(results.load_records(gpu, experiment, hashes))):
            continue
        drawn, table = shown(experiment, records)
        stems = {name: gpu / experiment / name for name in drawn}
        figures |= {stems[name]: chart for name, chart in drawn.items()}
        parts += [f"![{experiment} on {gpu.name}]({Path(os.path.relpath(stems[name], root)).as_posix()}.svg)\n\n{chart.caption_text}\n"
                  for name, chart in drawn.items()] + [table]
    return "\n".join(parts) or f"No times are recorded for `{experiment}` yet: `make gpu` writes them on a GPU.\n", figures


def update(readme="README.md", folder=None, hashes: dict | None = None, write: bool = True) -> bool:
    """Rewrite every block of the file and its figures; True if the text changed. folder None: results/ beside the file."""
    readme = Path(readme).resolve()
    folder = Path(folder).resolve() if folder else readme.parent / "results"
    old, blocks, figures = readme.read_text(encoding="utf-8"), {}, {}
    for name in names(old):
        blocks[name], drawn = block(folder, name, readme.parent, hashes)
        figures |= drawn
    new = fill(old, blocks)
    if write:
        for stem, chart in figures.items():
            plot.save(chart, stem)
        if new != old:
            results.write_atomically(readme, new)
    return new != old


def main(arguments=None) -> int:
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(prog="python -m spec_toolkit.readme", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=[root / "README.md", root / "kernels" / "README.md"], type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file would change")
    given, any_changed = parser.parse_args(arguments), False
    for file in (file for file in given.files if file.is_file()):
        changed = update(file, root / "results" if file.is_relative_to(root) else None, current_hashes(), write=not given.check)
        print(f"{file}: {'out of date' if changed and given.check else 'rewritten' if changed else 'up to date'}")
        any_changed |= changed
    return int(any_changed and given.check)


if __name__ == "__main__":
    raise SystemExit(main())
