"""softmax + a sampler of probabilities: the rows it writes, the answers it gives, what it refuses; and that its check can fail."""
import pytest
import torch

from spec_toolkit import check, make_problem
from spec_toolkit.baselines import BASELINES, load_baseline
from spec_toolkit.composed import Composed, Side, composed_hashes, list_composed, load_composed
from spec_toolkit.problem import from_torch

NAN, INF = float("nan"), float("inf")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def sampler():
    return Composed(load_baseline("torch_vectorised"))


def logits_problem(**changes):
    return make_problem(**{"batch": 4, "draft_len": [3, 0, 2, 4], "vocab": 200, "logits": True, "temperature": [0.0, 1.0, 0.5, 2.0],
                           "row_padding": 3, "seed": 6} | changes)


PROBLEMS = {"mixed": {}, "all one": {"temperature": 1.0}, "greedy": {"temperature": 0.0}, "bfloat16": {"dtype": torch.bfloat16},
            "bfloat16, all one": {"dtype": torch.bfloat16, "temperature": 1.0}, "float16": {"dtype": torch.float16, "temperature": 0.7},
            "one-hot": {"draft_probs": False}, "lse": {"draft_lse": True}, "lse, bfloat16, all one":
            {"draft_lse": True, "dtype": torch.bfloat16, "temperature": 1.0}, "no drafts": {"draft_len": 0}, "vocab 1": {"vocab": 1},
            "empty": {"batch": 0, "draft_len": 0, "temperature": 1.0}}


@pytest.mark.parametrize("name", PROBLEMS)
def test_rows_and_answers(sampler, name):
    problem = logits_problem(**PROBLEMS[name])
    call, expected = sampler.bind(problem), problem.probs()
    for side in call.sides:
        side.probs.fill_(NAN)
    call()
    for side, rows in zip(call.sides, (expected.target_probs, expected.draft_probs)):
        torch.testing.assert_close(side.probs, rows, rtol=2e-5, atol=1e-37)
    result = check(sampler, problem)
    assert result and result.sampler == "softmax+torch_vectorised", result


@pytest.mark.parametrize("heat", [1.0, 0.0, 0.25, 2.0**-126])
def test_awkward_rows(heat):
    rows = torch.tensor([[1.0, 3, 3], [-INF, 0, 0], [NAN, 0, 0], [0, INF, 0], [-INF, -INF, -INF], [1e30, 1e30, -1e30],
                         [3e38, 0, -3e38], [-3e38, -3e38, -INF]])
    problem = from_torch(rows[:, None], torch.empty(8, 0, dtype=torch.int32), kind="logits", temperature=heat)
    side = Side(rows, problem.temperature)
    side()
    torch.testing.assert_close(side.probs, problem.probs().target_probs, equal_nan=True)
    assert side.probs[2:5].isnan().all()


def test_awkward_rows_by_their_normaliser():
    rows = torch.tensor([[0.0, 2, -INF], [0, NAN, 2], [0, INF, 2], [-INF] * 3, [800, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 5, 5]])
    heat, lse = torch.tensor([2.0] * 8 + [0.0]), torch.tensor([1.0, 1, 1, 1, 0, NAN, INF, -INF, NAN])
    problem = from_torch(torch.zeros(9, 2, 3), torch.zeros(9, 1, dtype=torch.int32), rows[:, None], kind="logits", temperature=heat, draft_lse=lse[:, None])
    side = Side(rows, heat, lse)
    side()
    torch.testing.assert_close(side.probs, problem.probs().draft_probs, equal_nan=True)
    for baseline in ("python_loop", "torch_vectorised"):
        assert check(load_baseline(baseline), problem) and check(Composed(load_baseline(baseline)), problem)


def test_a_call_sees_the_logits_of_its_time(sampler):
    problem, other = (logits_problem(batch=8, draft_len=3, temperature=0.7, draft_lse=True, seed=seed) for seed in (1, 2))
    call = sampler.bind(problem)
    for name in ("target_logits", "draft_logits", "draft_lse", "draft_tokens"):
        getattr(problem, name).copy_(getattr(other, name))
    assert torch.equal(call().out_tokens, sampler(problem).out_tokens)
    assert call().out_tokens.data_ptr() == call.outputs.out_tokens.data_ptr()


def test_without_the_temperature_the_check_fails(sampler, monkeypatch):
    problem = logits_problem(batch=30, draft_len=3, temperature=0.3, seed=3)
    assert check(sampler, problem)
    monkeypatch.setattr(Side, "_write_random", lambda self: torch.softmax(self.logits, -1, out=self.probs))
    assert not check(sampler, problem)


def test_without_the_greedy_rows_the_check_fails(sampler, monkeypatch):
    monkeypatch.setattr(Side, "_write_greedy", lambda self: self.probs.index_fill_(0, self.greedy, 0.005))
    assert not check(sampler, logits_problem())


def test_a_call_does_not_look_at_the_host(sampler, monkeypatch):
    calls = [sampler.bind(logits_problem(draft_lse=lse)) for lse in (False, True)]
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "nonzero"):
        def refuse(*args, name=name, **kwargs):
            raise AssertionError(f"Tensor.{name} waits for the device")
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for call in calls:
        call()


def test_buffers_are_counted(sampler):
    rows = (9 + 4 + 9) * 200 * 4
    assert sampler.bind(logits_problem(temperature=1.0)).extra_bytes == rows
    assert sampler.bind(logits_problem()).extra_bytes == 2 * rows


def test_names():
    pytest.importorskip("spec_toolkit.sampler")
    names = list_composed()
    assert {"softmax+torch_vectorised", "softmax+v1"} <= set(names) and "softmax+transformers" not in names
    assert all(name.startswith("softmax+") and "+" not in name[8:] for name in names)
    for wrong in ("v1", "softmax"):
        with pytest.raises(ValueError, match=f"composed: got '{wrong}', accepted: softmax\\+NAME"):
            load_composed(wrong)
    with pytest.raises(ValueError, match="v99"):
        load_composed("softmax+v99")
    assert load_composed("softmax+v1", BLOCK=64).name == "softmax+v1-BLOCK64"


def test_the_protocol_is_that_of_the_sampler_behind():
    for name in BASELINES:
        inner = load_baseline(name)
        composed = Composed(inner)
        assert (composed.name, composed.kind, composed.input) == (f"softmax+{name}", "composed", "logits")
        assert all(getattr(composed, key) == getattr(inner, key) for key in ("draw", "ulps", "reports_status"))
        assert composed.capturable == (name != "python_loop") and composed.source_hash != inner.source_hash
    hashes = composed_hashes({"torch_vectorised": load_baseline("torch_vectorised").source_hash, "gone": None})
    assert hashes == {"softmax+torch_vectorised": Composed(load_baseline("torch_vectorised")).source_hash, "softmax+gone": None}


def test_refusals(sampler):
    with pytest.raises(ValueError, match=r"softmax\+torch_vectorised: got a problem of probabilities, accepted: logits"):
        sampler.bind(make_problem(2, 2, vocab=10))
    with pytest.raises(ValueError, match="composed: got 'softmax"):
        Composed(sampler)


def test_a_kernel_behind_it():
    pytest.importorskip("spec_toolkit.sampler")
    composed = load_composed("softmax+v1")
    for options in ({}, {"dtype": torch.bfloat16, "draft_lse": True}):
        result = check(composed, logits_problem(**options))
        assert result and result.status_compared, result


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["torch_vectorised", "v1"])
@pytest.mark.parametrize("options", PROBLEMS)
def test_in_a_cuda_graph(name, options):
    problem = logits_problem(**PROBLEMS[options] | {"device": "cuda"})
    assert check(load_composed(f"softmax+{name}"), problem)
    call = load_composed(f"softmax+{name}").bind(problem)
    expected = [tensor.clone() for tensor in call()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for tensor in call.outputs:
        tensor.fill_(-99)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(expected, call.outputs))
