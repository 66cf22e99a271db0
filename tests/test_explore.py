"""The sliders and the figures of one step: what they draw is what the sampler does and what the records say."""
import pytest

pytest.importorskip("ipywidgets")
import torch
from made_up import record

from spec_toolkit import bench, load_sampler, make_problem, plot, plot_step, step
from spec_toolkit.explore import Explorer, nearest

RECORDS = [record(name, us * batch, batch=batch, draft_len=k, vocab=vocab, experiment="grid")
           for batch in (1, 64) for k in (1, 8) for vocab in (32000, 128256) for name, us in (("v1", 900.0), ("v7", 6.0), ("flashinfer_chain", 60.0))]
RECORDS += [record("python_loop", None, batch=64, draft_len=8, vocab=32000, call_us=5000.0, experiment="grid")]


@pytest.fixture
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_nearest_recorded_problem():
    at = lambda *sizes: {(r["problem"]["batch"], r["problem"]["draft_len"], r["problem"]["vocab"]) for r in nearest(RECORDS, *sizes)}
    assert at(2, 32000, 8) == {(1, 8, 32000)} and at(32, 151936, 8) == {(64, 8, 128256)} and at(64, 32000, 1) == {(64, 1, 32000)}
    assert {r["sampler"] for r in nearest(RECORDS, 64, 32000)} == {"v1", "v7", "flashinfer_chain"} and nearest([], 1, 1) == []


def test_a_slider_changes_the_picture(on_the_cpu):
    explorer = Explorer(load_sampler("v1"), RECORDS, batch=4, vocab=4096, draft_len=3)
    assert explorer.children[:4] == (explorer.batch, explorer.vocab, explorer.acceptance, explorer.picture)
    first, said = explorer.picture.value, explorer.sentence.value
    assert bytes(first).startswith(b"\x89PNG") and "Recorded on NVIDIA Paper: B=1, K=1, V=32,000" in said
    explorer.acceptance.value = 1.0
    assert explorer.picture.value != first and "4.00 tokens for each request" in explorer.sentence.value  # all 3 accepted, and the bonus
    second = explorer.picture.value
    explorer.batch.value = 64
    assert explorer.picture.value != second and "B=64, K=1" in explorer.sentence.value and explorer.problem.batch == 16


def test_without_records_there_are_no_times_and_a_failure_is_said(on_the_cpu):
    explorer = Explorer(load_sampler("v1"), batch=2, vocab=1024, draft_len=2)
    before = explorer.picture.value
    assert "No GPU here and no record to show" in explorer.sentence.value

    class Broken:
        name, input = "broken", "probs"

        def __call__(self, problem):
            raise torch.OutOfMemoryError("tried to allocate <4 GB>")
    explorer.sampler = Broken()
    explorer.batch.value = 4
    assert "<b>OutOfMemoryError</b>: tried to allocate &lt;4 GB&gt;" in explorer.sentence.value and explorer.picture.value == before


def test_on_a_gpu_the_setting_is_timed(on_the_cpu, monkeypatch):
    """The path of a GPU machine, with made-up times in the place of the clock."""
    from spec_toolkit import check
    asked = []

    def compare(samplers, problem, repeats, seconds):
        asked.append((problem.batch, problem.vocab))
        limits = {"stream_read_us": [5.0], "empty_launch_us": [3.0]}
        return {s.name: bench.Timing(s.name, check(s, problem), "read", "run", "2026-11-24T00:00:00+00:00", [10.0], None, [50.0], [9.0], 10, 1, limits) for s in samplers}
    monkeypatch.setattr(bench, "compare", compare)
    monkeypatch.setattr("spec_toolkit.results.environment", lambda *_: {"gpu": "NVIDIA Paper", "torch": "2", "git": None})
    explorer = Explorer(load_sampler("v1"), others=["torch_vectorised"], batch=2, vocab=1024, draft_len=2)
    explorer.device = "cuda"
    monkeypatch.setattr("spec_toolkit.explore.make_problem", lambda *a, device, **k: make_problem(*a, **k))
    explorer.vocab.value = 4096
    assert asked == [(2, 4096)] and "Timed now: B=2, K=2, V=4,096, NVIDIA Paper" in explorer.sentence.value


def test_shares_of_a_step():
    assert step.share(1000, 1) == 0.5 and step.share(10, 1) == pytest.approx(10 / 1010)
    assert step.share(10, step.matters_below(10)) == pytest.approx(step.PART)
    here = [r for r in RECORDS if r["problem"]["batch"] == 64 and r["problem"]["vocab"] == 32000 and r["problem"]["draft_len"] == 8]
    text = step.table(here, (1, 60))
    assert "| v7 | 384 | 28% | 0.64% | 38 |" in text and "| python_loop (whole call) | 5,000 | 83% | 7.7% |" in text
    chart = plot_step.shares(here)
    captured, eager = chart.axes
    named = lambda axes: [line.get_label() for line in axes.lines if not line.get_label().startswith("_")]
    assert named(captured) == ["v1", "v7", "flashinfer_chain"] and named(eager) == ["v1", "v7", "flashinfer_chain", "python_loop"]
    line = next(line for line in captured.lines if line.get_label() == "v7")
    assert line.get_xdata()[0] == 1 and line.get_ydata()[0] == pytest.approx(100 * step.share(384, 1)) and "NVIDIA Paper" in chart.caption_text
    with pytest.raises(ValueError, match="hold 8"):
        plot_step.shares(RECORDS)


def test_how_long_a_step_must_be():
    chart = plot_step.matters([r for r in RECORDS if r["problem"]["vocab"] == 32000 and r["problem"]["draft_len"] == 8])
    line = next(line for line in chart.axes[0].lines if line.get_label() == "v7")
    assert list(line.get_xdata()) == [1, 64] and line.get_ydata()[0] == pytest.approx(step.matters_below(6.0))
    with pytest.raises(ValueError, match="several records at the same batch"):
        plot_step.matters(RECORDS)


def test_what_a_step_did():
    chart, (left, right) = plot_step.panels()
    plot_step.outcome(left, [3] * 40, [0, 1, 3] + [2] * 37)
    assert left.get_title() == f"{4 + 74 + 40} tokens for 40 requests" and len(left.patches) == 3 * plot_step.LEADING
    plot_step.race(right, nearest(RECORDS, 64, 32000), "here", "v7")
    colours = {text.get_text(): patch.get_facecolor() for text, patch in zip(right.get_yticklabels(), right.patches)}
    assert list(colours) == ["v1", "v7", "flashinfer_chain"] and len({colours["v1"], colours["v7"]}) == 2
    assert isinstance(chart, plot.Chart)
    with pytest.raises(ValueError, match="no records"):
        plot_step.race(right, [])
