"""Runs the tasks of a sweep: side by side, each in a process that may die, each recorded the moment it has ended.

A killed sweep goes on where it stopped: what has a record is not run again. Only the process that holds the folder's lock
writes records; a worker whose sweep was killed ends itself (sweep_worker.py) and can commit nothing.
"""
from __future__ import annotations

import contextlib
import fcntl
import queue
import shutil
import signal
import sys
import tempfile
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from . import results, runs
from .sweep import DONE, FAILED, Sweep, Task, commit, is_finished, load_tasks, table
from .sweep_worker import Worker

RUNNING = ".running-"  # folders in which a task runs; one that is left over belongs to a sweep that was killed
ALONE = ("out of memory", "DeadKernelError", "WorkerDied")  # worth another try with the machine to itself
TICK = 1.0  # seconds between two looks at the clock of the bar


@dataclass
class SweepResult:
    """records: slug -> record of every task of the sweep that has ended. stopped: tasks that an interruption left."""
    records: dict = field(default_factory=dict)
    skipped: int = 0
    stopped: int = 0

    @property
    def failed(self) -> dict:
        return {slug: record for slug, record in self.records.items() if record["status"] == FAILED}

    def __str__(self) -> str:
        done = sum(record["status"] == DONE for record in self.records.values())
        head = f"{done} done ({self.skipped} of them before), {len(self.failed)} failed" + (f", {self.stopped} not run" if self.stopped else "")
        return "\n".join([head, *(f"\nFAILED {slug} ({record['error_kind']})\n{record['error']}" for slug, record in self.failed.items())])


@contextlib.contextmanager
def _locked(out: Path):
    """The folder, for one sweep at a time; the lock goes with the process that holds it, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise runs.RunError(f"another sweep is running in {out}: wait for it, or give another --out") from None
        yield


@contextlib.contextmanager
def _terminable():
    """SIGTERM as Ctrl-C, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _undisturbed():
    """A second Ctrl-C, or a SIGTERM, is passed over while what is inside is done: it cleans up after the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _clean(out: Path) -> None:
    """Take away what a killed sweep left: running folders, unfinished files, folders that have no record."""
    for path in out.glob(f"{RUNNING}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in out.glob(".*.tmp"):
        path.unlink()


def run_sweep(sweep: Sweep, out: str | Path, jobs: int = 1, progress: bool = True) -> SweepResult:
    """Run what is not finished in `out`, `jobs` at a time; every task that has ended has its record there, and a line in summary.md.

    A task that fails is recorded and the rest go on; one that ran out of memory, or whose kernel died, beside others is tried
    once more alone. Ctrl-C or SIGTERM ends the workers, keeps what is recorded and returns, with `stopped` counted.
    """
    runs.needed()
    if jobs < 1:
        raise runs.RunError(f"jobs: got {jobs}, accepted: 1 or more")
    out = Path(out).resolve()
    with _locked(out), _terminable():
        _clean(out)
        held = load_tasks(out)
        waiting = [task for task in sweep.tasks if not is_finished(task, held)]
        result = SweepResult({t.slug: held[t.slug] for t in sweep.tasks if t not in waiting}, len(sweep.tasks) - len(waiting))
        say = Say(len(sweep.tasks), result.skipped, progress)
        try:
            _run(waiting, out, jobs, sweep.timeout, result, say)
            if jobs > 1 and (again := [t for t in waiting if result.records[t.slug]["error_kind"] in ALONE]):
                say.more(len(again))
                _run(again, out, 1, sweep.timeout, result, say)
        except KeyboardInterrupt:
            result.stopped = sum(task.slug not in result.records for task in waiting)
        finally:
            say.bar.close()
            _clean(out)
            results.write_atomically(out / "summary.md", table(result.records[t.slug] for t in sweep.tasks if t.slug in result.records))
    return result


def _run(tasks, out: Path, jobs: int, timeout, result: SweepResult, say: Say) -> None:
    """Every task through a pool of workers; the records are written by this thread, one by one."""
    everyone = [Worker() for _ in range(min(jobs, len(tasks)))]
    workers: queue.SimpleQueue = queue.SimpleQueue()
    for worker in everyone:
        workers.put(worker)

    def one(task: Task) -> tuple[Path, dict]:
        worker, folder = workers.get(), Path(tempfile.mkdtemp(prefix=RUNNING, dir=out))
        try:
            return folder, worker.run({"source": str(task.source), "parameters": task.parameters, "folder": str(folder), "timeout": timeout})
        finally:
            workers.put(worker)

    pool = ThreadPoolExecutor(max(1, len(everyone)))
    try:
        asked = {pool.submit(one, task): task for task in tasks}
        while asked:
            for ended in wait(asked, TICK, FIRST_COMPLETED).done:
                task = asked.pop(ended)
                folder, outcome = ended.result()
                result.records[task.slug] = commit(out, task, folder, outcome)
                say.ended(task, result.records[task.slug])
            say.tick()
    finally:
        with _undisturbed():
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in everyone:
                worker.close()


class Say:
    """The tasks that have ended, a line each, over a bar with an estimate of the time left; or nothing at all."""

    def __init__(self, total: int, initial: int, progress: bool):
        from tqdm import tqdm

        self.progress = progress
        self.bar = tqdm(total=total, initial=initial, unit="task", disable=not progress, smoothing=0.1,
                        bar_format="{percentage:3.0f}% |{bar:30}| {n_fmt} of {total_fmt} tasks, {elapsed} so far, {remaining} left")

    def line(self, text: str) -> None:
        if self.progress:
            self.bar.write(text)

    def ended(self, task: Task, record: dict) -> None:
        self.line(f"{record['status']:6} {task} ({record['seconds']:.1f} s)" + (f": {record['error_kind']}" if record["error"] else ""))
        self.bar.update()

    def more(self, count: int) -> None:
        self.line(f"{count} to be tried again, alone")
        self.bar.total += count

    def tick(self) -> None:
        if self.progress and sys.stderr.isatty():  # in a log file a line a second would be noise
            self.bar.refresh()
