"""The reference: the losslessness theorem exactly, both draws against the exact law, and every edge of the rule."""

import numpy as np
import pytest
import torch

from spec_toolkit import philox
from spec_toolkit.exact_law import output_law
from spec_toolkit.problem import BAD_TOKEN, NO_MASS, NONFINITE, ZERO_RESIDUAL, Problem, from_torch
from spec_toolkit.reference import accepts, cdf_draw, decide, propose, race_draw, reference, residual, row_weights, usable
from spec_toolkit.synthetic import make_problem

NAN, INF = float("nan"), float("inf")
DRAWS = pytest.mark.parametrize("draw", ["cdf", "race", "propose"])


def one(target, tokens, draft=None, seeds=(0,), **options):
    """A problem of the same request under each of `seeds`."""
    repeat = lambda rows: None if rows is None else torch.tensor(rows).expand(len(seeds), *np.shape(rows)).contiguous()
    if not len(tokens):
        return from_torch(repeat(target), torch.empty(len(seeds), 0, dtype=torch.int32), None, seeds=seeds, **options)
    return from_torch(repeat(target), repeat(list(tokens)), repeat(draft), seeds=seeds, **options)


def random_rows(rows, vocab, seed):
    return np.random.default_rng(seed).dirichlet(np.full(vocab, 0.5), rows)


def chi_square_p(law, problem, draw):
    """p-value of what reference() emits, one request per seed, against the exact law."""
    stats = pytest.importorskip("scipy.stats")
    tokens = reference(problem, draw).out_tokens.tolist()
    seen = {}
    for row in tokens:
        key = tuple(t for t in row if t >= 0)
        seen[key] = seen.get(key, 0) + 1
    assert set(seen) <= set(law)  # nothing of probability zero
    n = len(tokens)
    common = [key for key in law if law[key] * n >= 5]  # the rare outcomes share one cell
    expected = np.array([law[key] * n for key in common])
    observed = np.array([seen.get(key, 0) for key in common])
    if n - expected.sum() > 1:
        expected, observed = np.append(expected, n - expected.sum()), np.append(observed, n - observed.sum())
    return stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1)


@pytest.mark.parametrize("seed", range(5))
def test_first_emitted_token_follows_the_target_exactly(seed):
    target, draft = random_rows(3, 4, seed), random_rows(2, 4, seed + 100)
    law = output_law(target, draft)
    first = np.zeros(4)
    for emitted, mass in law.items():
        first[emitted[0]] += mass
    np.testing.assert_allclose(first, target[0], rtol=0, atol=1e-12)
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)


def test_later_tokens_follow_the_target_given_the_earlier():
    target, draft = random_rows(3, 3, 1), random_rows(2, 3, 2)
    second = np.zeros(3)
    for emitted, mass in output_law(target, draft).items():
        if len(emitted) > 1:
            second[emitted[1]] += mass
    # A second token exists only if the first draft was accepted, and then it is drawn from the second row.
    np.testing.assert_allclose(second / second.sum(), target[1], rtol=0, atol=1e-12)
    assert second.sum() == pytest.approx(np.minimum(target[0], draft[0]).sum(), abs=1e-12)


def test_law_of_fixed_and_one_hot_drafts():
    target = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    assert output_law(target, [[0.75, 0.0, 0.25]], [0]) == pytest.approx({(1,): 1 / 3, (0, 0): 2 / 15, (0, 1): 0.2, (0, 2): 1 / 3})
    assert output_law(target, None, [2]) == {(0,): 0.5, (1,): 0.5}
    assert output_law(target, None, [7]) == {(0,): 0.5, (1,): 0.5}
    assert output_law(np.zeros((1, 3))) == {(-1,): 1.0}
    with pytest.raises(ValueError, match="^draft_tokens"):
        output_law(target)


@DRAWS
@pytest.mark.parametrize("one_hot", [False, True])
def test_reference_follows_the_law_given_the_drafts(draw, one_hot):
    target, draft, tokens = random_rows(3, 5, 7).astype(np.float32), random_rows(2, 5, 8).astype(np.float32), [0, 3]
    draft[:, tokens] += 0.3
    draft = None if one_hot else (draft / draft.sum(-1, keepdims=True)).tolist()
    problem = one(target.tolist(), tokens, draft, seeds=range(4000))
    assert chi_square_p(output_law(target, draft, tokens), problem, draw) > 1e-4


@DRAWS
def test_emitted_tokens_follow_the_target_with_random_drafts(draw):
    """The whole chain, with drafts drawn from the draft rows; shared noise between the streams would show here."""
    target, draft, n = random_rows(2, 4, 3).astype(np.float32), random_rows(1, 4, 4).astype(np.float32), 4000
    problem = one(target.tolist(), [0], draft.tolist(), seeds=range(n))
    u = philox.uniform52(*philox.random_words(problem.seeds.numpy(), problem.positions.numpy(), philox.DRAFT, 0)[:2])
    drafted = np.searchsorted(np.cumsum(draft[0].astype(np.float64)) / draft[0].sum(dtype=np.float64), u, side="right")
    problem.draft_tokens.copy_(torch.from_numpy(drafted))
    assert chi_square_p(output_law(target, draft), problem, draw) > 1e-4


def test_a_wrong_law_is_caught():
    target, draft = random_rows(2, 4, 3).astype(np.float32), random_rows(1, 4, 4).astype(np.float32)
    problem = one(target.tolist(), [1], draft.tolist(), seeds=range(4000))
    biased = np.stack([target[0], 0.85 * target[1] + 0.15 * np.roll(target[1], 1)])
    assert chi_square_p(output_law(biased, draft, [1]), problem, "cdf") < 1e-6


def test_accept_test():
    assert accepts(0.9999, 0.3, 0.3)  # equal probabilities always pass
    assert not accepts(2.0**-24, 0.0, 0.0) and not accepts(2.0**-24, 0.0, 0.5)
    assert not accepts(0.5, 0.25, 0.5)  # strict
    assert not accepts(0.5, NAN, 0.5) and not accepts(0.5, 0.5, NAN) and not accepts(0.5, INF, 0.5)
    assert not accepts(0.5, 0.5, INF) and not accepts(0.5, -0.5, 0.1)
    assert accepts(0.5, 0.5, 0.0)  # the draft claims it cannot propose what it did propose: the target decides


def test_weights():
    assert usable([NAN, INF, -1.0, 0.0, 2.0**-127, 2.0**-126]).tolist() == [0, 0, 0, 0, 0, 2.0**-126]
    target, draft = np.float32([0.5, 0.1, NAN, INF, 0.3]), np.float32([0.25, 0.2, 0.1, 0.1, NAN])
    assert residual(target, draft).tolist() == [0.25, 0, 0, 0, 0]


def test_draws():
    weights = np.array([0, 0.25, 0, 0.75, 0])
    assert [cdf_draw(weights, u) for u in (1e-16, 0.2499, 0.25, 1 - 1e-16)] == [1, 1, 3, 3]
    assert cdf_draw(weights, 1.0) == 3  # where rounding would find none: the last id with weight
    assert race_draw(np.array([0, 1.0, 2.0, 2.0]), np.array([1e-300, 1, 2, 2])) == 1


def test_proposals_and_what_follows_them():
    """A residual of 0.75 %: of 128 proposals none is kept in more than a third of the draws, and the law is the same all the same."""
    target = np.array([0.4, 0.3, 0.2, 0.1])
    weights = np.array([0.0, 0.005, 0.0, 0.0025])
    tokens = [propose(target, weights, seed, 5)[0] for seed in range(6000)]
    missed = tokens.count(-1) / 6000
    assert abs(missed - 0.9925**128) < 4 * (0.9925**128 / 6000) ** 0.5
    kept = np.array([tokens.count(1), tokens.count(3)])
    assert tokens.count(0) == tokens.count(2) == 0 and abs(kept[0] / kept.sum() - 2 / 3) < 4 * (2 / 9 / kept.sum()) ** 0.5
    token, proposed = propose(target, target, 0, 0)
    assert proposed == [token] and token >= 0
    token, proposed = propose(target, 0 * target, 0, 0)
    assert token == -1 and len(proposed) == 128 and set(proposed) == {0, 1, 2, 3}


def test_the_law_of_proposals_with_a_small_residual():
    target = np.float32([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
    draft = np.float32([[0.42, 0.28, 0.21, 0.09]])
    problem = one(target.tolist(), [0], draft.tolist(), seeds=range(20000))
    assert chi_square_p(output_law(target, draft, [0]), problem, "propose") > 1e-4


@DRAWS
def test_no_drafts(draw):
    problem = one([[0.0, 1.0]], [])
    assert [x.tolist() for x in reference(problem, draw)] == [[[1]], [0], [0]]
    assert reference(make_problem(batch=0, vocab=4), draw).out_tokens.shape == (0, 1)


@DRAWS
def test_ragged_requests_do_not_touch_each_other(draw):
    problem = make_problem(batch=5, draft_len=[3, 0, 1, 0, 6], vocab=50, acceptance=0.8, seed=2)
    whole = reference(problem, draw)
    for b in range(5):
        alone, count = reference(problem.take([b]), draw), problem.draft_len[b] + 1
        assert whole.out_tokens[b, :count].tolist() == alone.out_tokens[0].tolist()
        assert (whole.out_tokens[b, count:] == -1).all() and whole.num_accepted[b] == alone.num_accepted[0]
        a = int(whole.num_accepted[b])
        drafted = problem.draft_tokens[problem.draft_start[b]:problem.draft_start[b + 1]].tolist()
        assert whole.out_tokens[b, :a].tolist() == drafted[:a] and (whole.out_tokens[b, a + 1:] == -1).all()


@DRAWS
@pytest.mark.parametrize("draft", [[[1.0, 0.0]], None])
@pytest.mark.parametrize("token", [-1, 2, 5])
def test_bad_id_is_rejected(draw, token, draft):
    out = reference(one([[0.0, 1.0], [1.0, 0.0]], [token], draft), draw)
    assert [x.tolist() for x in out] == [[[1, -1]], [0], [BAD_TOKEN]]


def test_bad_id_behind_a_rejection_is_not_reached():
    out = reference(one([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5]], [0, -1], [[1.0, 0.0], [0.5, 0.5]]))
    assert [x.tolist() for x in out] == [[[1, -1, -1]], [0], [0]]


@DRAWS
def test_zero_residual_draws_from_the_target(draw):
    out = reference(one([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [-1], [[0.0, 1.0, 0.0]]), draw)
    assert [x.tolist() for x in out] == [[[1, -1]], [0], [ZERO_RESIDUAL | BAD_TOKEN]]


@DRAWS
def test_nan_rows(draw):
    rejected = one([[NAN, 1.0, 0.0], [1.0, 0.0, 0.0]], [2], [[0.5, 0.0, 0.5]])
    assert [x.tolist() for x in reference(rejected, draw)] == [[[1, -1]], [0], [NONFINITE]]
    tested = one([[0.5, NAN, 0.5], [1.0, 0.0, 0.0]], [1], [[0.5, 0.0, 0.5]])
    assert [x.tolist() for x in reference(tested, draw)][1:] == [[0], [NONFINITE | ZERO_RESIDUAL]]
    unread = one([[0.0, 1.0, NAN], [1.0, 0.0, 0.0]], [1], [[0.0, 1.0, NAN]])  # accepted: only its own entries were read
    assert [x.tolist() for x in reference(unread, draw)] == [[[1, 0]], [1], [0]]
    all_nan = one([[NAN] * 3, [1.0, 0.0, 0.0]], [1], [[0.5, 0.5, 0.0]])
    assert [x.tolist() for x in reference(all_nan, draw)] == [[[-1, -1]], [0], [NONFINITE | ZERO_RESIDUAL | NO_MASS]]


@DRAWS
def test_no_mass(draw):
    out = reference(one([[1.0, 0.0], [0.0, 0.0]], [0], [[1.0, 0.0]]), draw)
    assert [x.tolist() for x in out] == [[[0, -1]], [1], [NO_MASS]]


@DRAWS
def test_subnormals(draw):
    tiny = 2.0**-130
    accepted = reference(one([[tiny, 1.0], [0.0, 1.0]], [0], [[0.0, 1.0]]), draw)
    assert accepted.num_accepted.tolist() == [0]  # a subnormal float32 target counts as zero
    bonus = reference(one([[tiny, tiny]], []), draw)
    assert [x.tolist() for x in bonus] == [[[-1]], [0], [NO_MASS]]
    half = Problem(draft_start=torch.tensor([0, 0], dtype=torch.int32), draft_tokens=torch.empty(0, dtype=torch.int32),
                   seeds=torch.tensor([1]), positions=torch.tensor([1]), target_probs=torch.tensor([[0, 2.0**-24]], dtype=torch.float16))
    assert reference(half, draw).out_tokens.tolist() == [[1]]  # a float16 subnormal is a normal float32


@DRAWS
def test_one_hot_drafts(draw):
    problem = one([[0.25, 0.25, 0.5], [0.0, 0.0, 1.0]], [2], seeds=range(200))
    out = reference(problem, draw)
    a = out.num_accepted
    assert 60 < a.sum() < 140
    assert (out.out_tokens[a == 1] == 2).all() and (out.out_tokens[a == 0, 0] < 2).all()  # never the token just rejected


@DRAWS
def test_greedy_rows_mixed_with_random_ones(draw):
    logits = torch.tensor([[1.0, 4, 4, 0], [0, 0, 0, 3], [2, 0, 0, 0]])
    target = torch.stack([logits, logits])
    problem = from_torch(target, torch.tensor([[1, 3], [1, 3]]), None, kind="logits", temperature=[0.0, 1.0], seeds=[1, 1])
    assert reference(problem, draw).out_tokens[0].tolist() == [1, 3, 0]
    wrong = from_torch(target[:1], torch.tensor([[2, 3]]), target[:1, :2].contiguous(), kind="logits", temperature=0.0)
    out = reference(wrong, draw)  # id 2 ties with 1, and ties go to the lowest; the draft's row says the same
    assert [x.tolist() for x in out] == [[[1, -1, -1]], [0], [ZERO_RESIDUAL]]


def logits_case(target, token, draft=None, temperature=1.0, seeds=(0,), **options):
    """One drafted token a request: `target` holds its row and the bonus row."""
    lse = options.pop("draft_lse", None)
    if lse is not None:
        options["draft_lse"] = torch.full((len(seeds), 1), lse)
    return one(target, [token], None if draft is None else [draft], seeds, kind="logits", temperature=temperature, **options)


BONUS = [0.0, -INF, -INF]
NAN_ROWS = {"NaN": [0.0, NAN, 1.0], "+inf": [0.0, INF, 1.0], "masked throughout": [-INF] * 3}
ANY_HEAT = pytest.mark.parametrize("temperature", [1.0, 0.3, 0.0])


@DRAWS
@ANY_HEAT
@pytest.mark.parametrize("name", NAN_ROWS)
def test_a_logits_row_with_no_softmax(draw, temperature, name):
    bad, fine = NAN_ROWS[name], [-INF, -INF, 2.0]
    expect = lambda problem, *answer: [x.tolist() for x in reference(problem, draw)] == list(answer)
    everything = NONFINITE | ZERO_RESIDUAL | NO_MASS
    for draft in (None, [0.0, 1.0, 0.5]):
        assert expect(logits_case([bad, BONUS], 0, draft, temperature), [[-1, -1]], [0], [everything])
    assert expect(logits_case([fine, BONUS], 2, bad, temperature), [[2, -1]], [0], [NONFINITE | ZERO_RESIDUAL])
    assert expect(logits_case([fine, bad], 2, fine, temperature), [[2, -1]], [1], [NONFINITE | NO_MASS])
    assert expect(logits_case([fine, bad], 5, fine, temperature), [[2, -1]], [0], [ZERO_RESIDUAL | BAD_TOKEN])
    assert expect(logits_case([bad, fine], 5, None, temperature), [[-1, -1]], [0], [everything | BAD_TOKEN])


@DRAWS
@ANY_HEAT
def test_masked_ids_are_ordinary_zeros(draw, temperature):
    problem = logits_case([[-INF, 1.0, -INF], BONUS], 0, [0.0, -INF, -INF], temperature, range(20))
    assert [set(map(tuple, x.reshape(20, -1).tolist())) for x in reference(problem, draw)] == [{(1, -1)}, {(0,)}, {(0,)}]
    problem = logits_case([[-INF, 1.0, -INF], BONUS], 1, [-INF, 0.0, -INF], temperature, range(20))
    assert [set(map(tuple, x.reshape(20, -1).tolist())) for x in reference(problem, draw)] == [{(1, 0)}, {(1,)}, {(0,)}]


@DRAWS
@pytest.mark.parametrize("scale, temperature", [(1e30, 1.0), (3e38, 0.5), (3e38, 2.0**-126), (1.0, 2.0**-126), (1e-3, 1e-6), (1.0, 0.0)])
def test_steep_rows_are_greedy_without_overflow(draw, scale, temperature):
    target = [[-scale, scale, 0.5 * scale], [0.5 * scale, -INF, scale]]
    accepted = reference(logits_case(target, 1, [0.0, 0.0, 0.0], temperature, range(20)), draw)
    assert (accepted.out_tokens == torch.tensor([1, 2])).all() and not accepted.status.any()
    rejected = reference(logits_case(target, 2, [-scale, 0.0, scale], temperature, range(20)), draw)
    assert (rejected.out_tokens == torch.tensor([1, -1])).all() and not rejected.status.any()


def test_a_tiny_temperature_splits_ties_and_greedy_does_not():
    target = [[2.0, 5.0, 5.0], BONUS]
    tied = logits_case(target, -1, None, 2.0**-126, range(200))
    assert 60 < (reference(tied).out_tokens[:, 0] == 1).sum() < 140 and (reference(tied).out_tokens[:, 0] > 0).all()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        greedy = from_torch(torch.tensor([target] * 9).to(dtype), torch.full((9, 1), -1), kind="logits", temperature=0.0)
        assert (reference(greedy).out_tokens[:, 0] == 1).all()


@DRAWS
def test_draft_lse_that_is_true_changes_nothing(draw):
    arguments = {"batch": 20, "draft_len": 4, "vocab": 300, "logits": True, "temperature": [0.0, 0.6, 1.0, 1.5] * 5, "seed": 3}
    for dtype in (torch.float32, torch.bfloat16):
        with_it, without = (make_problem(draft_lse=lse, dtype=dtype, **arguments) for lse in (True, False))
        assert all(map(torch.equal, reference(with_it, draw), reference(without, draw)))


def test_draft_lse_is_trusted():
    rows = [[0.0, 0.0], [0.0, 0.0]]  # target and draft both half and half: always accepted ...
    chance = lambda lse, temperature=1.0: int(reference(
        logits_case(rows, 0, [0.0, 0.0], temperature, range(150), draft_lse=lse)).num_accepted.sum())
    assert chance(float(np.log(2))) == 150 and chance(0.0, 0.0) == 150 and chance(NAN, 0.0) == 150
    assert 40 < chance(0.0) < 110           # ... unless the drafter says that it was certain: q = 1
    assert chance(5.0) == 150 and chance(NAN) == chance(INF) == chance(-INF) == 0
    outputs = reference(logits_case(rows, 0, [0.0, 0.0], 1.0, range(150), draft_lse=5.0))
    assert not outputs.status.any()
    for lse in (NAN, INF, -INF):
        assert (reference(logits_case(rows, 0, [0.0, 0.0], 1.0, range(40), draft_lse=lse)).status == NONFINITE | ZERO_RESIDUAL).all()


@DRAWS
def test_with_draft_lse_a_bad_draft_entry_is_met_where_it_is_read(draw):
    target = [[0.0, 0.0, 0.0], BONUS]
    answer = lambda token, bad: [x.tolist() for x in reference(logits_case(target, token, [-5.0, bad, -5.0], draft_lse=0.0), draw)]
    for bad in (NAN, INF):
        assert answer(0, bad)[1:] == [[1], [0]]             # the tested entry is fine, the others are not read
        (tokens,), count, status = answer(1, bad)           # tested: rejected, and without weight in the residual
        assert tokens[0] in (0, 2), tokens
        assert count == [0] and status == [NONFINITE]
        assert answer(5, bad)[2] == [NONFINITE | BAD_TOKEN]


def test_a_draw_by_proposals_meets_the_draft_row_where_it_proposes():
    """Four ids of equal mass, the drafted one rejected for certain; the draft row is not finite at id 1, which its draft_lse hides."""
    target, seeds = [[-INF, 0.0, 0.0, 0.0], BONUS + [-INF]], range(300)
    for bad in (NAN, INF):
        problem = logits_case(target, 0, [0.0, bad, -5.0, -5.0], 1.0, seeds, draft_lse=0.0)
        by_sum, by_proposals = reference(problem), reference(problem, "propose")
        assert (by_sum.status == NONFINITE).all() and not (by_proposals.out_tokens[:, 0] == 1).any()
        for b in seeds:
            token, proposed = propose(np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.0, 0.0, 0.98, 0.98]), b, 0)
            assert int(by_proposals.status[b]) == NONFINITE * (1 in proposed) and int(by_proposals.out_tokens[b, 0]) == token
        assert 60 < int((by_proposals.status == NONFINITE).sum()) < 140  # a third proposes it first, few behind one that is not kept


@DRAWS
def test_logits_and_their_probabilities_agree(draw):
    problem = make_problem(batch=20, draft_len=4, vocab=300, logits=True, temperature=[0.0, 0.6, 1.0, 1.5] * 5, seed=3)
    ours, theirs = reference(problem, draw), reference(problem.probs(), draw)
    assert torch.equal(ours.out_tokens, theirs.out_tokens) and torch.equal(ours.num_accepted, theirs.num_accepted)


def test_acceptance_rate_is_the_measured_one():
    problem = make_problem(batch=2000, draft_len=1, vocab=60, acceptance=0.7, seed=5)
    assert reference(problem).num_accepted.double().mean() == pytest.approx(problem.acceptance, abs=0.04)


def test_pieces_for_the_checker():
    problem = make_problem(batch=2, draft_len=3, vocab=20, acceptance=0.5, seed=1)
    decisions = decide(problem, 1)
    assert all(d.accepted for d in decisions[:-1]) and decisions[0].u == float(philox.accept_uniforms(problem)[3])
    assert decisions[0].target == float(problem.target[4, problem.draft_tokens[3]])
    weights, zero_residual, unusable = row_weights(problem, 1, 3)
    assert weights.dtype == np.float64 and weights.tolist() == problem.target[7].double().tolist()
    assert not zero_residual and unusable.tolist() == [False] * 20
    with pytest.raises(ValueError, match="^draw"):
        reference(problem, "inverse")
