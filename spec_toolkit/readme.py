"""Writes the README's tables and figures from records, between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

NAME is an experiment; its block holds, for each GPU that has records of it, the figure, its caption and the table.
`python -m spec_toolkit.readme [--check]` rewrites README.md of the checkout (--check: exit 1 if it would change).
"""
from __future__ import annotations

import argparse
import re
from pathlib import Path

from . import plot, results

MARKERS = re.compile(r"<!-- (?P<name>\w+):begin -->\n(?P<body>.*?)<!-- (?P=name):end -->", re.DOTALL)


def current_hashes() -> dict[str, str | None]:
    """name -> source_hash of every sampler here, for `load_records`; None for a peer that is not installed: cannot be told."""
    from .peers import PEERS, peer_hashes
    from .sampler import list_samplers, load_sampler
    return {name: load_sampler(name).source_hash for name in list_samplers() if name not in PEERS} | peer_hashes()


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


def block(folder: Path, experiment: str, root: Path, hashes: dict | None = None) -> tuple[str, dict]:
    """(Markdown, {path without suffix: figure}) of one experiment, over all GPUs recorded below folder."""
    parts, figures = [], {}
    for gpu in sorted(p for p in Path(folder).glob("*") if p.is_dir() and p.name != "cpu"):
        records = [r for r in results.load_records(gpu, experiment, hashes) if r.get("call_us_median")]
        if not records:
            continue
        stem = gpu / experiment / "figure"
        figures[stem] = figure(records)
        shown = stem.relative_to(root).as_posix()
        parts.append(f"![{experiment} on {gpu.name}]({shown}.svg)\n\n{figures[stem].caption_text}\n\n{plot.table(records)}")
    return "\n".join(parts) or f"No times are recorded for `{experiment}` yet: `make gpu` writes them on a GPU.\n", figures


def update(readme="README.md", folder=None, hashes: dict | None = None, write: bool = True) -> bool:
    """Rewrite every block of the file and its figures; True if the text changed."""
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
    parser = argparse.ArgumentParser(prog="python -m spec_toolkit.readme", description=__doc__.splitlines()[0])
    parser.add_argument("readme", nargs="?", default=Path(__file__).resolve().parent.parent / "README.md", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file would change")
    given = parser.parse_args(arguments)
    changed = update(given.readme, hashes=current_hashes(), write=not given.check)
    print(f"{given.readme}: {'out of date' if changed and given.check else 'rewritten' if changed else 'up to date'}")
    return int(changed and given.check)


if __name__ == "__main__":
    raise SystemExit(main())
