"""experiments.py: arguments that problems can be made of, and which samplers each takes."""
from types import SimpleNamespace

import pytest

pytest.importorskip("spec_toolkit.sampler")
from spec_toolkit import experiments, make_problem
from spec_toolkit.experiments import EXPERIMENTS, Experiment, grid


def test_grid():
    assert grid(batch=(1, 4), vocab=(10, 20), draft_len=[2, 3]) == [
        {"batch": b, "vocab": v, "draft_len": [2, 3]} for b in (1, 4) for v in (10, 20)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_make_problems(name):
    experiment = EXPERIMENTS[name]
    assert experiment.problems and "device" not in str(experiment.problems) and len(experiment.kinds) == 1
    assert len({str(arguments) for arguments in experiment.problems}) == len(experiment.problems)
    for arguments in experiment.problems:  # the same arguments, small
        made = make_problem(**arguments | {"vocab": 40, "batch": 2, "draft_len": min(2, arguments["draft_len"])})
        assert made.kind in experiment.kinds
    assert experiment.names() and len(set(experiment.names())) == len(experiment.names())


@pytest.fixture
def five_kernels(monkeypatch):
    """v3 reads logits; v4 cannot be read."""
    def load(name):
        if name == "v4":
            raise experiments.ContractError("no contract")
        return SimpleNamespace(name=name, input="logits" if name == "v3" else "probs")
    monkeypatch.setattr(experiments, "list_kernels", lambda: ["v1", "v2", "v3", "v4", "v5"])
    monkeypatch.setattr(experiments, "load_sampler", load)


def test_rungs_are_told_apart_by_what_they_take(five_kernels):
    assert experiments.rungs("probs") == ["v1", "v2", "v4", "v5"] and experiments.rungs("logits") == ["v3", "v4"]
    assert experiments.best_rung("probs") == "v5"


def test_no_rung_is_said(monkeypatch):
    monkeypatch.setattr(experiments, "list_kernels", list)
    with pytest.raises(ValueError, match="kind='logits'"):
        experiments.best_rung("logits")


def test_an_experiment_takes_its_samplers_and_no_other_kind(five_kernels):
    made = Experiment(grid(batch=1, draft_len=2, vocab=10), ("best", "v1", "baselines", "v3"))
    assert made.names() == ["v5", "v1", "python_loop", "torch_vectorised", "torch_compile", "v3"]
    for sampler, taken in (("v5", True), ("v1", True), ("v3", False), ("v2", False)):
        assert made.takes(experiments.load_sampler(sampler)) is taken
    assert made.takes(SimpleNamespace(name="python_loop"))  # a baseline takes both kinds
    logits = Experiment(grid(batch=1, draft_len=2, vocab=10, logits=True), ("rungs", "python_loop"))
    assert logits.takes(experiments.load_sampler("v3")) and logits.takes(SimpleNamespace(name="python_loop"))
    assert not logits.takes(experiments.load_sampler("v5")) and not logits.takes(SimpleNamespace(name="softmax+v5", input="logits"))


def test_the_grid_is_the_one_that_must_be_shown():
    assert len(EXPERIMENTS["grid"].problems) == 75 and {"flashinfer_chain", "transformers", "torch_compile", "torch_vectorised"} <= set(EXPERIMENTS["grid"].names())
    assert {(p["batch"], p["vocab"]) for p in EXPERIMENTS["batch_scaling"].problems} >= set(experiments.SEED_BATCHES)
    assert {(p["batch"], p["vocab"]) for p in EXPERIMENTS["vocab_scaling"].problems} >= set(experiments.SEED_VOCABS)
