"""The edges hold what their names claim: seeds whose numbers lie at the ends, computed again, and rows on which those ends decide."""
import numpy as np
import pytest
import torch

from spec_toolkit import ends, philox, reference, suite
from spec_toolkit.baselines import load_baseline
from spec_toolkit.check import check
from spec_toolkit.edges import EDITS, LOGITS_ONLY
from spec_toolkit.problem import BAD_TOKEN, NONFINITE, ROW_DTYPES, ZERO_RESIDUAL

QUICK = {case.name: case for case in suite.listed("quick")}
LOGITS = {case.name: case for case in suite.listed("quick", "logits")}


def word(seed, stream, index=0):
    return int(philox.random_words(seed, 0, stream, index)[0])


# ---- the seeds

def test_accept_seeds():
    assert word(ends.ACCEPT_LOW, philox.ACCEPT) < 2**9 and word(ends.ACCEPT_HIGH, philox.ACCEPT) >> 8 == 2**24 - 1
    assert philox.uniform23(word(ends.ACCEPT_LOW, philox.ACCEPT)) == ends.LEAST_U
    assert philox.uniform23(word(ends.ACCEPT_HIGH, philox.ACCEPT)) == 1 - ends.LEAST_U
    before = philox.random_words(np.arange(ends.ACCEPT_LOW), 0, philox.ACCEPT, 0)[0]
    assert (before >= 2**9).all(), "it is the first seed of its kind"


def test_at_the_accept_seeds_other_uniforms_are_zero_or_one():
    """The pitfalls that the case is there for: k * 2^-23 includes 0, and a half-bin of 24 bits rounds to 1 in float32."""
    low, high = (word(seed, philox.ACCEPT) for seed in (ends.ACCEPT_LOW, ends.ACCEPT_HIGH))
    assert np.float32(low >> 9) * np.float32(2.0**-23) == 0
    assert (np.float32(high >> 8) + np.float32(0.5)) * np.float32(2.0**-24) == 1


def test_recover_seeds():
    assert word(ends.RECOVER_LOW, philox.RECOVER) == 0 and word(ends.RECOVER_HIGH, philox.RECOVER) == 2**32 - 1
    low, high = (philox.uniform52(*philox.random_words(seed, 0, philox.RECOVER, 0)[:2]) for seed in (ends.RECOVER_LOW, ends.RECOVER_HIGH))
    assert low < ends.TINY / 2 and 1 - high < 2.0**-32


def test_race_seeds():
    noise = lambda seed, token: float(philox.race_noise(seed, 0, np.int64(token)))
    assert 0 < noise(*ends.RACE_LOW) < 2.0**-32 and noise(*ends.RACE_HIGH) > 22
    for seed, lower, higher in ends.TIES:
        first, second = noise(seed, lower), noise(seed, higher)
        assert lower < higher and first < second and np.float32(first) == np.float32(second), "float64 prefers the lower id too"


# ---- what they decide

def outputs(case, draw="cdf"):
    return reference(case.make(), draw)


def test_accept_uniform_at_its_ends():
    accepted = outputs(QUICK["accept uniform at its ends"]).num_accepted.tolist()
    #                    p=0 p=u p>u p<u p=4u | p=q p=u p=1
    assert accepted == [0, 0, 1, 0, 1, 1, 0, 1]


def test_a_boundary_met_exactly_rejects():
    problem = QUICK["u * draft = target exactly"].make()
    assert reference(problem).num_accepted.tolist() == [0] * 8
    for b in range(8):
        u = philox.uniform23(word(int(problem.seeds[b]), philox.ACCEPT))
        assert float(np.float32(u)) * 0.5 == float(problem.target[2 * b, 1]), "no rounding between them"


@pytest.mark.parametrize("name", [name for name in QUICK if name.startswith("draw uniform")])
def test_draw_ends(name):
    problem = QUICK[name].make()
    drawn = reference(problem).out_tokens[:, 0].tolist()
    first, last = problem.vocab // 3, problem.vocab - 1 - problem.vocab // 4
    assert drawn == [first, first, last, last] * 2
    assert float(problem.target[0, first]) == ends.TINY and (problem.target[0, :first] == 0).all() and (problem.target[0, last + 1:] == 0).all()


@pytest.mark.parametrize("suffix", ["", ", after a rejection"])
def test_race_ends_and_ties(suffix):
    drawn = outputs(QUICK["race noise at its ends" + suffix], "race").out_tokens[:, 0].tolist()
    (_, low), (_, high) = ends.RACE_LOW, ends.RACE_HIGH
    assert [drawn[0], drawn[2]] == [low, high] and drawn[1] != low and drawn[3] != high and drawn[4:] == drawn[:4]
    ties = outputs(QUICK["tied scores" + suffix], "race").out_tokens[:, 0].tolist()
    assert ties == [lower for _, lower, _ in ends.TIES] * 2


# ---- the rows

def test_same_rows_and_disjoint_rows():
    same = QUICK["target = draft"].make()
    at = [i + b for b in range(same.batch) for i in range(same.draft_start[b], same.draft_start[b + 1])]
    assert torch.equal(same.target[at], same.draft) and reference(same).num_accepted.tolist() == same.draft_len
    apart = QUICK["disjoint supports"].make()
    at = [i + b for b in range(apart.batch) for i in range(apart.draft_start[b], apart.draft_start[b + 1])]
    assert not (apart.target[at] * apart.draft).any() and reference(apart).num_accepted.sum() == 0


def test_sums_that_are_off_and_odd_values():
    problem = QUICK["rows sum to 0.999 and 1.001"].make()
    off = (problem.target.double().sum(1) - 1).abs()
    assert ((off - 1e-3).abs() < 1e-5).all() and ((problem.draft.double().sum(1) - 1).abs() > 9e-4).all()
    odd = QUICK["odd probabilities"].make()
    assert (odd.draft < 0).any() and (odd.draft > 1).any() and odd.draft.isnan().any() and odd.draft.isinf().any()
    assert (odd.target < 0).any() and (odd.target > 1).any()


def test_what_lies_behind_a_rejection_is_not_reported():
    problem = QUICK["trouble behind the first rejection"].make()
    found = reference(problem)
    assert not (found.status & (BAD_TOKEN | NONFINITE)).any()
    assert all(accepted == 0 for accepted, length in zip(found.num_accepted, problem.draft_len) if length > 1)
    wild = (problem.draft_tokens < 0) | (problem.draft_tokens >= problem.vocab)
    assert wild.any() and problem.target.isnan().any()


def test_empty_rows_fall_back_or_give_nothing():
    status, tokens = (outputs(QUICK["empty rows"])[i] for i in (2, 0))
    assert status[0] & ZERO_RESIDUAL and tokens[0, 0] == -1


def test_strides_apart_and_the_garbage_between():
    problem = QUICK["draft rows further apart"].make()
    assert problem.draft_stride == problem.target_stride + 7
    assert (problem.draft.as_strided((len(problem.draft), 7), (problem.draft_stride, 1), problem.vocab)[:-1] > 1e4).all()


def test_greedy_ties_and_logits_far_from_zero():
    ties = LOGITS["greedy ties"].make()
    first = [int(row.argmax()) for row in ties.target_logits]
    assert ((ties.target_logits == ties.target_logits.amax(1, keepdim=True)).sum(1) >= 3).all()
    start = ties.draft_start.tolist()
    found = reference(ties)
    for b, accepted in enumerate(found.num_accepted.tolist()):
        row = first[start[b] + b + accepted]
        assert accepted < ties.draft_len[b] or int(found.out_tokens[b, accepted]) == row
    far = LOGITS["logits far from zero"].make()
    assert torch.exp(far.target_logits).isinf().any() and (torch.exp(far.target_logits) == 0).all(1).any()


@pytest.mark.parametrize("dtype", ROW_DTYPES, ids=str)
def test_logits_of_any_size_leave_what_their_type_leaves(dtype):
    """Rows in the tens of thousands keep differences where the type has room for them; those at its lower end keep none but in float16."""
    name = "logits of any size" + ("" if dtype is torch.float32 else f", {str(dtype)[6:]}")
    rows = next(case for case in suite.listed("thorough", "logits") if case.name == name).make().target_logits
    assert rows.isfinite().all() and float(rows.amax()) > 2.9e4 and float(rows.amin()) < -2.9e4
    assert rows[0].unique().numel() > (1 if dtype is torch.float32 else 0) and (rows[2].unique().numel() == 1) == (dtype is not torch.float16)


def test_every_edit_has_a_case_for_each_kind_it_is_for():
    for edit in EDITS:
        assert any(case.edit == edit for case in LOGITS.values()), edit
        assert any(case.edit == edit for case in QUICK.values()) == (edit not in LOGITS_ONLY), edit


def test_strict_leaves_no_room():
    """A draw one ulp off passes as rounding, but not where the case is strict."""
    case = QUICK["draw uniform at its ends"]
    problem, right = case.make(), load_baseline("torch_vectorised")

    class Late:
        """Draws at u + 2^-31: past the tiny weight in front."""
        name, kind, draw, ulps, reports_status, source_hash = "late", "test", "cdf", 24.0, False, "x"

        def bind(self, problem):
            call = right.bind(problem)
            call.recover_u = torch.where(call.recover_u < 0.5, call.recover_u + ends.TINY, call.recover_u)
            return call

    assert check(Late(), problem) and not check(Late(), problem, strict=True)
    assert "cdf" in case.strict and check(right, problem, strict=True)


@pytest.mark.parametrize("case", [c for c in suite.listed("quick", "logits") if c.part == "edges"], ids=lambda case: case.name)
def test_a_case_is_made_again_from_its_line(case):
    """The line that a failure prints gives the same problem."""
    made = eval(case.source(seed=3), {"made": suite.made, "torch": torch})
    expected = case.make(seed=3)
    for name in ("target", "draft", "draft_tokens", "seeds"):
        a, b = getattr(made, name), getattr(expected, name)
        assert (a is None and b is None) or torch.equal(torch.nan_to_num(a.double()), torch.nan_to_num(b.double())), name
