"""The report's own errors: exact samplers pass, and a bias of just the stated size is caught as often as it says."""
import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from spec_toolkit import alarms, load_sampler
from spec_toolkit.alarms import Alarms, Biased, false_alarms, power
from spec_toolkit.baselines import load_baseline
from spec_toolkit.exact_law import output_law
from spec_toolkit.examine import laws
from spec_toolkit.law import marginal
from spec_toolkit.problem import from_torch

RIGHT = load_baseline("torch_vectorised")


@pytest.mark.parametrize("name, position", [("drafts drawn, 3 ids", None), ("two drafts, 16 ids", 0)])
def test_a_bias_of_the_stated_size_is_caught_in_95_of_100_runs(name, position):
    found = power(RIGHT, name, runs=100, position=position)
    assert found.caught >= 95 and found.draws == 6000 and 0.02 < found.tv < 0.08, str(found)


def test_a_third_of_that_bias_is_not_caught_often():
    """So that the number above says something of its size."""
    arguments, law, stated = alarms._stated("two drafts, 16 ids", "quick", "probs")
    biased = Biased(RIGHT, law, stated.detectable_tv / 3)
    caught = sum(not alarms.law_check(biased, **arguments, draws=6000, alpha=stated.alpha, seed=run << 32) for run in range(20))
    assert caught < 10


@pytest.mark.parametrize("position", [None, 0])
def test_the_bias_is_as_large_as_it_says(position):
    arguments = laws()["one-hot draft, 4 ids"]
    law = output_law(arguments["target_rows"], None, arguments["draft_tokens"])
    biased, count = Biased(RIGHT, law, 0.1, position), 60_000
    problem = from_torch(torch.tensor(arguments["target_rows"]).repeat(count, 1, 1), torch.full((count, 1), 2), seeds=torch.arange(count))
    seen = {}
    for row in biased(problem).out_tokens.tolist():
        sequence = tuple(t for t in row if t >= 0)
        seen[sequence] = seen.get(sequence, 0) + 1 / count
    cells, expected = (marginal(one, position) if position is not None else one for one in (seen, law))
    distance = sum(abs(cells.get(cell, 0) - expected.get(cell, 0)) for cell in {*cells, *expected}) / 2
    assert distance == pytest.approx(0.1, abs=0.006) and {*seen} <= {*law}


def test_a_bias_that_cannot_be():
    with pytest.raises(ValueError, match=r"tv: got 0\.9, accepted: 0 to"):
        Biased(RIGHT, {(0,): 0.5, (1,): 0.3, (2,): 0.2}, 0.9)


def test_exact_samplers_raise_no_alarm():
    found = false_alarms(load_sampler("v1"), runs=4, level="few")
    assert found.failed == {} and found.runs == 4 and found.cases == 24 and len(set(found.p_values)) == 8
    assert "0 of 4 reports of level few failed (expected: 0.0)" in str(found)


def test_a_wrong_one_does_and_the_report_is_kept():
    class Late:
        name, kind, draw, ulps, reports_status, source_hash = "late", "baseline", "cdf", 1.0, False, "l"
        def bind(self, problem):
            call = RIGHT.bind(problem)
            call.recover_u = (call.recover_u + 0.02).clamp(max=1 - 1e-9)
            return call
        def __call__(self, problem):
            return self.bind(problem)()
    found = false_alarms(Late(), runs=2, level="few")
    assert len(found.failed) == 2 and found.failed["0"].startswith("FAIL late") and "seed 1" in str(found)


def test_distance_from_uniform():
    even = Alarms("x", None, "few", "cpu", p_values=list(np.linspace(0.005, 0.995, 100)))
    assert even.distance == pytest.approx(0.005) and Alarms("x", None, "few", "cpu").distance == 0
    assert Alarms("x", None, "few", "cpu", p_values=[p**3 for p in even.p_values]).distance > 0.3


def test_the_commands_write_records_and_go_on(tmp_path, capsys):
    words = ["false", "v1", "--level", "few", "--out", str(tmp_path)]
    for runs in (1, 3):
        assert alarms.main([*words, "--runs", str(runs)]) == 0
    record = json.loads((tmp_path / "v1.json").read_text())
    assert record["runs"] == 3 and len(record["p_values"]) == 6 and record["failed"] == {} and record["source_hash"] == load_sampler("v1").source_hash
    (tmp_path / "v1.json").write_text(json.dumps(record | {"source_hash": "other", "runs": 2}))
    assert alarms.main([*words, "--runs", "1"]) == 0
    assert json.loads((tmp_path / "v1.json").read_text())["runs"] == 1, "another source starts anew"
    code = alarms.main(["power", "--runs", "3", "--level", "few", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "power.json").read_text())["found"]
    assert {one["test"] for one in found} == {"joint", "position 0"} and code == any(one["caught"] < 3 for one in found)
    assert capsys.readouterr().out.count("v1: 0 of") == 3


def test_a_larger_law_states_less():
    sizes = [alarms._stated("two drafts, 16 ids", level, "probs")[2].detectable_tv for level in ("few", "quick", "thorough")]
    assert all(larger > smaller for larger, smaller in pairwise(sizes))
