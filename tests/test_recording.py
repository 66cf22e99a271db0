"""The gpu command on paper: what it refuses, records, leaves out, passes over, and that one failure loses nothing else."""
import functools
import inspect
import tarfile
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("spec_toolkit.sampler")
from spec_toolkit import bench, cli, make_problem, recording, results, suite
from spec_toolkit.baselines import load_baseline
from spec_toolkit.check import check
from spec_toolkit.experiments import Experiment, grid
from spec_toolkit.peers import PeerMissing

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_gpu
@pytest.mark.parametrize("command", ["gpu", "crosscheck"])
def test_without_a_gpu_it_refuses(command, tmp_path, capsys):
    assert cli.main([command, "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert f"spec-toolkit {command}: times need a CUDA GPU" in said.err and not said.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words, said", [(["--samplers", "python_loop", "v99"], "samplers: got v99, accepted: "),
                                         (["--experiments", "lader"], "experiments: got lader, accepted: quick_demo")])
def test_unknown_names_are_answered_with_the_right_ones(words, said, capsys):
    assert cli.main(["gpu", *words]) == 2
    assert said in capsys.readouterr().err


class Picky:
    """A peer that takes one draft length of 2 or more, as some do."""
    name, kind, draw, ulps, reports_status, own_generator, source_hash = "picky", "peer", "cdf", 1.0, False, True, "picky 1"

    def bind(self, problem):
        if set(problem.draft_len) != {2}:
            raise ValueError(f"picky: got draft lengths {problem.draft_len}, accepted: 2")
        return load_baseline("torch_vectorised").bind(problem)


def timing(sampler, problem, flush, run):
    limits = {"stream_read_us": [5.0], "empty_launch_us": [3.0]}
    result = SimpleNamespace(to_dict=lambda: {"passed": True}) if sampler.name == "picky" else check(sampler, problem)
    return bench.Timing(sampler.name, result, flush, run, f"2026-11-24T00:00:{len(run):02}+00:00", [8.0], None, [90.0, 91.0], [80.0, 81.0], 1000, 1, limits)


class Verdict:
    explained = ()

    def __init__(self, passed):
        self.passed = passed

    def __bool__(self):
        return self.passed


NAMES = ("python_loop", "torch_vectorised", "picky")


@pytest.fixture
def paper(monkeypatch):
    """A machine that believes it has a GPU: problems stay on the CPU, times are made up. Returns the calls of compare."""
    compared = []

    @functools.wraps(make_problem)
    def made(device, **arguments):
        problem = make_problem(**arguments)
        problem.spec["device"] = device
        return problem

    def compare(samplers, problem, repeats, flush, seconds):
        compared.append(([s.name for s in samplers], problem.spec["draft_len"], repeats, flush, seconds))
        return {s.name: timing(s, problem, flush, "r" * len(compared)) for s in samplers}
    monkeypatch.setattr(recording, "EXPERIMENTS", {
        "small": Experiment(grid(batch=3, draft_len=(2, 0), vocab=40), NAMES, repeats=7, seconds=0.5, flushes=("read", "write"))})
    monkeypatch.setattr(recording.bench, "gpu_of", lambda device: device)
    monkeypatch.setattr(recording.torch.cuda, "get_device_name", lambda *_: "paper")
    monkeypatch.setattr(results, "environment", lambda *_: {"gpu": "paper"})
    monkeypatch.setattr(recording, "make_problem", made)
    monkeypatch.setattr(recording, "load_sampler", lambda name: Picky() if name == "picky" else load_baseline(name))
    monkeypatch.setattr(recording.suite, "run_suite", lambda s, level, device, kind: suite_cases(s))
    monkeypatch.setattr(recording.suite, "check_each", lambda samplers, problem: [Verdict(True)])
    monkeypatch.setattr(recording.bench, "compare", compare)
    return compared


def suite_cases(sampler, real=suite.run_suite):
    return [] if sampler.name == "picky" else real(sampler, "few", "cpu", "probs")


def test_a_whole_run(paper, tmp_path, capsys):
    assert cli.main(["gpu", "--out", str(tmp_path), "--archive", str(tmp_path / "r.tar.gz")]) == 0
    lines, few = capsys.readouterr().out.splitlines(), len(suite.listed("few", "probs"))
    assert sum(line.startswith("PASS ") for line in lines) == 3 and f"{few} of {few} cases" in lines[1] and "PASS picky: 1 of 1 cases" in lines[3]
    assert lines[4].startswith("small 1/4 B=3 K=2 V=40 read 0.0 MB limit 5.0 µs: python_loop 8.0, torch_vectorised 8.0, picky 8.0 [")
    assert "K=0 V=40 write" in lines[7] and "left out: picky" in lines[7]
    assert paper == [(list(NAMES), 2, 7, "read", 0.5), (list(NAMES), 2, 7, "write", 0.5),
                     (list(NAMES[:2]), 0, 7, "read", 0.5), (list(NAMES[:2]), 0, 7, "write", 0.5)]
    records = results.load_records(tmp_path)
    assert len(records) == 10 and [r["left_out"] for r in records if r["problem"]["draft_len"] == 2] == [{}] * 6
    assert all("accepted: 2" in r["left_out"]["picky"] for r in records if r["problem"]["draft_len"] == 0)
    with tarfile.open(tmp_path / "r.tar.gz") as tar:
        assert len(tar.getnames()) == 10


def test_resume_passes_over_what_is_recorded_as_it_is_today(paper, monkeypatch, tmp_path, capsys):
    assert recording.record_all(tmp_path, stop_after=1e-9) is False
    assert not paper and "4 problems left: --resume" in capsys.readouterr().out
    assert recording.record_all(tmp_path, repeats=3) and len(paper) == 4 and paper[0][2] == 3
    assert recording.record_all(tmp_path, resume=True) and len(paper) == 4 and "0 problems to time" in capsys.readouterr().out
    monkeypatch.setattr(Picky, "source_hash", "picky 2")
    assert recording.record_all(tmp_path, resume=True) and len(paper) == 4, "another version of a peer's library"
    monkeypatch.setattr(Picky, "own_generator", False)
    assert recording.record_all(tmp_path, resume=True) and [call[1] for call in paper[4:]] == [2, 2], "only where picky is not left out"
    monkeypatch.setattr(recording.torch.cuda, "get_device_name", lambda *_: "another")
    assert recording.record_all(tmp_path, resume=True) and len(paper) == 10


def test_the_spec_of_a_cell_is_what_its_record_says():
    arguments = {"batch": 2, "draft_len": 1, "vocab": 9, "dtype": torch.bfloat16, "row_padding": 1}
    said = recording.Cell("x", 1, 1, arguments, "read")
    assert said.spec | {"device": "cpu"} == make_problem(**arguments).spec and str(said) == "x 1/1 B=2 K=1 V=9 bfloat16 row_padding 1 read"
    assert set(said.spec) == set(inspect.signature(make_problem).parameters)


def test_a_problem_that_pytorch_cannot_compile_for_is_timed_without_that():
    def refusing(error):
        raise error
    compiled, kernel = (SimpleNamespace(name=name, bind=lambda _: refusing(RuntimeError("torch.compile failed: InductorError")))
                        for name in ("torch_compile", "v1"))
    ready, left_out = recording.fitting([compiled, kernel], problem=None)
    assert ready == [kernel] and left_out == {"torch_compile": "RuntimeError: torch.compile failed: InductorError"}
    with pytest.raises(ValueError, match="a fault"):
        recording.fitting([SimpleNamespace(name="torch_compile", bind=lambda _: refusing(ValueError("a fault")))], problem=None)


def test_a_sampler_that_fails_the_suite_is_not_timed(paper, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(recording.suite, "run_suite", lambda s, *_: [("case", Verdict(s.name != "torch_vectorised"))])
    assert cli.main(["gpu", "--out", str(tmp_path)]) == 1
    assert "FAIL torch_vectorised: 0 of 1 cases" in capsys.readouterr().out
    assert {name for names, *_ in paper for name in names} == {"python_loop", "picky"} and len(paper) == 4


def test_a_sampler_that_fails_on_one_problem_leaves_the_others_their_times(paper, monkeypatch, tmp_path, capsys):
    def compare(samplers, problem, repeats, flush, seconds, good=recording.bench.compare):
        if flush == "write" and any(s.name == "python_loop" for s in samplers):
            raise bench.UncheckedSampler("python_loop", "python_loop is not timed: wrong")
        return good(samplers, problem, repeats, flush, seconds)
    monkeypatch.setattr(recording.bench, "compare", compare)
    assert recording.record_all(tmp_path) is False
    assert capsys.readouterr().out.count("  FAIL python_loop is not timed: wrong") == 2
    assert [(r["sampler"], r["flush"]) for r in results.load_records(tmp_path) if r["sampler"] == "python_loop"] == [("python_loop", "read")] * 2
    assert sum(r["sampler"] == "torch_vectorised" for r in results.load_records(tmp_path)) == 4
    before = len(paper)
    assert recording.record_all(tmp_path, resume=True) is False and len(paper) == before + 2, "a failure is tried again, a refusal is not"


def test_a_cell_that_raises_does_not_stop_the_others(paper, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(recording.results, "record", lambda *a, real=results.record: 1 / 0 if a[2].spec["draft_len"] == 2 else real(*a))
    assert recording.record_all(tmp_path) is False
    assert "FAIL small 1/4 B=3 K=2 V=40 read: ZeroDivisionError" in capsys.readouterr().out and len(results.load_records(tmp_path)) == 4


@pytest.mark.parametrize("error, fine", [(PeerMissing("picky is not installed"), True), (ZeroDivisionError("x"), False)])
def test_a_sampler_that_does_not_load_does_not_stop_the_others(paper, monkeypatch, tmp_path, capsys, error, fine):
    def load(name):
        if name == "picky":
            raise error
        return load_baseline(name)
    monkeypatch.setattr(recording, "load_sampler", load)
    assert recording.record_all(tmp_path) is fine and len(paper) == 4
    assert ("picky is left out: picky is not installed" if fine else "FAIL picky: ZeroDivisionError") in capsys.readouterr().out


def test_many_shapes_are_compiled_ahead(paper, monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(recording, "compile_ahead", lambda problems: asked.append(problems) or {0: "why"})
    monkeypatch.setattr(recording, "EXPERIMENTS", {"e": Experiment(grid(batch=(1, 2, 3, 4), draft_len=1, vocab=8), ("torch_compile", "torch_vectorised"))})
    monkeypatch.setattr(recording, "load_sampler", lambda name: SimpleNamespace(name=name, source_hash=name) if name == "torch_compile" else load_baseline(name))
    monkeypatch.setattr(recording.suite, "run_suite", lambda *_: [])
    monkeypatch.setattr(recording, "_timed", lambda *_: True)
    assert recording.record_all(tmp_path) and [p["batch"] for p in asked[0]] == [1, 2, 3, 4]
    assert "torch_compile compiled for 3 of 4 shapes" in capsys.readouterr().out
    monkeypatch.setattr(recording, "EXPERIMENTS", {"e": Experiment(grid(batch=(1, 2), draft_len=1, vocab=8), ("torch_compile",))})
    assert recording.record_all(tmp_path) and len(asked) == 1


def test_what_costs_seconds_a_case_gets_few():
    assert recording.suite_level(load_baseline("torch_compile"), "thorough") == "few"
    assert recording.suite_level(SimpleNamespace(name="flashinfer_chain", own_generator=True), "quick") == "few"
    assert recording.suite_level(load_baseline("python_loop"), "thorough") == "thorough"


def test_notebooks_are_told_where_the_times_are_from(paper, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("spec_toolkit.paths.results_dir", lambda: tmp_path / "results")
    monkeypatch.setattr("spec_toolkit.readme.current_hashes", lambda: {"python_loop": "edited", "torch_vectorised": None, "picky": "picky 1"})
    assert recording.times_of("small", tmp_path / "out", record=not torch.cuda.is_available()) == []
    assert "`spec-toolkit gpu --experiments small`" in capsys.readouterr().out
    recording.record_all(tmp_path / "results")
    capsys.readouterr()
    assert len(recording.times_of("small", tmp_path / "out")) == 10 and not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    assert "small: recorded on paper, 10 records" in said and said.endswith("older than today's source: python_loop\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert len(recording.times_of("small", tmp_path / "out", record=True)) == 10 and (tmp_path / "out").is_dir()
    assert "small: timed now on paper" in capsys.readouterr().out


def test_nothing_recorded_is_an_empty_list(tmp_path):
    assert recording.recorded("quick_demo", tmp_path) == []
