"""The laws of inexact ways, against sampling and against what can be said in closed form; and the notebook that draws them."""
import numpy as np
import pytest
import torch

from spec_toolkit import philox, plot_precision, precision, reference
from spec_toolkit.exact_law import output_law
from spec_toolkit.problem import from_torch


def test_below_counts_the_uniforms_of_the_contract():
    for threshold in (2.0**-24, 2.0**-24 * 1.0001, 0.3, 1 - 2.0**-24, 1.0, 0.0):
        low, high = (int(np.floor(threshold * 2**23)) + shift for shift in (-3, 3))
        k = np.arange(max(low, 0), min(high, 2**23))
        counted = max(low, 0) + int((((k + 0.5) * 2.0**-23) < threshold).sum())
        assert precision.below(threshold, 23) == counted / 2**23
    assert philox.uniform23(0) == 2.0**-24, "the smallest: a threshold there has none below it"
    assert precision.below(2.0**-24, 23) == 0 and precision.below(2.0**-24 * 1.0001, 23) == 2.0**-23


def test_accept_bias_is_bounded_by_half_a_step():
    chances = np.random.default_rng(0).uniform(size=2000)
    for bits in (16, 23, 52):
        assert np.abs(precision.accept_bias(chances, bits) * chances).max() <= 2.0 ** -(bits + 1) * 1.001 + 1e-16
    assert precision.accept_bias(1.0, 23) == 0


def test_cdf_law_against_sampling_all_uniforms():
    weights = np.random.default_rng(1).dirichlet(np.ones(37))
    u = (np.arange(2**12) + 0.5) / 2**12
    counts = np.bincount(np.searchsorted(np.cumsum(weights), u * weights.sum(), side="right"), minlength=37) / 2**12
    assert precision.cdf_law(weights, 12) == pytest.approx(counts, abs=1e-15)
    assert precision.cdf_law(weights, 52).sum() == 1 and precision.total_variation(precision.cdf_law(weights, 52), weights) < 1e-14


def test_race_tail_without_rounding_is_the_mass():
    for tail, ids in ((1e-6, 1), (1e-6, 1000), (0.2, 3)):
        assert precision.race_tail(tail, ids, None) == pytest.approx(tail, rel=1e-3)
        assert precision.race_tail(tail, ids, 52) == pytest.approx(tail, rel=1e-3)


@pytest.mark.parametrize("tail, ids, bits, added", [(0.3, 4, 4, 0.0), (0.3, 4, 52, 0.3), (0.05, 20, 6, 0.0)])
def test_race_tail_against_sampling(tail, ids, bits, added):
    random, draws = np.random.default_rng(2), 200_000
    noise = lambda shape, steps: -np.log1p(-((random.integers(0, steps, shape) + 0.5) / steps)) + added
    first, others = noise(draws, 2**40), noise((draws, ids), 2 ** min(bits, 40)).min(1)
    measured = float((others / (tail / ids) < first / (1 - tail)).mean())
    assert precision.race_tail(tail, ids, bits, added) == pytest.approx(measured, abs=4 * (measured / draws) ** 0.5 + 1e-4)


def test_what_the_tail_figure_says():
    assert precision.race_tail(1e-6, 100_000, 24) == 0 and precision.race_tail(1e-6, 10_000, 52, 1e-9) < 1e-10


def test_summed_law():
    row = precision.flat_row(5000)
    assert precision.total_variation(precision.summed_law(row, "float64"), row) < 1e-12
    assert 1e-8 < precision.total_variation(precision.summed_law(row, "float32"), row) < 1e-3
    half = precision.summed_law(row, "float16")
    assert precision.total_variation(half, row) > 0.1 and (half == 0).mean() > 0.1, "the sum stops growing"


def test_stored_rows():
    row = np.array([0.3, 0.7])
    assert precision.stored(row, "float16") == pytest.approx(row, abs=5e-4) and precision.stored(row, "float16")[0] != 0.3
    logits = precision.stored(row, "bfloat16", logits=True)
    assert logits.sum() == pytest.approx(1, abs=1e-15) and logits != pytest.approx(row, abs=1e-6)


def test_step_law_against_enumeration():
    target, draft = precision.peaked_rows(6, seed=3)
    law = output_law([target, target], [draft])
    first = [sum(p for sequence, p in law.items() if sequence[0] == token) for token in range(6)]
    found = precision.step_law(target, draft, draft)
    assert found == pytest.approx(first, abs=1e-12) and found == pytest.approx(target, abs=1e-15)
    other = precision.step_law(target, draft, np.full(6, 1 / 6))
    assert precision.total_variation(other, target) > 1e-3, "drafts from another row than the test divides by"


def test_step_law_against_the_reference():
    """The same, drawn: 20,000 requests of the reference with drafts from a row that is not the one they are tested with."""
    target, draft = (row.astype(np.float32) for row in precision.peaked_rows(5, seed=4))
    count, drafted = 20_000, np.full(5, 0.2)
    tokens = np.random.default_rng(5).integers(0, 5, (count, 1))
    problem = from_torch(torch.tensor(np.stack([target, target])).repeat(count, 1, 1), torch.tensor(tokens),
                         torch.tensor(draft[None]).repeat(count, 1, 1), seeds=torch.arange(count))
    first = reference(problem).out_tokens[:, 0].numpy()
    assert np.bincount(first, minlength=5) / count == pytest.approx(precision.step_law(target.astype(float), draft.astype(float), drafted), abs=0.015)


def test_storages_say_what_the_notebook_says():
    found = precision.storages(2000)
    assert len(found) == 6
    for name, measured in found.items():
        row, before, from_stored = measured.values()
        assert from_stored < before / 5 and row > 0, name
    assert found["bfloat16 logits"]["a step whose draft was drawn before rounding"] > 1e-4
    assert found["bfloat16 logits"]["a step whose draft was drawn from the stored row"] < 1e-14


def test_figures():
    charts = [plot_precision.uniforms(vocabs=(8, 64)), plot_precision.tail(1e-3, (1, 10)), plot_precision.dots(precision.storages(50))]
    for chart in charts:
        assert chart._repr_png_().startswith(b"\x89PNG") and chart.legends
    labels = [text.get_text() for text in charts[0].legends[0].get_texts()]
    assert labels == ["16 bits", "23 bits (accept tests here)", "24 bits", "52 bits (draws here)"]


def test_notebook(tmp_path):
    pytest.importorskip("papermill")
    from test_notebooks import printed

    from spec_toolkit import runs
    made = runs.run_notebook("precision", {"vocab": 500}, out=tmp_path, progress=False)
    text = printed(made.notebook)
    assert "FAIL" not in text and text.count("PASS") >= 24 and "23 bits for an accept test and 52 for a draw" in text
    assert {"precision_uniforms.png", "precision_tail.png", "precision_rows.png"} <= {path.name for path in made.figures}
