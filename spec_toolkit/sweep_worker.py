"""Both ends of the pipe to a process that runs notebooks: one order a line on its stdin (JSON), one outcome a line on its stdout.

When stdin ends, whoever gave the orders is gone: the kernel is killed and so is this, so a killed sweep leaves nothing
that runs. It writes into the folder that an order names and nowhere else; the record is written by the sweep.
"""
from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from . import paths, runs

LOG_SHOWN = 600  # characters of a dead worker's last words
OUT_OF_MEMORY = re.compile(r"OutOfMemory|MemoryError|out of memory|cudaErrorMemoryAllocation|bad_alloc", re.IGNORECASE)


class Worker:
    """The near end: one such process, started when first asked and again when it has died."""

    def __init__(self):
        self.process = None

    def run(self, order: dict) -> dict:
        """The outcome of an order; of a worker that died on the way, an outcome that says so."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order, default=str) + "\n")
            self.process.stdin.flush()
        if line := self.process.stdout.readline():
            return json.loads(line)
        code = self.process.wait()
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip()[-LOG_SHOWN:]
        return {"status": "failed", "error": f"the process that ran the notebook ended with {code}: {said}", "error_kind": "WorkerDied",
                "started": None, "seconds": 0.0}

    def _start(self):
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        path = os.pathsep.join(filter(None, (str(paths.PACKAGE.parent), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(  # a session of its own: Ctrl-C is for the sweep, which then ends its workers
            [sys.executable, "-m", "spec_toolkit.sweep_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": path})

    def close(self):
        """Its stdin ends, so it kills its kernel and goes."""
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()


# ---- the far end -----------------------------------------------------------------------------------------------------

def outcome(order: dict) -> dict:
    """Run one order {source, parameters, folder, timeout}; status, seconds, when, the answer, or what went wrong."""
    began, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    found = {"status": "done", "error": None, "error_kind": None}
    try:
        notebook = runs.execute(Path(order["source"]), order["parameters"], Path(order["folder"]), order["timeout"], progress=False)
        found["answer"] = last_words(notebook)
    except Exception as error:  # noqa: BLE001 (a task that fails is recorded, and does not stop the rest)
        text = str(error) if isinstance(error, runs.RunError) else f"{type(error).__name__}: {error}"
        found |= {"status": "failed", "error": text.replace(order["folder"] + os.sep, ""), "error_kind": kind(error.__cause__ or error)}
    return found | {"started": began, "seconds": round(time.perf_counter() - clock, 3)}


def kind(error: BaseException) -> str:
    """The name of what was raised in the notebook, or by papermill about it; "out of memory" whatever library said so."""
    name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", "")
    return "out of memory" if OUT_OF_MEMORY.search(f"{name} {text}") else name


def last_words(notebook: Path) -> str | None:
    """The last text that an executed notebook displayed: by our custom its answer, a sentence made from data."""
    said = None
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = data.get("text/markdown") or data.get("text/plain") or output.get("text")
            said = "".join(text).strip().strip("*") if text else said
    return said[:2000] if said else None


def _end() -> None:
    """Kill the kernels and go, at once: no clean-up of a library may hold it up."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(0)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is not an answer
    orders: queue.Queue = queue.Queue()

    def listen():
        for line in sys.stdin:
            orders.put(json.loads(line))
        _end()

    threading.Thread(target=listen, daemon=True).start()
    while True:
        print(json.dumps(outcome(orders.get()), default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
