"""crosscheck.py on paper: the record of the two clocks, and its table."""
import contextlib
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("spec_toolkit.sampler")
from spec_toolkit import bench, crosscheck, make_problem, recording, results
from spec_toolkit.baselines import load_baseline


@pytest.fixture
def paper(monkeypatch):
    """A GPU on paper, where do_bench reads 12 µs for a call and 5 for an empty one, and our clock 10 and 3.5."""
    monkeypatch.setattr(crosscheck.bench, "gpu_of", lambda device: device)
    monkeypatch.setattr(crosscheck.bench, "benchmark", lambda sampler, problem, repeats, flush: bench.Timing(
        sampler.name, True, flush, "run", "now", [10.0], None, [40.0], [9.0] if sampler.name == "torch_vectorised" else [900.0], 1, 1,
        {"stream_read_us": [5.0], "empty_launch_us": [3.5]}))
    testing = ModuleType("triton.testing")
    testing.do_bench = lambda call, return_mode, warmup, rep: 0.005 if call.__name__ == "<lambda>" else 0.012
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setitem(sys.modules, "triton.testing", testing)
    monkeypatch.setattr("torch.cuda.device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(crosscheck, "make_problem", lambda device, **arguments: make_problem(**arguments))
    monkeypatch.setattr(results, "environment", lambda *_: {"gpu": "NVIDIA Paper"})
    monkeypatch.setattr(recording, "load", lambda name: (None if name == "gone" else named(name), False))


def named(name):
    def call():
        return None
    return SimpleNamespace(name=name, source_hash=name, bind=lambda problem: call) if name != "python_loop" else load_baseline(name)


def test_both_clocks_are_recorded_and_shown(paper, tmp_path, capsys):
    path = crosscheck.record(tmp_path, ["torch_vectorised", "slow", "gone"], [{"batch": 2, "draft_len": 1, "vocab": 8}])
    assert path == tmp_path / "paper" / "crosscheck" / "crosscheck.json" and json.loads(path.read_text())["format"] == crosscheck.FORMAT
    ours, slow = crosscheck.load_crosscheck(tmp_path)
    assert ours["ratio"] == pytest.approx(1.2) and ours["difference_us"] == pytest.approx(2) and not ours["issue_bound"] and slow["issue_bound"]
    row = crosscheck.table([ours]).splitlines()[2]
    assert row.startswith("| B=2, K=1, V=8 |") and row.endswith("| torch_vectorised | 10.0 | 12.0 | 2.0 | 3.5 | 5.0 | the GPU |")
    assert row in capsys.readouterr().out and "the host's speed" in crosscheck.table([slow])
    assert results.load_records(tmp_path) == [], "it is no record of an experiment"


def test_the_newest_comparison_is_read(tmp_path):
    assert crosscheck.load_crosscheck(tmp_path) == []
    for gpu, created, compared in (("a", "2026-11-02", [2]), ("b", "2026-11-01", [1])):
        (tmp_path / gpu).mkdir()
        (tmp_path / gpu / "crosscheck.json").write_text(json.dumps({"format": crosscheck.FORMAT, "created": created, "compared": compared}))
    (tmp_path / "crosscheck.json").write_text(json.dumps({"format": "something else", "created": "2027", "compared": [3]}))
    assert crosscheck.load_crosscheck(tmp_path) == [2]
