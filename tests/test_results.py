"""results.py: what a record holds, where it lies, that it is whole, and when it is stale."""
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spec_toolkit import results


class Check:
    def __init__(self, passed=True):
        self.passed = passed

    def __bool__(self):
        return self.passed

    def to_dict(self):
        return {"passed": self.passed, "exact": np.int64(4), "failures": []}


def problem(**changes):
    spec = {"batch": 4, "draft_len": 8, "vocab": 32000, "acceptance": 0.7, "shape": "zipf", "seed": 0} | changes
    return SimpleNamespace(batch=4, draft_len=[8] * 4, vocab=spec["vocab"], dtype=torch.float32, kind="probs", acceptance=0.7012345,
                           draft=object(), spec=spec, device=torch.device("cpu"))


SAMPLER = SimpleNamespace(name="v1", kind="kernel", draw="cdf", source_hash="abc")
TIMING = SimpleNamespace(run_id="r1", created="2026-11-23T00:00:00+00:00", flush="read", bytes=123, rejected=3, gpu_us=[1.0, 2.0, 3.00049],
                         gpu_us_missing=None, call_us=[10.0] * 3, host_us=[5.0] * 3,
                         bind_us=[150.0, 160.0], left_out={"peer": "ValueError: K"}, limits={"stream_read_us": [4.0, 5.0], "empty_launch_us": [3.5], "stream_read_bytes": 123})


def test_a_record_holds_the_problem_the_check_and_every_sample(tmp_path):
    path = results.record("quick_demo", SAMPLER, problem(), Check(), TIMING, out=tmp_path)
    assert path.parent == tmp_path / "cpu" / "quick_demo" and path.name.startswith("v1-b4-k8-v32000-float32-read-")
    data = json.loads(path.read_text())
    assert data["gpu_us_median"] == 2 and data["gpu_us_p10"] == 1.2 and data["gpu_us_samples"] == [1, 2, 3]
    assert data["bind_us_median"] == 155 and data["left_out"] == {"peer": "ValueError: K"}
    assert data["limits"] == {"stream_read_us_median": 4.5, "stream_read_us_p10": 4.1, "stream_read_us_p90": 4.9,
                              "stream_read_us_samples": [4, 5], "empty_launch_us_median": 3.5, "empty_launch_us_p10": 3.5,
                              "empty_launch_us_p90": 3.5, "empty_launch_us_samples": [3.5], "stream_read_bytes": 123}
    assert data["problem"] | {"spec": 0} == {
        "batch": 4, "draft_len": 8, "vocab": 32000, "dtype": "float32", "kind": "probs", "draft_rows": True, "seed": 0, "shape": "zipf",
        "acceptance_requested": 0.7, "acceptance_measured": 0.7012, "rejected": 3, "spec": 0}
    assert data["check"]["exact"] == 4 and data["run_id"] == "r1" and data["source_hash"] == "abc"
    assert {"gpu", "driver", "cuda", "cupy", "torch", "python", "git"} <= set(data["environment"])
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_without_a_gpu_the_check_is_recorded_and_the_times_are_none(tmp_path):
    data = json.loads(results.record("demo", SAMPLER, problem(), Check(), out=tmp_path).read_text())
    assert data["gpu_us_median"] is None and data["call_us_samples"] is None and data["limits"] == {} and data["gpu_us_missing"] == "not timed"


def test_same_problem_same_file_other_problem_or_flush_another(tmp_path):
    first = results.record("demo", SAMPLER, problem(), Check(), TIMING, out=tmp_path)
    assert results.record("demo", SAMPLER, problem(), Check(), TIMING, out=tmp_path) == first
    dirty = SimpleNamespace(**vars(TIMING) | {"flush": "write"})
    others = {results.record("demo", SAMPLER, problem(seed=1), Check(), TIMING, out=tmp_path),
              results.record("demo", SAMPLER, problem(), Check(), dirty, out=tmp_path)}
    assert len(others | {first}) == 3


def test_no_time_without_a_pass(tmp_path):
    with pytest.raises(ValueError, match="v1.*passed check"):
        results.record("demo", SAMPLER, problem(), Check(False), TIMING, out=tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = results.record("demo", SAMPLER, problem(), Check(), TIMING, out=tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(results.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        results.write_atomically(path, "{}")
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_load_marks_stale_records_and_passes_other_json_over(tmp_path):
    results.record("demo", SAMPLER, problem(), Check(), TIMING, out=tmp_path)
    results.record("other", SAMPLER, problem(), Check(), TIMING, out=tmp_path)
    (tmp_path / "notes.json").write_text("[]")
    assert len(results.load_records(tmp_path)) == 2 and not results.load_records(tmp_path)[0].stale
    (loaded,) = results.load_records(tmp_path, "demo", {"v1": "abc"})
    assert not loaded.stale and loaded.path.exists() and "2.0 µs" in repr(loaded)
    for hashes, stale in (({"v1": "new"}, True), ({}, True), ({"v1": None}, False)):
        assert results.load_records(tmp_path, "demo", hashes)[0].stale is stale
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="broken.json"):
        results.load_records(tmp_path)


@pytest.mark.parametrize("name, folder", [("NVIDIA H200", "h200"), ("NVIDIA GeForce RTX 3060", "rtx-3060"), ("NVIDIA", "gpu"),
                                          ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb")])
def test_gpu_folder(name, folder):
    assert results.slug(name) == folder


def test_spread_and_ragged_problems():
    assert results.spread(range(11)) == {"median": 5.0, "p10": 1.0, "p90": 9.0}
    ragged = problem()
    ragged.draft_len = [0, 3, 8, 1]
    described = results.describe_problem(ragged)
    assert described["draft_len"] == [0, 3, 8, 1] and results.problem_slug(described, None).startswith("b4-k0to8-v32000-float32-check-")
    ragged.draft_len = []
    assert results.problem_slug(results.describe_problem(ragged), "read").startswith("b4-k0-")


def test_a_record_is_short_text_that_reads_back_the_same():
    value = {"samples": [1.25, -2.0, 3e-07], "text": "[ 1, 2 ]", "empty": [], "words": ["a", "b"], "deep": {"more": [1]}}
    text = results.to_text(value)
    assert json.loads(text) == value and '"samples": [1.25, -2.0, 3e-07],' in text.splitlines()[1]


def test_an_archive_holds_every_record_under_its_folder(tmp_path):
    results.record("demo", SAMPLER, problem(), Check(), TIMING, out=tmp_path / "results")
    (tmp_path / "results" / "figure.png").write_bytes(b"not packed")
    assert results.archive(tmp_path / "results", tmp_path / "back" / "r.tar.gz") == 1
    with tarfile.open(tmp_path / "back" / "r.tar.gz") as tar:
        (name,) = tar.getnames()
        assert name.startswith("results/cpu/demo/v1-b4-") and json.load(tar.extractfile(name))["run_id"] == "r1"
