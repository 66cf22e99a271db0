"""Every notebook runs small under papermill; algorithm, own_kernel, step and report say what their data say."""
import json

import pytest

pytest.importorskip("papermill")
pytest.importorskip("ipywidgets")
import made_up_loops
from made_up import record
from test_notebooks import execute, printed

from spec_toolkit import llm_bench_records, notebooks, paths, results, sweep, sweeping

ELSEWHERE = {"quick_demo", "ladder", "precision"}  # run under papermill by other tests
SMALL = {"batch_scaling": {"check_batch": 2, "check_vocab": 65}, "vocab_scaling": {"check_vocabs": [1, 33]}, "profile": {"check_batch": 2, "check_vocab": 65},
         "logits": {"batches": [1], "vocabs": [257], "check_vocab": 65, "composites": ["softmax+v7"]},
         "acceptance": {"acceptances": [0.5, 0.9], "batch": 2, "vocab": 257, "count_batch": 20, "count_vocab": 100, "composites": ["softmax+v7"]},
         "algorithm": {"draws": 20000}, "own_kernel": {"batch": 2, "draft_len": 2, "vocab": 1024}, "step": {}, "report": {},
         "llm": {"tiny_tokens": 4, "law_runs": 1500}, "train_draft": {"steps": 40}}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """All of them through one sweep, two at a time: name -> (record, folder)."""
    folder = tmp_path_factory.mktemp("notebooks")
    file = folder / "all.yaml"
    file.write_text(json.dumps({"runs": [{"notebook": name, "parameters": parameters} for name, parameters in SMALL.items()]}))
    done = sweeping.run_sweep(sweep.read_sweep(file), folder / "out", jobs=2, progress=False)
    assert not done.failed, str(done)
    return {record["notebook"]: (record, folder / "out" / slug) for slug, record in done.records.items()}


def text_of(executed, name):
    record, folder = executed[name]
    return printed(folder / notebooks.find_notebook(name).name), record


def test_every_notebook_is_run_and_answers(executed):
    assert set(SMALL) | ELSEWHERE == set(notebooks.list_notebooks()), "a notebook that no test runs: add it to SMALL"
    assert all(record["answer"] and record["error"] is None for record, _ in executed.values())


def test_the_algorithm_counts_and_proves(executed):
    text, done = text_of(executed, "algorithm")
    assert "emitted law == target law, as fractions: True" in text and "in rational numbers the two laws are equal" in done["answer"]
    assert {"algorithm.png", "algorithm.svg"} <= set(done["files"]) and "In 20,000 draws" in done["answer"]


def test_own_kernel_is_checked_raced_shown_and_saved(executed):
    text, done = text_of(executed, "own_kernel")
    assert "mine is exact: " in done["answer"] and "a broken copy is refused by its tokens" in done["answer"]
    assert {"explore.png", "mine.cu"} <= set(done["files"]) and "launch    mine" in text
    folder = executed["own_kernel"][1]
    assert "--- contract ---" in (folder / "mine.cu").read_text() and (folder / "explore.png").read_bytes().startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in (folder / "10_own_kernel.ipynb").read_text()  # the sliders are there


def test_step_and_report_speak_whatever_is_recorded(executed):
    for name, silent in (("step", "for want of a record"), ("report", "Nothing has been recorded yet")):
        _, done = text_of(executed, name)
        assert (silent in done["answer"]) == (not any(results.load_records(paths.results_dir(), "batch_scaling" if name == "step" else "ladder")))
    assert "index.html" in executed["report"][0]["files"]


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Made-up records of one GPU, and none else to be found."""
    for experiment in ("batch_scaling", "ladder"):
        for batch in (1, 64):
            for name, us in (("v1", 900.0), ("v7", 6.0 * batch), ("flashinfer_chain", 60.0), ("python_loop", None)):
                made = record(name, us, batch=batch, experiment=experiment, call_us=None if us else 5000.0)
                path = tmp_path / "results" / "paper" / experiment / f"{name}-{batch}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(results.to_text(made))
    monkeypatch.setattr(paths, "results_dir", lambda: tmp_path / "results")
    return tmp_path


def test_step_says_when_the_sampler_matters(recorded, monkeypatch, tmp_path, capsys):
    names = execute("step", monkeypatch, batch=50, out=str(tmp_path / "out"))
    assert names["sentence"].startswith("v7 takes 28% of a 1 ms step and less than 1% from 38 ms on; flashinfer_chain takes 5.7% of a 1 ms step")
    assert names["chosen"] == 64 and {path.stem for path in (tmp_path / "out").iterdir()} == {"step_shares", "step_matters"}
    assert "batch_scaling: recorded on NVIDIA Paper" in capsys.readouterr().out


def test_llm_decodes_a_tiny_model_where_nothing_is_recorded(recorded, monkeypatch, tmp_path, capsys):
    pytest.importorskip("transformers")
    names = execute("llm", monkeypatch, out=str(tmp_path / "out"), tiny_tokens=4, law_runs=1500)
    said = capsys.readouterr().out
    assert "a tiny random model, decoded now on this CPU" in said and "left out" not in said and "FAIL" not in said
    assert {"llm_methods.svg", "llm_split.png", "llm_acceptance.png", "llm_shares.png", "llm_k_sweep.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert names["lossless"].startswith("The law of the first tokens is the target's in 6 of 6 ways") and "refuses 1 of 1" in names["lossless"]
    assert sum("4 of 4 greedy texts are those of plain decoding" in sentence for sentence in names["sentences"]) == 3


def test_llm_shows_what_is_recorded(recorded, monkeypatch, tmp_path, capsys):
    made = made_up_loops.records()
    for one in made:
        llm_bench_records.write(one, recorded / "results")
    names = execute("llm", monkeypatch, out=str(tmp_path / "out"), law_runs=1500)
    assert f"{len(made)} records, recorded on NVIDIA Paper: paper-135m with paper-16m" in capsys.readouterr().out
    assert names["sentences"][0].startswith("Goal of 1.8x over plain decoding of the same path at batch 1, T=1: graph path (own forward) 1.8")
    assert set(names["figures"]) >= {"methods", "k_sweep", "needed"}


def test_report_shows_the_ladder(recorded, monkeypatch, tmp_path, capsys):
    names = execute("report", monkeypatch, out=str(tmp_path / "out"))
    assert any("NVIDIA Paper: B=64, K=4, V=128,256: v7 (stale) takes 384 µs" in sentence for sentence in names["said"])
    assert (tmp_path / "out" / "index.html").is_file() and (tmp_path / "out" / "figures" / "paper" / "ladder" / "figure.svg").is_file()
    assert "index.html" in capsys.readouterr().out and [row[0] for row in names["rows"]] == ["ladder", "batch_scaling"]
