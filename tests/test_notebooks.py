"""The notebooks run, small, on the machine that runs the tests."""
import json

import matplotlib
import pytest

pytest.importorskip("papermill")
pytest.importorskip("spec_toolkit.sampler")
from made_up import record

from spec_toolkit import bench, check, experiments, make_problem, notebooks, paths, results, runs
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


def execute(name, monkeypatch, **parameters):
    """The names that a notebook's cells leave, run here on a machine that has no GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    matplotlib.use("agg")
    names = {}
    for cell in json.loads(notebooks.find_notebook(name).read_text())["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            exec(compile(source, cell["id"], "exec"), names)  # noqa: S102 (a notebook of ours, as Jupyter would)
            if cell["id"] == "parameters":
                assert set(parameters) <= set(names)
                names |= parameters
    return names


def test_quick_demo_without_a_gpu_shows_the_recorded_figure(recorded, monkeypatch, tmp_path, capsys):
    names = execute("quick_demo", monkeypatch, batch=2, draft_len=2, vocab=64, out=str(tmp_path / "out"))
    assert "No GPU here" in (said := capsys.readouterr().out) and "Recorded on Paper" in said
    assert "the fastest call, torch_vectorised, took 90 µs on Paper, 10.0 times less than the Python loop" in names["sentence"]
    assert {"quick_demo.png", "quick_demo.svg", "step.png", "step.svg"} == {path.name for path in (tmp_path / "out").iterdir()}


SMALL = {"ladder": {"check_batch": 2, "check_vocab": 65}, "batch_scaling": {"check_batch": 2, "check_vocab": 65},
         "vocab_scaling": {"check_vocabs": [1, 33]}, "profile": {"check_batch": 2, "check_vocab": 65}}
FIGURES = {"ladder": {"ladder"}, "batch_scaling": {"batch_time", "batch_speedup"}, "vocab_scaling": {"vocab_time", "vocab_speedup", "grid_speedup"},
           "profile": {"profile", "bytes", "shares", "flush_modes", "misaligned", "dtypes"}}


def test_a_notebook_of_the_ladder_runs_under_papermill(tmp_path):
    made = runs.run_notebook("ladder", SMALL["ladder"], out=tmp_path, progress=False)
    text = printed(made.notebook)
    assert "rungs gave the reference's tokens" in text and "| v1 | PASS | 2 of 2 |" in text and "FAIL" not in text
    assert "ladder: recorded on" in text or "No time has been recorded for `ladder`" in text


@pytest.mark.parametrize("name", SMALL)
def test_notebooks_of_the_ladder_say_that_nothing_is_recorded(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paths, "results_dir", lambda: tmp_path / "results")
    names = execute(name, monkeypatch, **SMALL[name], out=str(tmp_path / "out"))
    assert "no GPU here: nothing is timed" in (said := capsys.readouterr().out) and f"`spec-toolkit gpu --experiments {name}`" in said
    assert names["sentence"].endswith("for want of a record.")
    assert not (tmp_path / "out").exists()


def write_experiments(folder):
    """Made-up records of every problem of the experiments that these notebooks draw: the best rung and three others."""
    ours = experiments.best_rung("probs")
    for name in ("ladder", "batch_scaling", "vocab_scaling", "grid", "profile", "flush_modes", "misaligned", "dtypes"):
        for arguments in experiments.EXPERIMENTS[name].problems:
            arguments = arguments | {"dtype": str(arguments.get("dtype", "float32")).removeprefix("torch.")}
            megabytes = arguments["batch"] * arguments["vocab"] * 6e-6
            for sampler, us in ((ours, 6 + megabytes / 4), ("v1", 900 + megabytes), ("flashinfer_chain", 60 + megabytes), ("python_loop", None)):
                made = record(sampler, us, experiment=name, megabytes=megabytes, limit_us=4 + megabytes / 4.5, call_us=us or 700.0, **arguments)
                path = folder / "paper" / name / f"{sampler}-{results.slug(str(arguments))}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(results.to_text(made))
    return ours


@pytest.mark.parametrize("name", SMALL)
def test_notebooks_of_the_ladder_draw_what_is_recorded(name, monkeypatch, tmp_path, capsys):
    ours = write_experiments(tmp_path / "results")
    monkeypatch.setattr(paths, "results_dir", lambda: tmp_path / "results")
    names = execute(name, monkeypatch, **SMALL[name], out=str(tmp_path / "out"))
    assert f"{name}: recorded on NVIDIA Paper" in (said := capsys.readouterr().out) and f"source: {ours}" in said.replace("python_loop, v1, ", "")
    assert {path.stem for path in (tmp_path / "out").iterdir()} == FIGURES[name]
    assert ours in names["sentence"] and "for want of" not in names["sentence"]
