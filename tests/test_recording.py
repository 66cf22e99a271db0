"""The gpu command: what it refuses without a GPU, and that the experiments are arguments a problem can be made of."""
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("spec_toolkit.sampler")
from spec_toolkit import bench, cli, make_problem, recording, suite
from spec_toolkit.baselines import load_baseline
from spec_toolkit.check import check

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_gpu
def test_without_a_gpu_it_refuses(tmp_path, capsys):
    assert cli.main(["gpu", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "spec-toolkit gpu: times need a CUDA GPU" in said.err and not said.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words, said", [(["--samplers", "python_loop", "v99"], "samplers: got v99, accepted: "),
                                         (["--experiments", "lader"], "experiments: got lader, accepted: quick_demo")])
def test_unknown_names_are_answered_with_the_right_ones(words, said, capsys):
    assert cli.main(["gpu", *words]) == 2
    assert said in capsys.readouterr().err


def test_grid():
    assert recording.grid(batch=(1, 4), vocab=(10, 20), draft_len=[2, 3]) == [
        {"batch": b, "vocab": v, "draft_len": [2, 3]} for b in (1, 4) for v in (10, 20)]


@pytest.mark.parametrize("name", recording.EXPERIMENTS)
def test_experiments_make_problems(name):
    experiment = recording.EXPERIMENTS[name]
    assert experiment.problems and "device" not in str(experiment.problems) and experiment.kinds <= {"probs", "logits"}
    for arguments in experiment.problems:  # the same arguments, small
        made = make_problem(**arguments | {"vocab": 40, "batch": 2, "draft_len": 2})
        assert made.kind == ("logits" if arguments.get("logits") else "probs")


def timing(sampler, problem, run="run1"):
    limits = {"stream_read_us": [5.0], "empty_launch_us": [3.0]}
    return bench.Timing(sampler.name, check(sampler, problem), "read", run, "2026-11-24T00:00:00+00:00", None, "the test has no GPU",
                        [90.0, 91.0], [80.0, 81.0], 1000, 1, limits)


@pytest.fixture
def on_paper(monkeypatch):
    """A machine that believes it has a GPU: problems stay on the CPU, times are made up."""
    monkeypatch.setattr(recording.bench, "gpu_of", lambda device: device)
    monkeypatch.setattr(recording.torch.cuda, "get_device_name", lambda *_: "paper")
    monkeypatch.setattr(recording, "make_problem", lambda device, **arguments: make_problem(**arguments | {"vocab": 64}))
    monkeypatch.setattr(recording, "load_sampler", load_baseline)
    monkeypatch.setattr(recording, "list_samplers", lambda: ["python_loop", "torch_vectorised"])
    monkeypatch.setattr(recording.suite, "run_suite", lambda s, level, device, kind, real=suite.run_suite: real(s, "few", "cpu", kind))
    monkeypatch.setattr(recording.bench, "compare", lambda samplers, problem, repeats, flush: {s.name: timing(s, problem) for s in samplers})


def test_a_whole_run_on_paper(on_paper, tmp_path, capsys):
    assert cli.main(["gpu", "--out", str(tmp_path), "--repeats", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("PASS ") for line in lines) == 2 and "3 of 3 cases" in lines[1]
    records = recording.recorded("quick_demo", tmp_path)
    assert {r["sampler"] for r in records} == {"python_loop", "torch_vectorised"} and len({r["run_id"] for r in records}) == 1


def test_a_failing_sampler_is_reported_and_not_timed(on_paper, monkeypatch, tmp_path, capsys):
    def load(name):
        if name == "python_loop":
            return load_baseline(name)
        wrong = load_baseline(name)
        monkeypatch.setattr(wrong, "verify", lambda *arguments: arguments[-1].out_tokens.fill_(0), raising=False)
        return wrong
    monkeypatch.setattr(recording, "load_sampler", load)
    assert cli.main(["gpu", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "FAIL torch_vectorised: 0 of 3 cases" in printed and "PASS python_loop" in printed
    assert [r["sampler"] for r in recording.recorded("quick_demo", tmp_path)] == ["python_loop"]


def test_a_kernel_that_does_not_load_does_not_stop_the_others(on_paper, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(recording, "load_sampler", lambda name: load_baseline(name) if name == "python_loop" else 1 / 0)
    assert not recording.record_all(tmp_path)
    assert "FAIL torch_vectorised: ZeroDivisionError" in capsys.readouterr().out and recording.recorded("quick_demo", tmp_path)


def test_what_costs_seconds_a_case_gets_few():
    assert recording.suite_level(load_baseline("torch_compile"), "thorough") == "few"
    assert recording.suite_level(SimpleNamespace(name="flashinfer_chain", own_generator=True), "quick") == "few"
    assert recording.suite_level(load_baseline("python_loop"), "thorough") == "thorough"


def test_nothing_recorded_is_an_empty_list(tmp_path):
    assert recording.recorded("quick_demo", tmp_path) == []
