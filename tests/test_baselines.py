"""The three baselines against the reference, on shapes one off a tile, dtypes, strides and edges."""
import shutil

import pytest
import torch

from spec_toolkit import baselines
from spec_toolkit.baselines import BASELINES, load_baseline
from spec_toolkit.check import check
from spec_toolkit.problem import BAD_TOKEN, NO_MASS, NONFINITE, ZERO_RESIDUAL, from_torch
from spec_toolkit.synthetic import make_problem

EAGER = ["python_loop", "torch_vectorised"]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=EAGER)
def sampler(request):
    return load_baseline(request.param)


def assert_passes(sampler, problem):
    result = check(sampler, problem)
    assert result, result
    return result


@pytest.mark.parametrize("vocab", [1, 2, 31, 32, 33, 127, 129, 2000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ragged_grid(sampler, vocab, dtype):
    result = assert_passes(sampler, make_problem(6, [3, 0, 8, 1, 0, 5], vocab=vocab, dtype=dtype, seed=vocab, row_padding=vocab % 3))
    assert result.exact == 6  # the weights are read exactly and summed in float64: nothing to explain


@pytest.mark.parametrize("options", [
    {"acceptance": 1.0}, {"acceptance": 0.0}, {"draft_probs": False}, {"draft_probs": False, "acceptance": 0.0},
    {"draft_len": 0}, {"batch": 0}, {"batch": 1, "draft_len": 128}, {"row_padding": 5},
    {"shape": "peaked"}, {"shape": "flat", "vocab": 20_000}], ids=str)
def test_edges(sampler, options):
    assert_passes(sampler, make_problem(**{"batch": 5, "draft_len": 4, "vocab": 100, "seed": 3, **options}))


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.0, [0.0, 1.0, 2.0, 0.7]])
@pytest.mark.parametrize("draft_probs", [True, False])
def test_logits(sampler, temperature, draft_probs):
    for dtype in (torch.float32, torch.bfloat16):
        assert_passes(sampler, make_problem(4, [2, 0, 6, 3], vocab=500, logits=True, temperature=temperature,
                                            draft_probs=draft_probs, dtype=dtype, seed=11))


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.0, [0.0, 1.0, 2.0, 0.7]])
def test_logits_with_draft_lse(sampler, temperature):
    for dtype in (torch.float32, torch.bfloat16):
        problem = make_problem(4, [2, 0, 6, 3], vocab=500, logits=True, temperature=temperature, draft_lse=True, dtype=dtype, seed=11)
        assert_passes(sampler, problem)
        if temperature == 1.0:
            problem.draft_lse.sub_(3.0)  # the drafter's word counts: twenty times as sure of everything
            result = assert_passes(sampler, problem)
            assert result.exact == 4 and sampler(problem).num_accepted.sum() < 6


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.0**-126, 0.0])
def test_logits_of_any_magnitude(sampler, temperature):
    rows = torch.tensor([[1.0, 3, 3], [-INF, 0, 0], [NAN, 0, 0], [0, INF, 0], [-INF] * 3, [1e30, 1e30, -1e30], [3e38, 0, -3e38]])
    pairs = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    target, draft = rows[pairs], rows[pairs[:, :1]].flip(2)
    for token in (0, 1, 5):
        tokens = torch.full((49, 1), token)
        for given in (draft, None):
            assert_passes(sampler, from_torch(target, tokens, given, kind="logits", temperature=temperature))


def edge_problem(target, draft, token, bonus=(0.25, 0.25, 0.5)):
    return from_torch(torch.tensor([[target, bonus]]), torch.tensor([[token]]), None if draft is None else torch.tensor([[draft]]))


EDGES = {
    "bad id": ([.2, .3, .5], [.1, .1, .8], 3, BAD_TOKEN),
    "negative id": ([.2, .3, .5], [.1, .1, .8], -1, BAD_TOKEN),
    "bad id, one-hot": ([.2, .3, .5], None, 7, BAD_TOKEN),
    "zero residual": ([.0, .5, .5], [.0, .5, .5], 0, ZERO_RESIDUAL),
    "no mass": ([.0, .0, .0], [.2, .3, .5], 1, ZERO_RESIDUAL | NO_MASS),
    "NaN target": ([NAN, .5, .5], [.5, .3, .2], 0, NONFINITE),
    "NaN draft": ([.5, .3, .2], [NAN, .2, .5], 0, NONFINITE),
    "NaN draft, no residual": ([.5, .3, .2], [NAN, .5, .5], 0, NONFINITE | ZERO_RESIDUAL),
    "infinite draft": ([.5, .3, .2], [INF, .2, .1], 0, NONFINITE),
    "all NaN": ([NAN] * 3, [NAN] * 3, 0, NONFINITE | ZERO_RESIDUAL | NO_MASS),
    "subnormal target": ([1e-40, .5, .5], [0., .5, .5], 0, ZERO_RESIDUAL),
}


@pytest.mark.parametrize("name", EDGES)
def test_bad_numbers(sampler, name):
    target, draft, token, status = EDGES[name]
    problem = edge_problem(target, draft, token)
    assert_passes(sampler, problem)
    assert load_baseline("python_loop")(problem).status.tolist() == [status]


def test_equal_rows_are_always_accepted(sampler):
    rows = torch.rand(64, 3, 40)
    outputs = sampler(from_torch(rows, torch.randint(40, (64, 2)), rows[:, :2].contiguous()))
    assert outputs.num_accepted.tolist() == [2] * 64


def test_a_request_does_not_depend_on_its_slot(sampler):
    problem = make_problem(6, [3, 0, 8, 1, 0, 5], vocab=300, seed=5)
    order = [4, 2, 5, 0, 3, 1]
    whole, mixed = sampler(problem), sampler(problem.take(order))
    assert torch.equal(whole.out_tokens[order], mixed.out_tokens)


def test_calls_reuse_their_buffers_and_samplers_do_not(sampler):
    problem = make_problem(3, 2, vocab=50)
    call = sampler.bind(problem)
    assert call().out_tokens.data_ptr() == call.outputs.out_tokens.data_ptr() == call().out_tokens.data_ptr()
    assert sampler(problem).out_tokens.data_ptr() != sampler(problem).out_tokens.data_ptr()


def test_vectorised_does_not_look_at_the_host(monkeypatch):
    calls = [load_baseline("torch_vectorised").bind(make_problem(
        4, [2, 0, 6, 3], vocab=50, logits=True, temperature=[0., 1., 1., 2.], draft_lse=lse)) for lse in (False, True)]
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "nonzero"):
        def refuse(*args, name=name, **kwargs):
            raise AssertionError(f"Tensor.{name} waits for the device")
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for call in calls:
        call()


def test_names():
    assert list(BASELINES) == ["python_loop", "torch_vectorised", "torch_compile"]
    for name in BASELINES:
        sampler = load_baseline(name)
        assert (sampler.name, sampler.kind, sampler.draw) == (name, "baseline", "cdf") and len(sampler.source_hash) == 64
    assert load_baseline("python_loop").reports_status and not load_baseline("torch_vectorised").reports_status
    with pytest.raises(ValueError, match="'v9'.*python_loop"):
        load_baseline("v9")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++")
@pytest.mark.parametrize("options", [
    {"draft_len": [3, 0, 4]}, {"draft_len": 0}, {"draft_probs": False, "dtype": torch.bfloat16},
    {"logits": True, "dtype": torch.bfloat16, "temperature": [0.0, 1.0, 0.5], "draft_lse": True}], ids=str)
def test_compiled(options):
    assert_passes(load_baseline("torch_compile"), make_problem(**{"batch": 3, "draft_len": 3, "vocab": 129, "seed": 2, **options}))


def test_missing_compiler_is_said_plainly(monkeypatch):
    def broken(*args):
        raise OSError("no such file")
    monkeypatch.setattr(baselines, "_compiled", lambda: broken)
    monkeypatch.setattr(baselines.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler"):
        load_baseline("torch_compile").bind(make_problem(2, 2, vocab=10))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", BASELINES)
def test_on_a_gpu(name):
    for options in ({"vocab": 32_000}, {"vocab": 129, "draft_len": [3, 0, 4, 1]}, {"vocab": 1000, "logits": True}):
        assert_passes(load_baseline(name), make_problem(**{"batch": 4, "draft_len": 4, "device": "cuda", **options}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["torch_vectorised", "torch_compile"])
def test_fits_in_a_cuda_graph(name):
    call = load_baseline(name).bind(make_problem(4, [3, 0, 4, 1], vocab=5000, device="cuda", logits=True))
    expected = [tensor.clone() for tensor in call()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for tensor in call.outputs:
        tensor.fill_(-99)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(expected, call.outputs))
