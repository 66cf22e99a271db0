"""What a tool of compute-sanitizer printed, read: findings, whose they are, and why a run may say nothing."""
from __future__ import annotations

import json
import re
from dataclasses import dataclass

from .sanitize_target import AT, DONE

SHOWN = 12             # lines of a report that the record keeps
FOREIGN = re.compile(r"(?:\bat|Device Frame:) (?:void )?(?:at::|c10::|cupy_|cub::|thrust::)")  # kernels of PyTorch and CuPy
NO_FINDING = re.compile(r" (?:COMPUTE-SANITIZER|\w+ SUMMARY|Warning: (?!Race reported)|(?:Error: )?(?:Target application|process didn't))")
SUMMARY = re.compile(r"^========= (?:ERROR|RACECHECK) SUMMARY: (\d+) ", re.MULTILINE)


@dataclass(frozen=True)
class Log:
    """What one tool printed. returncode None: it was stopped."""
    tool: str
    text: str
    returncode: int | None
    seconds: float


def reports(text: str) -> list[tuple[str, str]]:
    """Each finding of a log as its lines, without their marks, and the sampler that ran when it was printed ("" before the first)."""
    found, runs, running = [], [], ""
    for line in text.splitlines():
        if line.startswith(AT):
            running = line.removeprefix(AT).split(",")[0]
        body = line.removeprefix("=========")
        if body == line or NO_FINDING.match(body):
            continue
        if body.startswith("  ") or not body.strip():
            if found and body.strip():
                found[-1].append(body.strip())
        else:
            found.append([body.strip()])
            runs.append(running)
    return [("\n".join(lines), running) for lines, running in zip(found, runs)]


def read(log: Log, kernels: dict[str, list[str]]) -> dict:
    """{"errors": total or None, "ran": of the target or None, "found": {name: reports}}; kernels: name -> its entry functions.

    Among the names of `found`: "control", "foreign" (kernels of PyTorch and CuPy) and "elsewhere" (before any of ours ran).
    """
    total = SUMMARY.findall(log.text)
    done = [line for line in log.text.splitlines() if line.startswith(DONE)]
    owners = kernels | {"control": [f"control_{log.tool}"]}
    found = {name: [] for name in (*owners, "foreign", "elsewhere")}
    for report, running in reports(log.text):
        owner = next((name for name, entries in owners.items() if any(re.search(rf"\b{entry}\b", report) for entry in entries)), None)
        owner = owner or ("foreign" if FOREIGN.search(report) else running if running in kernels else "elsewhere")
        found[owner].append(report)
    return {"errors": int(total[-1]) if total else None, "ran": json.loads(done[-1].removeprefix(DONE)) if done else None, "found": found}


def faults(log: Log, seen: dict) -> list[str]:
    """Why the tool's run says nothing, or found something that belongs to no rung."""
    said = []
    if log.returncode is None:
        at = [line.removeprefix(AT) for line in log.text.splitlines() if line.startswith(AT)]
        said.append(f"stopped after {log.seconds:.0f} s, at {at[-1] if at else 'the start'}")
    elif seen["ran"] is None or seen["errors"] is None:
        said.append(f"did not finish (exit {log.returncode}): " + " | ".join(log.text.strip().splitlines()[-SHOWN:]))
    elif not seen["found"]["control"]:
        said.append("did not find the kernel that it must find")
    if seen["found"]["elsewhere"]:
        said.append(f"{len(seen['found']['elsewhere'])} findings belong to no kernel of ours: " + excerpt(seen["found"]["elsewhere"]))
    if seen["errors"] is not None and (hidden := seen["errors"] - sum(map(len, seen["found"].values()))) > 0:
        said.append(f"{hidden} more findings are counted than printed")
    return said


def excerpt(found: list[str]) -> str:
    return "\n".join(found[0].splitlines()[:SHOWN]) if found else ""
