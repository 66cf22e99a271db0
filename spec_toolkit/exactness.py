"""docs/exactness.md: its tables are written from the records of checks, mutants, false alarms and power.

    python -m spec_toolkit.exactness [--check]      # rewrite the page; --check: write nothing, exit 1 if it would change
"""
from __future__ import annotations

import argparse
import re
from pathlib import Path

from . import mutants, results
from .mutant_findings import PARTS
from .peers import PEERS
from .readme import fill, names
from .tables import markdown

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "exactness.md"


def records(folder, form: str) -> list[dict]:
    """All JSON files below folder whose `format` is `form`, by path."""
    return [record for _, record in results.json_files(folder) if record.get("format") == form]


def mutants_block(folder) -> str:
    """The count, the table, and what is known of the mutants that were missed."""
    said = []
    for record in records(folder, "spec_toolkit mutants 1"):
        run = mutants.running(record["found"])
        mutated, rungs = (len({entry[key] for entry in run}) for key in ("mutant", "rung"))
        said.append(f"{record['refused']} of {record['of']} refused: {mutated} mutants on {rungs} rungs, level {record['level']}, on "
                    f"{where(record)}. In a cell: the rungs on which that part refused the mutant{_cut(run)}.\n\n"
                    f"{mutants.table(record['found'])}")
    return "\n".join(said) or "No run of the mutants is recorded.\n"


def _cut(run) -> str:
    whole = [rung for rung in dict.fromkeys(e["rung"] for e in run) if all(e["complete"] for e in run if e["rung"] == rung)]
    if len(whole) == len({e["rung"] for e in run}):
        return ""
    return (f"; all four parts were asked on {', '.join(whole)}, elsewhere none after the first that did" if whole
            else "; none was asked after the first that did")


def alarms_block(folder) -> str:
    rows = [[r["sampler"], r["level"], f"{r['runs']}", f"{len(r['failed'])}", f"{r['expected']:.1f}", f"{r['cases']:,}",
             f"{r['explained']}", f"{r['distance']:.4f}", f"{1.628 / max(1, len(r['p_values'])) ** 0.5:.4f}",
             (r["environment"]["git"] or "")[:7]]
            for r in records(folder, "spec_toolkit alarms 1") if "p_values" in r]
    head = ["sampler", "level", "reports", "refused", "expected", "cases checked", "explained", "p-values from uniform", "99 % stay below",
            "commit"]
    return markdown(head, rows, texts=2) if rows else "No count is recorded.\n"


def power_block(folder) -> str:
    rows = [[one["law"], one["test"], f"{one['draws']:,}", f"{one['tv']:.4f}", f"{one['caught']} of {one['runs']}"]
            for r in records(folder, "spec_toolkit alarms 1") if "p_values" not in r for one in r["found"]]
    head = ["law", "where the bias lies", "draws", "total variation", "caught"]
    return markdown(head, rows, texts=2) if rows else "No run is recorded.\n"


def checks_block(folder) -> str:
    """A row for each sampler of the reports that `spec-toolkit check --json` wrote."""
    rows = []
    for record in records(folder, "spec_toolkit check 1"):
        for report in record["reports"]:
            parts = report["parts"]
            finest = min((law["finest_tv"] for law in report["laws"]), default=None)
            first = next((f"{part}: {f['where']}" for part, found in parts.items() for f in found["failures"]), "")
            draws = sum(law["draws"] for law in report["laws"])
            passed = ["PASS" if part["passed"] else "FAIL" for part in parts.values()]
            finest = "" if finest is None else f"{finest:.4f}"
            rows.append([report["sampler"], report["level"], where(record), *passed, first,
                         f"{len(report['cases'])}", f"{draws:,}", finest])
    head = ["sampler", "level", "on", *PARTS, "first failure", "cases", "draws", "finest bias"]
    said = [peer_findings(report) for record in records(folder, "spec_toolkit check 1") for report in record["reports"]]
    return (markdown(head, rows, texts=8) + "".join(f"\n{text}\n" for text in said if text) if rows
            else "No report is recorded: `make gpu-check` writes them on a GPU.\n")


def peer_findings(report) -> str:
    """What a report found of a sampler that is not ours: each failure in a line, what it does not take, whether a request has a seed. "" of ours."""
    if report["sampler"] not in PEERS:
        return ""
    lines = [f"What was found of {report['sampler']}:", ""]
    seen = {(f["where"], " ".join(f["what"].split("\n")[0].split())): None for part in report["parts"].values() for f in part["failures"]}
    lines += [f"* {where}: {what}" for where, what in seen]
    lines += [f"* {name}: a request's outputs changed {found['differences']:,} times, the generator being in the same state before each: it has no seed of its own"
              for name, found in report["probes"].items() if found.get("differences")]
    refused = sorted({what.split(", accepted")[0].split(": ", 1)[-1].removeprefix("got ") for _, what in report["refused"]})
    kinds = sorted({re.sub(r"\[.*?\]|\b\d+", "…", what) for what in refused})
    lines += [f"* not taken, in {len(report['refused'])} cases: {'; '.join(kinds)}"] if kinds else []
    return "\n".join(lines)


def where(record) -> str:
    return record["environment"]["gpu"] or "the CPU executor"


BLOCKS = {"mutants": mutants_block, "false_alarms": alarms_block, "power": power_block, "checks": checks_block}


def written(text: str, folder) -> str:
    """The page with its blocks as the records below folder have them."""
    return fill(text, {name: BLOCKS[name](folder) for name in names(text)})


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spec_toolkit.exactness", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page would change")
    args = parser.parse_args(argv)
    old = PAGE.read_text(encoding="utf-8")
    new = written(old, ROOT / "results")
    if new != old and not args.check:
        results.write_atomically(PAGE, new)
    print(f"{PAGE}: {'up to date' if new == old else 'out of date' if args.check else 'rewritten'}")
    return int(args.check and new != old)


if __name__ == "__main__":
    raise SystemExit(main())
