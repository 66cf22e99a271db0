"""Kernels that must fail: one planted defect each, of a kind really shipped, by a small patch of the real sources.

Each is judged on every rung that holds what it patches; a check that refuses none of them would be a check that cannot fail.

    python -m spec_toolkit.mutants [--samplers v1 v4] [--out FOLDER]    # the table mutant x part of the report
"""
from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import results
from .defects import MUTANTS
from .mutant_findings import PARTS, findings_apart
from .mutant_kernels import applies_to, mark


def kill(mutants=MUTANTS, rungs=None, level="quick", device="cpu", seed=0, say=print, jobs=1, held=(), first=False) -> list[dict]:
    """[{mutant, what, rung, source, idle, complete, caught_by, findings}] of every mutant on every rung it applies to (of
    `rungs`, None = all).

    Each in a process of its own, `jobs` at a time: compiled code is never unloaded, and a mutant may take its process with
    it or never end, which is a catch too. held: such entries from before; what they refuse, of the same source, is not run again.
    first: ask no further part once one has refused a mutant (which is then not `complete`).
    """
    pairs = [(mutant, rung) for mutant in mutants for rung in applies_to(mutant) if rungs is None or rung in rungs]
    known = {(entry["mutant"], entry["rung"], entry["source"]): entry for entry in held if entry["caught_by"] or entry["idle"]}
    old = {(mutant.name, rung): known[key] for mutant, rung in pairs if (key := (mutant.name, rung, mark(mutant, rung))) in known}
    new = judged([pair for pair in pairs if (pair[0].name, pair[1]) not in old], level, device, seed, say, jobs, first)
    found = old | {(entry["mutant"], entry["rung"]): entry for entry in new}
    return [found[mutant.name, rung] for mutant, rung in pairs]


def judged(pairs, level="quick", device="cpu", seed=0, say=print, jobs=1, first=False) -> list[dict]:
    """The same of (mutant, rung) pairs; first: of each only the first part that refuses it."""
    found = []
    with ThreadPoolExecutor(jobs) as pool:
        for (mutant, rung), caught in zip(pairs, pool.map(lambda pair: findings_apart(*pair, level, device, seed, first), pairs)):
            entry = {"mutant": mutant.name, "what": mutant.what, "rung": rung, "source": mark(mutant, rung), "idle": caught is None,
                     "complete": not first, "caught_by": sorted(caught or {}, key=PARTS.index),
                     "findings": {part: words[:300] for part, words in (caught or {}).items()}}
            found.append(entry)
            outcome = "idle" if entry["idle"] else "caught" if caught else "MISSED"
            say(f"{outcome:<7} {mutant.name} ({rung}): {', '.join(entry['caught_by'])}")
    return found


def running(found) -> list[dict]:
    """The entries of mutants that their rung runs."""
    return [entry for entry in found if not entry["idle"]]


def table(found) -> str:
    """A Markdown table: mutants x parts; in a cell the rungs on which that part refused it."""
    lines = [f"| mutant | {' | '.join(PARTS)} | missed |", f"|---|{'---|' * (len(PARTS) + 1)}"]
    found = running(found)
    for name in dict.fromkeys(entry["mutant"] for entry in found):
        mine = [entry for entry in found if entry["mutant"] == name]
        cells = [" ".join(e["rung"] for e in mine if part in e["caught_by"]) for part in PARTS]
        lines.append(f"| {name} | {' | '.join(cells)} | {' '.join(e['rung'] for e in mine if not e['caught_by'])} |")
    return "\n".join(lines) + "\n"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spec_toolkit.mutants", description="Every mutant through the whole report.")
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help="rungs (default: all)")
    parser.add_argument("--mutants", nargs="+", metavar="NAME", help="names (default: all)")
    parser.add_argument("--level", default="quick", choices=("few", "quick", "thorough"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    parser.add_argument("--out", metavar="FOLDER", help="receives mutants.json and mutants.md (such as results/cpu/mutants)")
    parser.add_argument("--first", action="store_true", help="stop at the first part that refuses a mutant: several times faster")
    parser.add_argument("--resume", action="store_true", help="do not run again what --out holds of the same source and level")
    args = parser.parse_args(argv)
    chosen = [m for m in MUTANTS if not args.mutants or m.name in args.mutants]
    record = Path(args.out) / "mutants.json" if args.out else None
    before = json.loads(record.read_text()) if args.resume and record and record.is_file() else {}
    held = before["found"] if before.get("level") == args.level else []
    found = kill(chosen, args.samplers, args.level, args.device, say=lambda text: print(text, flush=True), jobs=args.jobs, held=held,
                 first=args.first)
    run = running(found)
    missed = [entry for entry in run if not entry["caught_by"]]
    refused = len(run) - len(missed)
    print(f"{len({e['mutant'] for e in run})} mutants on {len({e['rung'] for e in run})} rungs: {refused} of {len(run)} refused "
          f"({len(found) - len(run)} times the rung does not run what is patched)")
    if record:
        record.parent.mkdir(parents=True, exist_ok=True)
        results.write_atomically(record, results.to_text({
            "format": "spec_toolkit mutants 1", "level": args.level, "refused": refused, "of": len(run),
            "environment": results.environment(args.device), "found": found}))
        results.write_atomically(record.with_suffix(".md"), table(found))
    return 1 if missed or not run else 0


if __name__ == "__main__":
    globals().update(__spec__=None, __file__=None)  # so that the mutants' processes do not run this file again as their main module
    sys.exit(main())
