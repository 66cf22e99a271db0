"""The notebooks run, small, on the machine that runs the tests."""
import json

import matplotlib
import pytest

pytest.importorskip("papermill")
pytest.importorskip("spec_toolkit.sampler")
from spec_toolkit import bench, check, make_problem, paths, results, runs
from spec_toolkit.sampler import load_sampler


def printed(notebook):
    """All text that the cells of an executed notebook printed or displayed."""
    outputs = [output for cell in json.loads(notebook.read_text())["cells"] for output in cell.get("outputs", [])]
    return "".join("".join(o.get("text", [])) + "".join("".join(v) for k, v in o.get("data", {}).items() if k.startswith("text/")) for o in outputs)


def test_quick_demo(tmp_path):
    made = runs.run_notebook("quick_demo", {"batch": 2, "draft_len": 2, "vocab": 64}, out=tmp_path, progress=False)
    assert made.notebook.is_file() and made.html.is_file()
    assert {"step.png", "step.svg"} <= {path.name for path in made.figures}
    text = printed(made.notebook)
    assert "| python_loop | PASS | 2 of 2 |" in text and "FAIL" not in text
    assert "samplers gave the reference's" in text and "for 2 requests" in text
    assert "times need one" in text or "quick_demo.png" in {path.name for path in made.figures}


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """A results folder with made-up times of two baselines, as if from a GPU called Paper."""
    problem = make_problem(batch=2, draft_len=2, vocab=64)
    monkeypatch.setattr(results, "environment", lambda *_: {"gpu": "Paper", "torch": "2", "git": "0" * 40})
    for name, call_us in (("python_loop", [900.0]), ("torch_vectorised", [90.0])):
        sampler = load_sampler(name)
        limits = {"stream_read_us": [5.0], "empty_launch_us": [3.0]}
        timing = bench.Timing(name, check(sampler, problem), "read", "run1", "2026-11-24T00:00:00+00:00", [50.0], None, call_us, [9.0], 10, 1, limits)
        results.record("quick_demo", sampler, problem, timing.check, timing, tmp_path / "results")
    monkeypatch.setattr(paths, "results_dir", lambda: tmp_path / "results")


def test_quick_demo_without_a_gpu_shows_the_recorded_figure(recorded, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    matplotlib.use("agg")
    names = {"out": None}
    for cell in json.loads(runs.find_notebook("quick_demo").read_text())["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            exec(compile(source, cell["id"], "exec"), names)
            if cell["id"] == "parameters":
                names |= {"batch": 2, "draft_len": 2, "vocab": 64, "out": str(tmp_path / "out")}
    assert "No GPU here" in (said := capsys.readouterr().out) and "Recorded on Paper" in said
    assert "the fastest call, torch_vectorised, took 90 µs on Paper, 10 times less than the Python loop" in names["sentence"]
    assert {"quick_demo.png", "quick_demo.svg", "step.png", "step.svg"} == {path.name for path in (tmp_path / "out").iterdir()}
