"""Writes the README's tables and figures from records, between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

NAME is an experiment, or another block that blocks.py knows: figures, captions and tables for each GPU that has records of it.
`python -m spec_toolkit.readme [FILE ...] [--check]` rewrites README.md and kernels/README.md of the checkout, or the files
given (--check: write nothing, exit 1 if one would change).
"""
from __future__ import annotations

import argparse
import re
from pathlib import Path

from . import plot, results
from .blocks import block, figure  # noqa: F401  (what a page shows is found where the page is)

MARKERS = re.compile(r"<!-- (?P<name>\w+):begin -->\n(?P<body>.*?)<!-- (?P=name):end -->", re.DOTALL)


def current_hashes() -> dict[str, str | None]:
    """name -> source_hash of every sampler here, for `load_records`; None for a peer: its source is that of the library that the
    recording machine had, so an installation here says nothing of it."""
    from .composed import composed_hashes
    from .peers import PEERS
    from .sampler import list_samplers, load_sampler
    hashes = {name: load_sampler(name).source_hash for name in list_samplers() if name not in PEERS} | dict.fromkeys(PEERS)
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


def update(readme="README.md", folder=None, hashes: dict | None = None, write: bool = True) -> bool:
    """Rewrite every block of the file and its figures; True if the text changed. folder None: results/ beside the file."""
    readme = Path(readme).resolve()
    folder = Path(folder).resolve() if folder else readme.parent / "results"
    old, blocks, figures = readme.read_text(encoding="utf-8"), {}, {}
    on_page = names(old)
    for name in on_page:
        blocks[name], drawn = block(folder, name, readme.parent, hashes, on_page)
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
    if missing := [str(file) for file in given.files if not file.is_file()]:
        parser.error(f"no such file: {', '.join(missing)} (the pages are in a checkout; an installed copy has none)")
    for file in map(Path.resolve, given.files):
        changed = update(file, root / "results" if file.is_relative_to(root) else None, current_hashes(), write=not given.check)
        print(f"{file}: {'out of date' if changed and given.check else 'rewritten' if changed else 'up to date'}")
        any_changed |= changed
    return int(any_changed and given.check)


if __name__ == "__main__":
    raise SystemExit(main())
