"""A sweep file -> the tasks in it; a finished task -> a record on disk. sweeping.py runs them.

    timeout: 3600                     # seconds that one notebook cell may take (default: no limit)
    runs:
      - notebook: quick_demo          # a name, or a path
        parameters: {vocab: 32000}    # the same in every task of this entry
        grid:                         # every combination of these
          batch: [1, 4, 16]
          draft_len: [4, 8]

A task is one notebook with one set of parameters. Its record OUT/<slug>.json is written when it has ended, its folder
OUT/<slug>/ (the executed notebook and what it wrote) just before: whoever is killed between the two leaves no record.
"""
from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from . import results
from .notebooks import RunError, check_parameters, find_notebook

FORMAT = "spec_toolkit sweep task 1"
ENTRY, TOP = {"notebook", "parameters", "grid"}, {"timeout", "runs"}
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, eq=False)
class Task:
    """One notebook with one set of checked parameters. source_hash: of the notebook's text, as in the record."""
    notebook: str
    source: Path
    parameters: dict
    source_hash: str

    @property
    def slug(self) -> str:
        """A file name: the notebook, its parameters, and six hex digits of both."""
        said = "-".join(f"{key}{value}" for key, value in self.parameters.items())
        digest = hashlib.sha256(json.dumps([self.notebook, self.parameters], sort_keys=True, default=str).encode()).hexdigest()[:6]
        return "-".join(filter(None, (self.notebook, re.sub(r"[^\w.]+", "-", said).strip("-")[:60], digest)))

    def __str__(self) -> str:
        return " ".join([self.notebook, *(f"{key}={value!r}" for key, value in self.parameters.items())])


@dataclass(frozen=True)
class Sweep:
    name: str
    tasks: tuple[Task, ...]
    timeout: float | None = None


def read_sweep(path: str | Path) -> Sweep:
    """The tasks of a YAML file, each once, every name and type checked. RunError says which entry is wrong, and what is accepted."""
    import yaml

    path = Path(path)
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"sweep: {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise RunError(f"sweep: {path} is not YAML: {error}") from None
    _keys(path.name, said, TOP)
    if not isinstance(said.get("runs"), list) or not said["runs"]:
        raise RunError(f"{path.name}: runs: got {said.get('runs')!r}, accepted: a list of entries with {', '.join(sorted(ENTRY))}")
    timeout = said.get("timeout")
    if timeout is not None and (not isinstance(timeout, (int, float)) or timeout <= 0):
        raise RunError(f"{path.name}: timeout: got {timeout!r}, accepted: seconds above 0, or nothing")
    tasks = {task.slug: task for number, entry in enumerate(said["runs"], 1) for task in _entry(f"{path.name}, entry {number}", entry)}
    return Sweep(path.stem, tuple(tasks.values()), timeout)


def _entry(where: str, entry: Any) -> list[Task]:
    _keys(where, entry, ENTRY)
    if not isinstance(entry.get("notebook"), str):
        raise RunError(f"{where}: notebook: got {entry.get('notebook')!r}, accepted: a name such as quick_demo, or a path")
    fixed, grid = entry.get("parameters") or {}, entry.get("grid") or {}
    for name, axes in (("parameters", fixed), ("grid", grid)):
        if not isinstance(axes, dict):
            raise RunError(f"{where}: {name}: got {axes!r}, accepted: a mapping of parameter names")
    if wrong := [key for key, values in grid.items() if not isinstance(values, list) or not values]:
        raise RunError(f"{where}: grid: {wrong[0]}: got {grid[wrong[0]]!r}, accepted: a list of values, one or more")
    if both := sorted(set(fixed) & set(grid)):
        raise RunError(f"{where}: {both[0]} is both a parameter and an axis of the grid: give it once")
    try:
        source = find_notebook(entry["notebook"])
        notebook, digest = re.sub(r"^\d+_", "", source.stem), hashlib.sha256(source.read_bytes()).hexdigest()
        return [Task(notebook, source, check_parameters(source, dict(zip(grid, point)) | fixed), digest) for point in product(*grid.values())]
    except RunError as error:
        raise RunError(f"{where}: {error}") from None


def _keys(where: str, given: Any, accepted: set[str]) -> None:
    if not isinstance(given, dict) or set(given) - accepted:
        got = sorted(map(str, set(given) - accepted)) if isinstance(given, dict) else repr(given)
        raise RunError(f"{where}: got {got}, accepted: {', '.join(sorted(accepted))}")


def load_tasks(out: str | Path) -> dict[str, dict]:
    """slug -> record of every task that has ended in that folder, done or failed."""
    found = {}
    for path in sorted(Path(out).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("format") == FORMAT:
            found[path.stem] = record
    return found


def is_finished(task: Task, records: Mapping[str, dict]) -> bool:
    """Done, with the notebook as it is today. A failed task is not finished: it is tried again."""
    record = records.get(task.slug)
    return record is not None and record["status"] == DONE and record["notebook_hash"] == task.source_hash


def commit(out: Path, task: Task, ran: Path, outcome: Mapping[str, Any]) -> dict:
    """Move the folder in which the task ran to its place and write the record, in that order; the record."""
    place = out / task.slug
    (out / f"{task.slug}.json").unlink(missing_ok=True)  # an older record must not speak for the new folder
    shutil.rmtree(place, ignore_errors=True)
    ran.replace(place)
    record = {"format": FORMAT, "notebook": task.notebook, "notebook_hash": task.source_hash, "parameters": task.parameters, **outcome,
              "files": sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()),
              "environment": results.environment() | {"gpu": _gpu()}}
    results.write_atomically(out / f"{task.slug}.json", results.to_text(record))
    return record


@functools.cache
def _gpu() -> str | None:
    """The GPUs of the machine, asked of the driver: this process wants none of their memory."""
    return results._output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def table(records) -> str:
    """A Markdown table of task records: what each was asked, how it ended, and the last thing that it said."""
    rows = ["| notebook | parameters | status | s | answer |", "|---|---|---|---:|---|"]
    for record in records:
        said = record.get("answer") or record.get("error") or ""
        parameters = ", ".join(f"{key}={value!r}" for key, value in record["parameters"].items())
        rows.append(f"| {record['notebook']} | {parameters} | {record['status']} | {record['seconds']:.1f} | {' '.join(said.split())[:300].replace('|', '/')} |")
    return "\n".join(rows) + "\n"
