# ruff: noqa: C408
"""Problem: validation that names the argument, views without copies, and make_problem's promises."""

import json

import pytest
import torch

from spec_toolkit.probability_rows import probability_rows
from spec_toolkit.problem import MAX_DRAFT, Problem, from_torch
from spec_toolkit.synthetic import make_problem


def small(**changes):
    """The arguments of a valid problem: two requests of 2 and 0 drafts, vocab 3."""
    return dict(draft_start=torch.tensor([0, 2, 2], dtype=torch.int32), draft_tokens=torch.tensor([0, 2], dtype=torch.int32),
                seeds=torch.tensor([1, 2]), positions=torch.tensor([0, 9]), target_probs=torch.full((4, 3), 1 / 3),
                draft_probs=torch.full((2, 3), 1 / 3)) | changes


LOGITS = dict(target_probs=None, draft_probs=None, target_logits=torch.zeros(4, 3), draft_logits=torch.zeros(2, 3))


def test_properties():
    p = Problem(**small())
    assert (p.batch, p.num_draft, p.vocab, p.max_draft, p.draft_len, p.kind) == (2, 2, 3, 2, [2, 0], "probs")
    assert (p.target_stride, p.draft_stride, p.dtype, p.device.type) == (3, 3, torch.float32, "cpu")
    assert "batch=2, draft_len=0..2, vocab=3" in repr(p) and "\n" not in repr(p)


@pytest.mark.parametrize("error, name, changes", [
    (ValueError, "target", dict(target_probs=None)),
    (ValueError, "target", dict(target_logits=torch.zeros(4, 3))),
    (ValueError, "draft", dict(draft_probs=None, draft_logits=torch.zeros(2, 3))),
    (ValueError, "temperature", dict(temperature=torch.ones(2))),
    (ValueError, "temperature", dict(target_probs=None, draft_probs=None, target_logits=torch.zeros(4, 3),
                                     temperature=torch.tensor([1.0, -1.0]))),
    (TypeError, "draft_tokens", dict(draft_tokens=torch.tensor([0, 2]))),
    (TypeError, "seeds", dict(seeds=torch.tensor([1.0, 2.0]))),
    (ValueError, "seeds", dict(seeds=torch.tensor([1, 2, 3]))),
    (ValueError, "positions", dict(positions=torch.tensor([1, 2, 3, 4])[::2])),
    (TypeError, "target_probs", dict(target_probs=torch.full((4, 3), 1 / 3, dtype=torch.float64))),
    (ValueError, "target_probs", dict(target_probs=torch.full((3, 3), 1 / 3))),
    (ValueError, "target_probs", dict(target_probs=torch.full((3, 4), 1 / 3).T)),
    (ValueError, "target_probs", dict(target_probs=torch.full((3,), 1 / 3).expand(4, 3))),
    (TypeError, "draft_probs", dict(draft_probs=torch.full((2, 3), 1 / 3).half())),
    (ValueError, "draft_probs", dict(draft_probs=torch.full((2, 4), 1 / 4))),
    (ValueError, "draft_lse", dict(draft_lse=torch.zeros(2))),
    (ValueError, "draft_lse", LOGITS | dict(draft_logits=None, draft_lse=torch.zeros(2))),
    (ValueError, "draft_lse", LOGITS | dict(draft_lse=torch.zeros(3))),
    (TypeError, "draft_lse", LOGITS | dict(draft_lse=torch.zeros(2).double())),
    (ValueError, "temperature", LOGITS | dict(temperature=torch.tensor([1.0, 1e-38]))),
    (ValueError, "temperature", LOGITS | dict(temperature=torch.tensor([1.0, float("nan")]))),
    (ValueError, "temperature", LOGITS | dict(temperature=torch.tensor([1.0, float("inf")]))),
    (ValueError, "seeds", dict(seeds=torch.zeros(2, dtype=torch.int64, device="meta"))),
    (ValueError, "draft_probs", dict(draft_probs=torch.zeros(2, 3, device="meta"))),
    (TypeError, "target_probs", dict(target_probs=[[0.5, 0.5]])),
    (TypeError, "draft_probs", dict(draft_probs=0.5)),
    (TypeError, "positions", dict(positions=None)),
    (TypeError, "draft_start", dict(draft_start=[0, 2, 2])),
    (ValueError, "draft_tokens", dict(draft_tokens=torch.tensor(2, dtype=torch.int32))),
    (ValueError, "draft_start", dict(draft_start=torch.tensor(0, dtype=torch.int32))),
    (ValueError, "target_probs", dict(target_probs=torch.ones(3))),
    (ValueError, "draft_start", dict(draft_start=torch.tensor([0, 1, 1], dtype=torch.int32))),
    (ValueError, "draft_start", dict(draft_start=torch.tensor([0, 3, 2], dtype=torch.int32))),
])
def test_validation_names_the_argument(error, name, changes):
    with pytest.raises(error, match=f"^{name}: got .*accepted: "):
        Problem(**small(**changes))


def test_draft_length_limit():
    make_problem(batch=1, draft_len=MAX_DRAFT, vocab=4)
    with pytest.raises(ValueError, match="draft_len"):
        make_problem(batch=1, draft_len=MAX_DRAFT + 1, vocab=4)
    with pytest.raises(ValueError, match="draft_start"):
        from_torch(torch.zeros(1, 130, 2), torch.zeros(1, 129, dtype=torch.int32))


def test_uint64_seeds_are_viewed():
    seeds = torch.tensor([2**64 - 1, 5], dtype=torch.uint64)
    problem = Problem(**small(seeds=seeds))
    assert problem.seeds.tolist() == [-1, 5] and problem.seeds.data_ptr() == seeds.data_ptr()


def test_from_torch_rectangular_does_not_copy():
    target, draft, tokens = torch.rand(2, 4, 5), torch.rand(2, 3, 5), torch.tensor([[0, 1, 2], [3, 2**32, -7]])
    problem = from_torch(target, tokens, draft, seeds=[3, 2**64 - 1])
    assert problem.target_probs.data_ptr() == target.data_ptr() and problem.draft_probs.data_ptr() == draft.data_ptr()
    assert problem.draft_start.tolist() == [0, 3, 6] and problem.seeds.tolist() == [3, -1]
    assert problem.draft_tokens.tolist() == [0, 1, 2, 3, 5, -1]  # a wild id stays outside the vocabulary
    padded = torch.rand(2, 4, 8)[:, :, :5]
    assert from_torch(padded, tokens).target_stride == 8
    with pytest.raises(ValueError, match="^target: got strides"):
        from_torch(torch.rand(4, 2, 5).transpose(0, 1), tokens)
    with pytest.raises(ValueError, match="^draft: got shape"):
        from_torch(target, tokens, torch.rand(2, 4, 5))


@pytest.mark.parametrize("name, words", [("target", {"target": [[1.0]]}), ("draft_tokens", {"draft_tokens": [[1]]}), ("draft", {"draft": 1.0}),
                                         ("draft_lse", {"draft_lse": [0.0]}), ("draft_tokens", {"draft_tokens": torch.ones(1, 1)})])
def test_from_torch_names_what_is_no_tensor(name, words):
    with pytest.raises(TypeError, match=f"^{name}: got .*accepted: a tensor"):
        from_torch(**{"target": torch.ones(1, 2, 3), "draft_tokens": torch.ones(1, 1, dtype=torch.int64)} | words)


def test_from_torch_ragged_and_logits():
    problem = from_torch(torch.randn(5, 7), torch.tensor([1, 2, 3]), kind="logits", draft_start=[0, 0, 3], temperature=0.5)
    assert problem.kind == "logits" and problem.draft_len == [0, 3] and problem.temperature.tolist() == [0.5, 0.5]
    no_drafts = from_torch(torch.randn(2, 1, 7), torch.empty(2, 0, dtype=torch.int64), torch.empty(2, 0, 7), kind="logits")
    assert no_drafts.max_draft == 0 and no_drafts.temperature.tolist() == [1, 1]
    with pytest.raises(ValueError, match="^kind"):
        from_torch(torch.randn(2, 1, 7), torch.empty(2, 0), kind="log")


def test_take_reorders_requests():
    problem = make_problem(batch=3, draft_len=[2, 0, 3], vocab=6, logits=True, temperature=[0.5, 1, 2], row_padding=2)
    taken = problem.take([2, 0, 2])
    assert taken.draft_len == [3, 2, 3] and taken.temperature.tolist() == [2, 0.5, 2]
    assert torch.equal(taken.target[:4], problem.target[4:8]) and torch.equal(taken.target[4:7], problem.target[:3])
    assert torch.equal(taken.draft[3:5], problem.draft[:2]) and taken.seeds[1] == problem.seeds[0]
    assert problem.take([]).batch == 0
    with pytest.raises(ValueError, match="^indices"):
        problem.take([3])


def test_probs_of_logits():
    problem = make_problem(batch=2, draft_len=2, vocab=50, logits=True, temperature=[0.7, 0])
    rows = problem.probs()
    assert rows.kind == "probs" and rows.temperature is None and rows.probs() is rows
    torch.testing.assert_close(rows.target_probs[:3], torch.softmax(problem.target_logits[:3] / 0.7, -1))
    assert torch.equal(rows.target_probs[3:].argmax(-1), problem.target_logits[3:].argmax(-1))
    assert set(rows.target_probs[3:].flatten().tolist()) == {0.0, 1.0} and set(rows.draft_probs[2:].flatten().tolist()) == {0.0, 1.0}


def test_probability_rows_at_the_edges():
    inf, nan = float("inf"), float("nan")
    logits = torch.tensor([[1.0, 3, 3], [-inf, 0, 0], [nan, 0, 0], [0, inf, 0], [-inf, -inf, -inf]])
    greedy, warm = probability_rows(logits, torch.zeros(5)), probability_rows(logits, torch.ones(5))
    assert greedy[:2].tolist() == [[0, 1, 0], [0, 1, 0]]  # ties: the lowest id
    assert warm[1].tolist() == [0, 0.5, 0.5]
    assert greedy[2:].isnan().all() and warm[2:].isnan().all()
    assert probability_rows(torch.tensor([[5.0, 6]]), torch.tensor([1e-38])).tolist() == [[0, 1]]  # 6 / 1e-38 overflows


def test_rows_of_any_magnitude():
    huge = torch.tensor([[1e30, 1e30, -1e30], [3e38, 0, -3e38], [-3e38, -3e38, -torch.inf]])
    for heat in (1.0, 0.5, 2.0**-126):
        assert probability_rows(huge, torch.full((3,), heat)).tolist() == [[0.5, 0.5, 0], [1, 0, 0], [0.5, 0.5, 0]]
        doubled = probability_rows(huge, torch.full((3,), heat), torch.float64)
        assert doubled.tolist() == [[0.5, 0.5, 0], [1, 0, 0], [0.5, 0.5, 0]]
    assert probability_rows(huge, torch.zeros(3)).tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_rows_by_a_given_normaliser():
    inf, nan = float("inf"), float("nan")
    rows = torch.tensor([[0.0, 2, -inf], [0, nan, 2], [0, inf, 2], [-inf, -inf, -inf], [800, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]])
    lse = torch.tensor([1.0, 1, 1, 1, 0, nan, inf, -inf])
    found = probability_rows(rows, torch.full((8,), 2.0), torch.float64, lse)
    torch.testing.assert_close(found[0], torch.tensor([-1.0, 0, -inf]).double().exp())  # as told: it does not sum to 1
    assert found[1].isnan().tolist() == [False, True, False]                            # each entry is its own
    assert found[2].isinf().tolist() == [False, True, False] and found[3].tolist() == [0, 0, 0]
    assert found[4].tolist() == [inf, 1, 1]                                             # e^400 is past float32's range
    assert found[5:].isnan().all()                                                      # a normaliser that is not finite
    assert probability_rows(rows[:1], torch.zeros(1), lse=torch.tensor([nan])).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draft_lse_of_make_problem(dtype):
    spec = dict(batch=3, draft_len=[2, 0, 3], vocab=70, logits=True, temperature=[0.5, 1, 0], row_padding=3, dtype=dtype, seed=4)
    given, plain = make_problem(draft_lse=True, **spec), make_problem(**spec)
    heat = torch.tensor([[0.5], [0.5]])
    torch.testing.assert_close(given.draft_lse[:2], torch.logsumexp(given.draft_logits[:2].float() / heat, 1))
    assert given.draft_lse[2:].isnan().all()  # greedy: nobody may look
    assert torch.equal(given.draft_tokens, plain.draft_tokens) and given.acceptance == pytest.approx(plain.acceptance, abs=1e-5)
    torch.testing.assert_close(given.probs().draft_probs, plain.probs().draft_probs)
    assert given.probs().draft_lse is None and given.spec["draft_lse"] is True and ", draft_lse, " in repr(given)
    assert "draft_lse" not in repr(plain) and plain.draft_lse is None
    taken = given.take([2, 0])
    assert torch.equal(taken.draft_lse[3:], given.draft_lse[:2]) and taken.draft_lse[:3].isnan().all()


def test_draft_lse_is_what_normalises():
    problem = make_problem(batch=2, draft_len=2, vocab=20, logits=True, draft_lse=True)
    problem.draft_lse.add_(1)
    plain = make_problem(batch=2, draft_len=2, vocab=20, logits=True)
    torch.testing.assert_close(problem.probs().draft_probs, plain.probs().draft_probs / torch.e)


def test_from_torch_with_draft_lse():
    target, draft, tokens = torch.randn(2, 4, 5), torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.int32)
    problem = from_torch(target, tokens, draft, kind="logits", temperature=0.5, draft_lse=torch.logsumexp(draft / 0.5, -1))
    torch.testing.assert_close(problem.probs().draft_probs, torch.softmax(draft.view(6, 5) / 0.5, -1))
    flat = from_torch(target.view(8, 5), tokens.view(-1), draft.view(6, 5), kind="logits", draft_start=[0, 3, 6], draft_lse=problem.draft_lse)
    assert flat.draft_lse.data_ptr() == problem.draft_lse.data_ptr()
    with pytest.raises(ValueError, match=r"^draft_lse: got shape \(3,\)"):
        from_torch(target, tokens, draft, kind="logits", draft_lse=torch.zeros(3))


@pytest.mark.parametrize("shape", ["zipf", "peaked", "flat"])
@pytest.mark.parametrize("acceptance", [0.5, 0.9, 1.0])
def test_acceptance_is_what_was_asked(shape, acceptance):
    problem = make_problem(batch=4, draft_len=4, vocab=4000, acceptance=acceptance, shape=shape)
    overlap = torch.minimum(problem.target_probs[torch.arange(20) % 5 < 4].double(), problem.draft_probs.double()).sum(-1)
    assert problem.acceptance == pytest.approx(overlap.mean().item(), abs=1e-12)
    assert overlap.tolist() == pytest.approx([acceptance] * 16, abs=1e-4)  # of every row, not only of the mean
    assert problem.target_probs.sum(-1).tolist() == pytest.approx([1] * 20, abs=1e-5)
    assert problem.draft_probs.sum(-1).tolist() == pytest.approx([1] * 16, abs=1e-5)


@pytest.mark.parametrize("vocab", [2, 3, 4, 127, 1000])
@pytest.mark.parametrize("shape", ["zipf", "flat"])
def test_acceptance_zero_is_disjoint(vocab, shape):
    problem = make_problem(batch=20, draft_len=2, vocab=vocab, acceptance=0.0, shape=shape)
    assert problem.acceptance == 0
    assert make_problem(batch=20, draft_len=2, vocab=vocab, acceptance=0.0, shape=shape, logits=True).acceptance == 0


def test_unreachable_acceptance_is_measured():
    assert make_problem(vocab=1, acceptance=0.3).acceptance == pytest.approx(1)
    assert 0.2 < make_problem(vocab=4000, shape="flat", acceptance=0.1).acceptance < 0.4


def test_draft_tokens_follow_the_draft_rows():
    problem = make_problem(batch=200, draft_len=10, vocab=3, acceptance=0.6, seed=1)
    expected = problem.draft_probs.double().sum(0)
    spread = (problem.draft_probs.double() * (1 - problem.draft_probs.double())).sum(0).sqrt()
    seen = torch.bincount(problem.draft_tokens, minlength=3)
    assert ((seen - expected).abs() < 4 * spread).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("logits", [False, True])
def test_half_rows(dtype, logits):
    problem = make_problem(vocab=4000, dtype=dtype, logits=logits, temperature=0.7)
    assert problem.dtype == dtype and problem.acceptance == pytest.approx(0.7, abs=0.03)


def test_greedy_and_one_hot_drafts():
    greedy = make_problem(batch=100, draft_len=4, vocab=100, acceptance=0.8, logits=True, temperature=0)
    assert greedy.acceptance == pytest.approx(0.8, abs=0.08)
    one_hot = make_problem(batch=100, draft_len=4, vocab=100, acceptance=0.8, draft_probs=False, shape="peaked")
    assert one_hot.draft is None and one_hot.draft_stride == 0
    rows = torch.arange(500) % 5 < 4
    best = one_hot.target_probs[rows].argmax(-1)
    assert (best == one_hot.draft_tokens).double().mean() == pytest.approx(0.8, abs=0.08)
    tested = one_hot.target_probs[rows].gather(1, one_hot.draft_tokens[:, None].long())
    assert one_hot.acceptance == pytest.approx(tested.mean().item(), rel=1e-5)


def test_padding_is_garbage_outside_the_view():
    problem = make_problem(batch=2, draft_len=1, vocab=5, row_padding=3)
    assert problem.target_stride == problem.draft_stride == 8
    assert problem.target_probs.as_strided((3, 3), (8, 1), 5).eq(1e30).all()
    assert make_problem(vocab=5, row_padding=1, dtype=torch.float16).target.as_strided((1, 1), (6, 1), 5).item() == 65504


def test_same_arguments_same_problem_and_spec_is_json():
    spec = dict(batch=2, draft_len=[1, 3], vocab=40, logits=True, temperature=[0, 1.5], seed=9)
    one, two = make_problem(**spec), make_problem(**spec)
    assert torch.equal(one.target, two.target) and torch.equal(one.draft_tokens, two.draft_tokens) and torch.equal(one.seeds, two.seeds)
    assert not torch.equal(one.target, make_problem(**spec | {"seed": 10}).target)
    again = json.loads(json.dumps(one.spec))
    assert again["dtype"] == "float32" and again["draft_len"] == [1, 3] and again["shape"] == "zipf"
    assert torch.equal(make_problem(**again | {"dtype": torch.float32}).target, one.target)


def test_chunks_cover_all_rows(monkeypatch):
    monkeypatch.setattr("spec_toolkit.probability_rows.CHUNK_ELEMENTS", 100)
    problem = make_problem(batch=5, draft_len=3, vocab=40, acceptance=0.6, logits=True)
    assert problem.acceptance == pytest.approx(0.6, abs=1e-4)
    assert problem.probs().target_probs.sum(-1).tolist() == pytest.approx([1] * 20, abs=1e-5)


@pytest.mark.parametrize("name, wrong", [("shape", "round"), ("acceptance", 1.5), ("batch", -1), ("vocab", 0), ("draft_len", [1, 2]),
                                         ("temperature", -1.0), ("dtype", torch.float64), ("row_padding", -1), ("draft_lse", True)])
def test_make_problem_names_the_argument(name, wrong):
    with pytest.raises(ValueError, match=f"^{name}: got "):
        make_problem(**{"batch": 4, name: wrong})


def test_empty_batch_and_no_drafts():
    assert make_problem(batch=0).target.shape == (0, 32000)
    assert make_problem(batch=2, draft_len=0, vocab=5).acceptance is None


def test_public_names_are_functions_even_after_the_submodule_is_imported():
    import spec_toolkit
    import spec_toolkit.reference
    assert callable(spec_toolkit.reference) and spec_toolkit.make_problem is make_problem
    with pytest.raises(AttributeError, match="public names"):
        spec_toolkit.nothing  # noqa: B018


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_generation_on_a_gpu():
    problem = make_problem(batch=3, draft_len=2, vocab=1000, device="cuda")
    assert problem.device.type == "cuda" and problem.acceptance == pytest.approx(0.7, abs=1e-4)
    assert problem.to("cuda") is problem and torch.equal(problem.to("cpu").target, problem.target.cpu())
