"""Random problems: right samplers pass, wrong ones shrink to one line that makes the problem again, and the command says so."""
import builtins

import pytest
import torch
from hypothesis import find, settings
from test_examine import Own, Wrong

from spec_toolkit import check, cli, load_sampler, suite
from spec_toolkit import fuzz as module
from spec_toolkit.baselines import load_baseline
from spec_toolkit.defects import MUTANTS
from spec_toolkit.fuzz import NeedsHypothesis, drawn, fuzz, judged
from spec_toolkit.mutant_kernels import load_mutant
from spec_toolkit.problem import ROW_DTYPES

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
RUNGS = [name for name in ("v1", "v2", "v5", "v6")]


@pytest.mark.parametrize("name", RUNGS)
def test_rungs_pass(name):
    found = fuzz(load_sampler(name), 40)
    assert found, str(found)
    assert found.examples >= 40 and f"PASS {name}: " in str(found) and "random problems of probs" in str(found)


@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_a_baseline_passes(kind):
    found = fuzz(load_baseline("torch_vectorised"), 60, kind=kind, seed=1)
    assert found and found.kind == kind, str(found)


@pytest.mark.parametrize("name", ["no residual", "wild id dereferenced", "randomness of the slot", "all requests as long as the longest"])
def test_mutants_do_not_pass_and_the_line_makes_the_problem_again(name):
    sampler = load_mutant(BY_NAME[name], "v1")
    found = fuzz(sampler, 1000)
    assert not found and found.failure and "FAIL" in str(found)
    assert len(found.counterexample.splitlines()) == 1 and found.counterexample in str(found)
    problem = eval(found.counterexample, {"made": suite.made, "torch": torch})
    assert check(load_sampler("v1"), problem)
    if "re-batched" not in found.failure and "out-of-bounds" not in found.failure:
        assert not check(sampler, problem)


def test_a_counterexample_is_small():
    def mistake(problem, outputs):
        if problem.vocab >= 500 and problem.dtype == torch.bfloat16:
            outputs.num_accepted.fill_(99)
    found = fuzz(Wrong(mistake), 400, seed=3)
    words = eval(found.counterexample, {"made": lambda edit=None, **words: words, "torch": torch})
    assert words["vocab"] == 500 and words["batch"] == 1 and words["dtype"] is torch.bfloat16 and words["seed"] == 0


def test_a_failure_that_does_not_come_back_is_reported():
    calls = []
    def mistake(problem, outputs):
        calls.append(problem.vocab)
        if len(calls) == 30:
            outputs.num_accepted.fill_(99)
    found = fuzz(Wrong(mistake), 100, seed=3)
    assert not found and "made(" in found.counterexample and found.failure.endswith("(now and then: the same problem also passed)"), str(found)


def test_blocks_take_turns():
    """A block that writes before it is decided where the request ends is overwritten where blocks run one by one."""
    found = fuzz(load_mutant(BY_NAME["ends at any rejection"], "v10"), 400, seed=1)
    assert not found and "threads interleaved" in found.failure, str(found)


def test_the_same_seed_draws_the_same_problems():
    def seen(seed):
        vocabularies = []
        fuzz(Wrong(lambda problem, outputs: vocabularies.append((problem.vocab, problem.batch))), 15, seed=seed)
        return vocabularies
    assert seen(4) == seen(4) != seen(5)


def test_minutes_go_on_with_other_problems(monkeypatch):
    monkeypatch.setattr(module, "ROUND", 5)
    found = fuzz(load_baseline("torch_vectorised"), minutes=0.03)
    assert found and found.examples > 5 and found.seconds < 20


@pytest.mark.parametrize("kind, wanted", [
    ("probs", lambda pair: pair[1]["dtype"] is torch.float16 and pair[0] == "bad ids"),
    ("probs", lambda pair: max(pair[1]["draft_len"], default=0) > 32 and pair[1]["row_padding"]),
    ("probs", lambda pair: pair[1]["batch"] == 0),
    ("probs", lambda pair: pair[0] == "NaN and inf" and not pair[1]["draft_probs"]),
    ("logits", lambda pair: pair[1].get("draft_lse") and 0.0 in pair[1]["temperature"]),
    ("logits", lambda pair: pair[0] == "greedy ties"),
])
def test_what_is_drawn(kind, wanted):
    edit, arguments = find(drawn(kind), wanted, settings=settings(max_examples=5000, database=None))
    problem = suite.made(edit, **arguments)
    assert problem.kind == kind and problem.dtype in ROW_DTYPES


def test_a_kernel_that_faults_is_a_counterexample():
    assert "out-of-bounds" in judged(load_mutant(BY_NAME["tail one too long"], "v1"), None, {"batch": 2, "draft_len": [1, 0], "vocab": 33, "seed": 1})


def test_what_a_peer_refuses_is_counted():
    found = fuzz(Own(lambda problem, outputs: None), 30)
    assert found and 0 < found.refused < found.examples and f"{found.refused} of them refused" in str(found)


def test_without_hypothesis_it_says_what_to_install(monkeypatch, capsys):
    real = builtins.__import__
    def without(name, *rest):
        if name.split(".")[0] == "hypothesis":
            raise ImportError("no")
        return real(name, *rest)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NeedsHypothesis, match=r"pip install 'spec-toolkit\[dev\]'"):
        fuzz(load_baseline("torch_vectorised"), 1)
    assert cli.main(["fuzz", "v1", "--device", "cpu"]) == 2 and "pip install" in capsys.readouterr().err


def test_the_command(capsys, tmp_path):
    assert cli.main(["fuzz", "v1", "torch_vectorised", "--examples", "10", "--device", "cpu"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["PASS v1", "PASS torch_vectorised"]
    worse = tmp_path / "worse.cu"
    worse.write_text(load_sampler("v1").text.replace("out[accepted] = drawn.token;", "out[accepted] = max(drawn.token, 3);"))
    assert cli.main(["fuzz", "--source", str(worse), "--examples", "100", "--device", "cpu"]) == 1
    assert "problem = made(" in capsys.readouterr().out
    assert cli.main(["fuzz", "v99"]) == 2 and "got 'v99'" in capsys.readouterr().err
