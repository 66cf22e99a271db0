"""Sweeps: what a file may say, what a task leaves, and that a sweep killed at any moment goes on as if nothing had been."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("papermill")
import psutil

from spec_toolkit import cli, paths, runs, sweep, sweep_worker

TINY = """import os, time
from pathlib import Path
Path(log, f"{os.getpid()}.pid").touch()
time.sleep(seconds)
Path(out, "figure.svg").write_text(f"<svg>{x}</svg>")
"""


def write_notebook(path, *cells, parameters="x = 0\nseconds = 0.0\nlog = '.'\nout = 'outputs'"):
    made = [nbformat.v4.new_code_cell(text) for text in (parameters, *cells)]
    made[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


def write_sweep(path, text):
    path.write_text(text)
    return path


@pytest.fixture
def tiny(tmp_path):
    """A sweep of four tasks that take a moment each, and the folder where each kernel that ran has left its process id."""
    notebook = write_notebook(tmp_path / "01_tiny.ipynb", TINY, "print(f'**x is {x}**')")
    (tmp_path / "log").mkdir()
    return write_sweep(tmp_path / "tiny.yaml", json.dumps(  # JSON is YAML
        {"runs": [{"notebook": str(notebook), "parameters": {"seconds": 0.3, "log": str(tmp_path / "log")}, "grid": {"x": [0, 1, 2, 3]}}]}))


def command(*words):
    """Started as from a terminal: a suite that runs in a shell's background is deaf to Ctrl-C, and so would be what it starts."""
    return subprocess.Popen([sys.executable, "-m", "spec_toolkit.cli", "sweep", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, "PYTHONPATH": str(paths.PACKAGE.parent)},
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def contents(out):
    """Everything that a sweep leaves, but for when, how long and of which commit: {record: (what it says, {file: its outputs or bytes})}."""
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") and path.name != ".lock"], "something unfinished is left"
    found = {}
    for slug, record in sweep.load_tasks(out).items():
        files = {path.name: path.read_text() for path in (out / slug).iterdir()}
        cells = json.loads(files.pop("01_tiny.ipynb"))["cells"]
        said = {key: record[key] for key in record if key not in ("seconds", "started", "environment")}  # a commit may be made meanwhile
        found[slug] = said, files, [output.get("text") for cell in cells for output in cell.get("outputs", [])]
    assert {path.stem for path in out.glob("*.json")} == {path.name for path in out.iterdir() if path.is_dir()} == set(found)
    return found


def records_as_written(out):
    return {path.name: path.read_bytes() for path in out.glob("*.json")}


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_sweep_killed_three_times_leaves_what_an_uninterrupted_one_does(tiny, tmp_path):
    whole, killed, kernels = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    assert command(tiny, "--out", whole, "--jobs", "2").wait(60) == 0
    seed = int(time.time())
    print("seed of the moments:", seed)
    moments, before = random.Random(seed), {}
    for _ in range(3):
        running = command(tiny, "--out", killed, "--jobs", "2")
        time.sleep(moments.uniform(1.5, 4.0))
        running.send_signal(signal.SIGKILL)
        running.wait(10)
        written = records_as_written(killed) if killed.is_dir() else {}
        assert before.items() <= written.items(), "a finished task was run again"
        assert all(json.loads(text)["status"] == "done" for text in written.values()), "a record is half-written or wrong"
        before = written
        wait_for(lambda: not any(is_running(int(path.stem)) for path in kernels.glob("*.pid")), 10)  # no kernel outlives its sweep
    resumed = command(tiny, "--out", killed, "--jobs", "2")
    said, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == 0 and f"4 done ({len(before)} of them before), 0 failed" in said
    assert before.items() <= records_as_written(killed).items()
    assert len(contents(whole)) == 4 and contents(killed) == contents(whole)


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    assert what()


def test_ctrl_c_leaves_a_clean_state_and_two_sweeps_do_not_share_a_folder(tiny, tmp_path):
    tiny.write_text(tiny.read_text().replace("[0, 1, 2, 3]", str(list(range(20)))))
    out = tmp_path / "out"
    running = command(tiny, "--out", out)
    wait_for((out / ".lock").exists)
    other = command(tiny, "--out", out)
    assert "another sweep is running in" in other.communicate(timeout=30)[1] and other.returncode == 2
    wait_for(lambda: list(out.glob("*.json")))
    running.send_signal(signal.SIGINT)
    said, errors = running.communicate(timeout=30)
    assert running.returncode == 130 and "not run" in said and "the same command goes on from here" in said and "Traceback" not in errors
    assert 0 < len(contents(out)) < 20 and not any(is_running(int(path.stem)) for path in (tmp_path / "log").glob("*.pid"))


FAILING = """import os, time
from pathlib import Path
first = not Path(log, x).exists()
Path(log, x).touch()
if x == "raises": raise ValueError("seventeen")
if x == "dies" or x == "dies once" and first: os._exit(9)
if x == "kills": os.kill(os.getppid(), 9)
if x == "no memory": raise MemoryError("out of it")
if x == "sleeps": time.sleep(60)
"""


def test_a_failing_task_is_recorded_and_stops_nobody(tmp_path, capsys):
    notebook = write_notebook(tmp_path / "02_failing.ipynb", FAILING, parameters="x = ''\nlog = '.'")
    names = ["raises", "dies", "kills", "no memory", "sleeps", "dies once", "goes well"]
    file = write_sweep(tmp_path / "bad.yaml", json.dumps(
        {"timeout": 3, "runs": [{"notebook": str(notebook), "parameters": {"log": str(tmp_path)}, "grid": {"x": names}}]}))
    assert cli.main(["sweep", str(file), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 1
    records = {record["parameters"]["x"]: record for record in sweep.load_tasks(tmp_path / "out").values()}
    assert {name: record["error_kind"] for name, record in records.items()} == {
        "raises": "ValueError", "dies": "DeadKernelError", "kills": "WorkerDied", "no memory": "out of memory", "sleeps": "CellTimeoutError", "dies once": None, "goes well": None}
    said = capsys.readouterr().out
    assert "2 done (0 of them before), 5 failed" in said and "ValueError: seventeen" in said and "4 to be tried again, alone" in said
    assert "02_failing.ipynb" in records["raises"]["files"] and str(tmp_path / "out") not in records["raises"]["error"]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == [".lock"]
    assert "| failing | x='raises', " in sweep.table(records.values()) and "seventeen" in (tmp_path / "out" / "summary.md").read_text()


def test_without_its_record_a_task_has_not_happened(tiny, tmp_path, monkeypatch):
    """The moment between the folder and the record, which no kill at random is sure to hit."""
    task, out = sweep.read_sweep(tiny).tasks[0], tmp_path / "out"
    ran = out / ".running-x"
    for again in (False, True):  # a first run, and one over an older record
        ran.mkdir(parents=True)
        (ran / "figure.svg").write_text(f"again: {again}")
        monkeypatch.setattr(sweep.results, "write_atomically", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweep.commit(out, task, ran, {"status": "done", "error": None})
        assert (out / task.slug / "figure.svg").read_text() == f"again: {again}" and not sweep.is_finished(task, sweep.load_tasks(out))
        monkeypatch.undo()
        ran.mkdir()
        sweep.commit(out, task, ran, {"status": "done", "error": None})
        assert sweep.is_finished(task, sweep.load_tasks(out)) and list((out / task.slug).iterdir()) == []


def test_the_last_words_are_the_answer(tmp_path):
    shown = nbformat.v4.new_output("display_data", {"text/markdown": "**V6 wins.**", "text/plain": "<Markdown>"})
    cells = [nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("stream", text="before"), shown]), nbformat.v4.new_code_cell("y")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "ran.ipynb")
    assert sweep_worker.last_words(tmp_path / "ran.ipynb") == "V6 wins."


@pytest.mark.parametrize("error, name", [
    (RuntimeError("x"), "RuntimeError"), (MemoryError(), "out of memory"), (type("E", (Exception,), {"ename": "AcceleratorError", "evalue": "CUDA error: out of memory"})(), "out of memory"),
    (type("OutOfMemoryError", (RuntimeError,), {})("tried to allocate"), "out of memory"), (TimeoutError("print('out of memory')"), "TimeoutError")])
def test_what_went_wrong_in_a_word(error, name):
    assert sweep_worker.kind(error) == name


def test_an_edited_notebook_is_run_again_and_a_failed_task_too(tmp_path):
    notebook = write_notebook(tmp_path / "01_tiny.ipynb", "x")
    file = write_sweep(tmp_path / "s.yaml", json.dumps({"runs": [{"notebook": str(notebook), "grid": {"x": [1, 1, 2]}}]}))
    tasks = sweep.read_sweep(file).tasks
    assert [task.parameters["x"] for task in tasks] == [1, 2] and len({task.slug for task in tasks}) == 2  # each once
    records = {task.slug: {"status": "done", "notebook_hash": task.source_hash} for task in tasks}
    assert all(sweep.is_finished(task, records) for task in tasks)
    records[tasks[0].slug]["status"] = "failed"
    assert not sweep.is_finished(tasks[0], records)
    write_notebook(notebook, "x + 1")
    assert not any(sweep.is_finished(task, records) for task in sweep.read_sweep(file).tasks)


@pytest.mark.parametrize("text, said", [
    ("runs: [{notebook: tiny, parameters: {y: 1}}]", "entry 1: 01_tiny.ipynb has no parameter 'y'; it has: x (default 0)"),
    ("runs: [{notebook: tiny}, {notebook: tiny, grid: {x: [1, many]}}]", "entry 2: parameter x: 'many' is a str, wanted a int"),
    ("runs: [{notebook: nothing}]", "entry 1: no notebook 'nothing'; the notebooks are: tiny"),
    ("runs: [{notebook: tiny, grid: {x: 3}}]", "grid: x: got 3, accepted: a list"),
    ("runs: [{notebook: tiny, parameters: {x: 1}, grid: {x: [1]}}]", "x is both"),
    ("runs: [{notebok: tiny}]", "got ['notebok'], accepted: grid, notebook, parameters"),
    ("runs: []", "runs: got [], accepted: a list of entries"), ("[1]", "accepted: runs, timeout"),
    ("timeout: -1\nruns: [{notebook: tiny}]", "timeout: got -1"), ("runs: [", "is not YAML"), (None, "cannot be read")])
def test_a_wrong_file_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys, text, said):
    write_notebook(tmp_path / "01_tiny.ipynb", "x")
    monkeypatch.setattr(runs.paths, "notebooks_dir", lambda: tmp_path)
    file = tmp_path / "s.yaml"
    if text:
        write_sweep(file, text)
    assert cli.main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", sorted((paths.PACKAGE.parent / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_sweeps_that_come_along_can_run(file, capsys, tmp_path):
    assert cli.main(["sweep", str(file), "--dry-run", "--out", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(sweep.read_sweep(file).tasks) > 0 and all(line.startswith("to run") for line in listed)
