"""Kernels that must fail: one planted defect each, of a kind really shipped, by a small patch of the real sources.

A rung's text is flattened (its headers put in), and a mutant applies where its anchor, a regular expression, is found; so
the mutants follow the ladder, and one whose anchor is nowhere left is an error (`test_mutants.py`). A check that refuses
none of them would be a check that cannot fail.

    python -m spec_toolkit.mutants [--samplers v1 v4] [--out FOLDER]    # the table mutant x part of the report
"""
from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from . import contract, machine_code, results, suite
from .defects import MUTANTS, Mutant
from .examine import REBATCHINGS, examine_laws
from .paths import kernels_dir
from .probes import is_move, probe
from .sampler import list_kernels, load_sampler
from .synthetic import make_problem
from .verdict import is_poison

PARTS = ("tokens", "law", "edges", "poison")
TIMEOUT_S = 600  # for one mutant on one rung


def flatten(text: str, folder: Path | None = None) -> str:
    """The text with each quoted include put in at its first place, so that one string is the whole kernel."""
    folder, done = folder or kernels_dir(), set()

    def include(match):
        path = folder / match[1]
        if match[1] in done or not path.is_file():
            return "" if match[1] in done else match[0]
        done.add(match[1])
        return _INCLUDE.sub(include, path.read_text().replace("#pragma once", ""))
    return _INCLUDE.sub(include, text)


_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[^\n]*', re.MULTILINE)


def rung_text(name: str) -> str:
    """The flattened source of a rung."""
    return flatten(next(kernels_dir().glob(f"{name}_*.cu")).read_text())


def applies_to(mutant: Mutant) -> list[str]:
    """The rungs that hold its anchor, in code that they run."""
    found = []
    for name in list_kernels():
        text = rung_text(name)
        if mutant.apply(text) is not None:
            said = contract.parse(text, name, {})
            found += [name] * (mutant.draw in (None, said.draw) and mutant.input in (None, said.input))
    return found


def load_mutant(mutant: Mutant, rung: str):
    """The mutated rung as a sampler, called "v1: inclusive accept". ValueError where the mutant does not apply."""
    text = mutant.apply(rung_text(rung))
    if text is None or rung not in applies_to(mutant):
        raise ValueError(f"{mutant.name}: no anchor in {rung}, accepted: {', '.join(applies_to(mutant))}")
    sampler = load_sampler(source=text)
    sampler.name = f"{rung}: {mutant.name}"
    return sampler


# ---- the table ---------------------------------------------------------------------------------------------------------

def is_idle(mutant: Mutant, rung: str) -> bool:
    """Is the patched code in no path that the rung runs? Then both compile to the same machine code for the CPU."""
    pair = [load_sampler(source=text) for text in (rung_text(rung), mutant.apply(rung_text(rung)))]
    for dtype in (torch.float32, torch.bfloat16):  # some change nothing for one of them
        problem = make_problem(1, 1, 3, logits=pair[0].input == "logits", dtype=dtype)
        if len({machine_code.mark(sampler.kernels(problem)) for sampler in pair}) > 1:
            return False
    return pair[0].contract == pair[1].contract


def findings(mutant: Mutant, rung: str, level="quick", device="cpu", seed=0, first=False) -> dict[str, str] | None:
    """{part of the report: the first thing in it that refuses the mutant}; {} if nothing does. first: stop at the first part.
    None where the rung does not run what is patched.

    Raises if the mutant does not compile: that would be no catch. A kernel that faults in a law counts under poison.
    """
    sampler = load_mutant(mutant, rung)
    kind, found = sampler.input, {}
    sampler.kernels(make_problem(1, 1, 3, logits=kind == "logits", device=device))
    for part, words in _searched(sampler, level, device, seed, kind, found):
        found.setdefault(part, words)
        if first:
            break
    return found if found or not is_idle(mutant, rung) else None


def _searched(sampler, level, device, seed, kind, found):
    """(part, words) of each finding; a case is left out once its part has one."""
    single = lambda case: case.arguments.get("dtype", torch.float32) is torch.float32  # first: they share one compilation
    for case in sorted(suite.listed(level, kind), key=lambda case: (not single(case), case.part)):
        if case.part not in found and suite.unfit(case, device) is None:
            for failure in suite.run_case(sampler, case, device, seed).failures:
                yield "poison" if is_poison(failure) else case.part, f"{case.name}: {failure}"
    if "poison" not in found or "edges" not in found:
        for name, differences in probe(sampler, device, seed, REBATCHINGS[level]).items():
            yield from (("edges" if is_move(name) else "poison", f"{name}: {text}") for text in differences[:1])
    if "law" not in found:
        for law in examine_laws(sampler, level, device, seed, kind=kind)[0]:
            if not law:
                yield "law" if law.draws else "poison", str(law)


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


def mark(mutant: Mutant, rung: str) -> str:
    """Of the mutated source: a finding stands as long as it is the same."""
    return hashlib.sha256(mutant.apply(rung_text(rung)).encode()).hexdigest()[:16]


def judged(pairs, level="quick", device="cpu", seed=0, say=print, jobs=1, first=False) -> list[dict]:
    """The same of (mutant, rung) pairs; first: of each only the first part that refuses it."""
    found = []
    with ThreadPoolExecutor(jobs) as pool:
        for (mutant, rung), caught in zip(pairs, pool.map(lambda pair: _apart(*pair, level, device, seed, first), pairs)):
            entry = {"mutant": mutant.name, "what": mutant.what, "rung": rung, "source": mark(mutant, rung), "idle": caught is None,
                     "complete": not first, "caught_by": sorted(caught or {}, key=PARTS.index),
                     "findings": {part: words[:300] for part, words in (caught or {}).items()}}
            found.append(entry)
            outcome = "idle" if entry["idle"] else "caught" if caught else "MISSED"
            say(f"{outcome:<7} {mutant.name} ({rung}): {', '.join(entry['caught_by'])}")
    return found


def _apart(mutant, rung, *words) -> dict[str, str] | None:
    """`findings` in a process of its own. Raises what it raised."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(send, mutant, rung, *words), daemon=True)
    process.start()
    send.close()
    try:
        if not receive.poll(TIMEOUT_S):
            return {"poison": f"no answer within {TIMEOUT_S} s"}
        outcome = receive.recv()
    except EOFError:
        process.join()
        return {"poison": f"it took its process with it (exit code {process.exitcode})"}
    finally:
        process.kill()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _report(send, *task) -> None:
    torch.set_num_threads(1)
    try:
        send.send(findings(*task))
    except Exception as error:  # noqa: BLE001 (raised again by whoever asked)
        send.send(RuntimeError(f"{task[0].name} ({task[1]}): {type(error).__name__}: {error}"))


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
    from spec_toolkit import mutants  # noqa: PLW0406 (by its real name, which the processes know it by)
    globals().update(__spec__=None, __file__=None)  # so that they do not run this file again as their main module
    sys.exit(mutants.main())
