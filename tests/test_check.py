"""The checker must pass what is right and refuse what is wrong: most of these samplers are broken on purpose."""
import json
import math

import numpy as np
import pytest
import torch

from spec_toolkit import baselines, philox
from spec_toolkit.baselines import load_baseline
from spec_toolkit.check import CheckResult, check
from spec_toolkit.chi_square import chi2_tail, chi_square, detectable_noncentrality
from spec_toolkit.fingerprint import fingerprint
from spec_toolkit.law import law_check
from spec_toolkit.problem import NONFINITE, Outputs, from_torch
from spec_toolkit.reference import draw_token, proposal_uniforms, reference, row_weights, usable
from spec_toolkit.request_rows import target_row
from spec_toolkit.synthetic import make_problem


class Spoilt:
    """The vectorised baseline, with `spoil(problem, outputs)` applied to what it wrote. reports_status stays False."""
    name, kind, draw, ulps, reports_status, source_hash = "spoilt", "kernel", "cdf", 1.0, False, "0"

    def __init__(self, spoil, **attributes):
        self.spoil = spoil
        vars(self).update(attributes)

    def bind(self, problem):
        call = load_baseline("torch_vectorised" if not self.reports_status else "python_loop").bind(problem)
        spoil = self.spoil

        class Call:
            outputs = call.outputs

            def __call__(self):
                before = [tensor.clone() for tensor in call.outputs]
                call()
                spoil(problem, call.outputs, before)
                return call.outputs
        return Call()

    def __call__(self, problem):
        return self.bind(problem)()


@pytest.fixture
def problem():
    return make_problem(6, [3, 0, 8, 1, 0, 5], vocab=64, seed=4, row_padding=3)


def refused(problem, spoil, text, **attributes):
    result = check(Spoilt(spoil, **attributes), problem)
    assert not result and text in str(result), result
    return result


def test_pass_and_its_line(problem):
    result = check(Spoilt(lambda problem, outputs, before: None), problem)
    assert result and str(result).startswith("PASS spoilt: 6 of 6 requests exact, 0 explained; outputs all written; inputs unchanged")
    assert json.loads(json.dumps(result.to_dict()))["passed"] is True and "PASS" in result._repr_html_()


def test_wrong_token(problem):
    def spoil(problem, outputs, before):
        a = int(outputs.num_accepted[2])
        outputs.out_tokens[2, a] = (outputs.out_tokens[2, a] + 20) % problem.vocab
    result = refused(problem, spoil, "request 2 position")
    assert result.exact == 5 and len(result.failures) == 1 and result.failures[0].what == "token"
    assert json.dumps(result.to_dict()) and "interval" in str(result)


@pytest.mark.parametrize("token", [-2, 64, 10**9])
def test_token_outside_the_vocabulary(problem, token):
    def spoil(problem, outputs, before):
        outputs.out_tokens[1, 0] = token
    refused(problem, spoil, "an id in [0, 64)")


def test_wrong_count_copy_and_tail(problem):
    def count(problem, outputs, before): outputs.num_accepted[1] = 1
    def copy(problem, outputs, before): outputs.out_tokens[2, 0] += 1
    def tail(problem, outputs, before): outputs.out_tokens[1, 4] = 0
    refused(problem, count, "count: expected 0..0")
    refused(problem, tail, "tail: expected -1")
    long = make_problem(3, 4, vocab=64, acceptance=1.0)
    assert check(load_baseline("python_loop"), long) and int(load_baseline("python_loop")(long).num_accepted[2]) > 0
    refused(long, copy, "copy")


@pytest.mark.parametrize("which", range(3))
def test_unwritten_element(problem, which):
    def spoil(problem, outputs, before):
        outputs[which].view(-1)[-1] = before[which].view(-1)[-1]
    result = refused(problem, spoil, "unwritten")
    assert result.poison == "NOT all written"


def test_writes_into_an_input(problem):
    def spoil(problem, outputs, before): problem.target_probs[0, 0] += 1e-9
    def padding(problem, outputs, before): problem.target_probs.as_strided((1,), (1,), problem.vocab)[0] = 7.0
    def token(problem, outputs, before): problem.draft_tokens[-1] += 1
    problem.target_probs[0, 0] = 0.0
    refused(problem, spoil, "inputs changed: target_probs")
    refused(problem, padding, "inputs changed: target_probs")
    assert "draft_tokens" in check(Spoilt(token), problem).inputs


def test_second_call_differs(problem):
    calls = []
    def spoil(problem, outputs, before):
        calls.append(1)
        outputs.out_tokens[1, 0] = (outputs.out_tokens[1, 0] + len(calls) - 1) % problem.vocab
    refused(problem, spoil, "second call")


def test_wrong_shape_and_foreign_outputs(problem):
    class Foreign(Spoilt):
        def bind(self, problem):
            call = super().bind(problem)
            inner = type(call)
            class Other:
                outputs = call.outputs
                def __call__(self):
                    return Outputs(*(tensor.clone() for tensor in inner()()))
            return Other()
    assert "another tensor" in str(check(Foreign(lambda *a: None), problem))
    class Wide(Spoilt):
        def bind(self, problem):
            call = lambda: call.outputs
            call.outputs = Outputs(torch.zeros(6, 9, dtype=torch.int64), torch.zeros(6), torch.zeros(6))
            return call
    assert "torch.int64" in str(check(Wide(None), problem))


def test_inclusive_accept(monkeypatch):
    rows = torch.tensor([[[0.0, 0.4, 0.6], [0.2, 0.3, 0.5]]])
    zero = from_torch(rows, torch.tensor([[0]]), torch.tensor([[[0.0, 0.5, 0.5]]]))
    assert check(load_baseline("python_loop"), zero)
    monkeypatch.setattr(baselines, "accepts", lambda u, p, q: u * q <= p)
    for name in ("python_loop", "torch_vectorised"):
        result = check(load_baseline(name), zero)
        assert not result and result.failures[0].what == "decision"


def test_accept_without_the_draft_probability(monkeypatch):
    monkeypatch.setattr(baselines, "accepts", lambda u, p, q: u < p)
    assert not check(load_baseline("torch_vectorised"), make_problem(8, 5, vocab=50, acceptance=0.9))


def test_ignored_residual(monkeypatch):
    problem = make_problem(16, 4, vocab=200, acceptance=0.3)
    monkeypatch.setattr(baselines, "residual", lambda target, draft: target)
    assert not check(load_baseline("torch_vectorised"), problem)
    assert not check(load_baseline("python_loop"), problem)


def test_status_is_compared_if_reported(problem):
    def spoil(problem, outputs, before): outputs.status[3] = 1
    refused(problem, spoil, "status: expected 0, got 1", reports_status=True)
    result = check(Spoilt(spoil), problem)
    assert result and "status not reported" in str(result)


def boundary_problem(ulps):
    """One request, no drafts, two ids; the cumulative sum after id 0 lies `ulps` * 2^-24 of the total below the threshold."""
    empty = torch.zeros(1, 0, dtype=torch.int64)
    u = float(philox.uniform52(*philox.random_words(0, 0, philox.RECOVER, 0)[:2]))
    weight = u - ulps * 2.0**-24
    first = np.float32(weight)
    rest = np.float32(1.0) - first  # first + rest == 1 exactly (Sterbenz or u above 1/2), up to a rounding of 2^-25
    return from_torch(torch.tensor([[[first, rest]]]), empty)


@pytest.mark.parametrize("ulps, fine", [(1.5, True), (3.0, True), (6.0, False), (20.0, False)])
def test_off_by_one_is_explained_only_inside_its_interval(ulps, fine):
    problem = boundary_problem(ulps)
    right = int(load_baseline("python_loop")(problem).out_tokens[0, 0])
    assert right == 1
    def spoil(problem, outputs, before): outputs.out_tokens[0, 0] = 0
    result = check(Spoilt(spoil, ulps=4.0), problem)
    assert bool(result) == fine and result.exact == 0 and len(result.explained) == fine
    assert "interval" in str((result.explained + result.failures)[0])


@pytest.mark.parametrize("relative, fine", [(2.0**-23, True), (2.0**-20, False)])
def test_decision_is_explained_only_inside_its_interval(relative, fine):
    """u * draft a little above target: the reference rejects, a float32 sampler might not."""
    u = float(philox.uniform23(philox.random_words(0, 0, philox.ACCEPT, 0)[0]))
    draft = np.float32(0.5)
    target = np.float32(u * float(draft) * (1 - relative))
    assert target < u * float(draft)
    rows = torch.tensor([[[target, 1 - target], [0.5, 0.5]]])
    problem = from_torch(rows, torch.tensor([[0]]), torch.tensor([[[draft, 1 - draft]]]))
    assert int(load_baseline("python_loop")(problem).num_accepted) == 0
    bonus = int(philox.uniform52(*philox.random_words(0, 0, philox.RECOVER, 1)[:2]) >= 0.5)
    def spoil(problem, outputs, before):
        outputs.out_tokens[0] = torch.tensor([0, bonus])
        outputs.num_accepted[0] = 1
    assert bool(check(Spoilt(spoil), problem)) == fine


def test_zero_weight_is_never_explained():
    empty = torch.zeros(1, 0, dtype=torch.int64)
    def spoil(problem, outputs, before): outputs.out_tokens[0, 0] = 1
    problem = from_torch(torch.tensor([[[0.5, 0.0, 0.5]]]), empty)
    assert "weight zero" in str(check(Spoilt(spoil, ulps=1e9), problem))


def test_race_draw(problem):
    def spoil(problem, outputs, before):
        for b in range(problem.batch):
            a = int(outputs.num_accepted[b])
            weights = row_weights(problem, b, a)[0]
            noise = philox.race_noise(int(problem.seeds[b]), int(problem.positions[b]), np.arange(problem.vocab))
            outputs.out_tokens[b, a] = int(np.argsort(weights / noise)[-1 - rank])
    rank = 0
    assert check(Spoilt(spoil, draw="race"), problem).exact == 6
    rank = 1
    assert not check(Spoilt(spoil, draw="race"), problem)
    assert not check(Spoilt(spoil, draw="cdf"), problem)


def test_proposals(problem):
    def spoil(problem, outputs, before):
        for b in range(problem.batch):
            a = int(outputs.num_accepted[b])
            weights, target = row_weights(problem, b, a)[0], usable(target_row(problem, b, a))
            right, _ = draw_token(problem, b, a, weights, "propose")
            outputs.out_tokens[b, a] = right if not shift else int(np.flatnonzero(np.roll(weights, -1 - right))[0] + 1 + right) % len(target)
    shift = 0
    assert check(Spoilt(spoil, draw="propose"), problem).exact == 6
    assert not check(Spoilt(spoil, draw="cdf"), problem)
    shift = 1
    assert not check(Spoilt(spoil, draw="propose"), problem)


@pytest.mark.parametrize("silent", [True, False])
def test_the_status_of_a_draw_by_proposals(silent):
    """What no proposal met must not be told, and what one met must."""
    problem = make_problem(40, 1, vocab=65, acceptance=0.0, logits=True, draft_lse=True, seed=3)
    for b in range(problem.batch):
        problem.draft_logits[b, int(problem.target_logits[2 * b].argmax())] = float("nan")
    right = reference(problem, "propose")
    assert 5 < int((right.status == NONFINITE).sum()) < 35
    wrong = [int((right.status == (NONFINITE if silent else 0)).nonzero()[0])]
    def spoil(problem, outputs, before):
        for got, given in zip(outputs, right):
            got.copy_(given)
        outputs.status[wrong] ^= NONFINITE
    result = check(Spoilt(spoil, draw="propose", reports_status=True), problem)
    assert not result and "status" in str(result)
    wrong = []
    assert check(Spoilt(spoil, draw="propose", reports_status=True), problem).exact == 40


@pytest.mark.parametrize("at, open", [(0.0, True), (0.01, False), (-0.01, False)])
def test_a_status_is_open_only_where_rounding_decides_what_was_proposed(at, open):
    """The first proposal at the border of ids 0 and 1, neither of which can be kept; a NaN hides at id 0. The second gives id 2."""
    draws = lambda seed: [proposal_uniforms(seed, 0, k)[0] for k in range(2)]
    seed = next(seed for seed in range(1000) if 0.2 < draws(seed)[0] < 0.4 and draws(seed)[1] > 0.6)
    border = draws(seed)[0] + at
    target = torch.tensor([border, 0.05, 0.95 - border, 0.0], dtype=torch.float64).log().float()
    draft = torch.tensor([math.nan, math.log(0.5), -math.inf, -math.inf])
    problem = from_torch(torch.stack([target, target])[None], torch.tensor([[3]]), draft[None, None], kind="logits", draft_lse=torch.zeros(1, 1), seeds=[seed])
    def spoil(problem, outputs, before):
        for got, given in zip(outputs, ([[2, -1]], [0], [status])):
            got.copy_(torch.tensor(given))
    passed = []
    for status in (0, NONFINITE):
        passed.append(bool(check(Spoilt(spoil, draw="propose", reports_status=True), problem)))
    assert passed == ([True, True] if open else [at < 0, at > 0])


@pytest.mark.parametrize("ulps, fine", [(1.5, True), (3.0, True), (6.0, False), (20.0, False)])
def test_a_proposal_is_explained_only_inside_its_interval(ulps, fine):
    draw = proposal_uniforms(0, 0, 0)[0]
    first = np.float32(draw - ulps * 2.0**-24)
    problem = from_torch(torch.tensor([[[first, np.float32(1.0) - first]]]), torch.zeros(1, 0, dtype=torch.int64))
    assert int(reference(problem, "propose").out_tokens) == 1
    def spoil(problem, outputs, before): outputs.out_tokens[0, 0] = 0
    assert bool(check(Spoilt(spoil, draw="propose", ulps=4.0), problem)) == fine


@pytest.mark.parametrize("relative, fine", [(2.0**-25, True), (2.0**-18, False)])
def test_a_proposal_that_was_not_kept_is_explained_only_at_its_boundary(relative, fine):
    """Two ids; the first proposal is id 0, not kept by a little; the first that is kept is id 1."""
    for seed in range(1000):
        draw, keep = proposal_uniforms(seed, 0, 0)
        left = np.float32(0.5 * keep * (1 - relative))
        draft = torch.tensor([[[np.float32(0.5) - left, 0.0]]])
        problem = from_torch(torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]), torch.tensor([[7]]), draft, seeds=[seed])
        if draw < 0.4 and int(reference(problem, "propose").out_tokens[0, 0]) == 1:
            break
    def spoil(problem, outputs, before): outputs.out_tokens[0, 0] = 0
    assert bool(check(Spoilt(spoil, draw="propose"), problem)) == fine


def test_logits_softmax_is_allowed_for_but_no_more():
    problem = make_problem(16, 4, vocab=3000, logits=True, seed=8)
    assert check(load_baseline("torch_vectorised"), problem)
    def spoil(problem, outputs, before):
        a = int(outputs.num_accepted[0])
        outputs.out_tokens[0, a] = (outputs.out_tokens[0, a] + 1500) % 3000
    refused(problem, spoil, "token")


def test_fingerprint_sees_every_word():
    tensor = torch.zeros(1000, dtype=torch.int16)[::2]
    seen = {fingerprint(tensor)}
    for index in range(0, 500, 37):
        tensor[index] = 1
        seen.add(fingerprint(tensor, chunk=64))
        tensor[index] = 0
    assert len(seen) == 15 and fingerprint(tensor) in seen
    assert fingerprint(torch.zeros(3, dtype=torch.uint8)) != fingerprint(torch.tensor([0, 1, 0], dtype=torch.uint8))


# ---- the law -----------------------------------------------------------------------------------------------------------

TARGET = np.array([[.5, .3, .15, .05], [.1, .2, .3, .4], [.25, .25, .4, .1]], dtype=np.float32)
DRAFT = np.array([[.2, .3, .1, .4], [.4, .3, .2, .1]], dtype=np.float32)


@pytest.mark.parametrize("drafts", [{"draft_rows": DRAFT}, {"draft_rows": DRAFT, "draft_tokens": [3, 0]}, {"draft_tokens": [0, 3]}])
def test_law_of_a_right_sampler(drafts):
    result = law_check(load_baseline("torch_vectorised"), TARGET, draws=50_000, **drafts)
    assert result and 0 < result.detectable_tv < 0.025 and "99% power" in str(result), result
    assert json.dumps(result.to_dict())


def test_law_off_by_two_percent():
    """The token is replaced by id 0 in 1 of 40 requests: 2.5 percent times P(not 0), about 2 percent of total variation."""
    def spoil(problem, outputs, before):
        outputs.out_tokens[problem.seeds % 40 == 0, 0] = 0
    assert not law_check(Spoilt(spoil), TARGET[:1], draws=100_000)
    result = law_check(Spoilt(spoil), TARGET, DRAFT, draws=100_000)
    assert not result and "FAIL" in str(result)


def test_law_sees_an_ignored_residual_and_the_impossible(monkeypatch):
    def spoil(problem, outputs, before): outputs.out_tokens[0, 0] = 3
    target = np.array([[.5, .3, .2, 0]], dtype=np.float32)
    assert law_check(Spoilt(spoil), target, draws=1000).impossible == [(3,)]
    monkeypatch.setattr(baselines, "residual", lambda target, draft: target)
    assert not law_check(load_baseline("torch_vectorised"), TARGET, DRAFT, draws=20_000)


def test_law_needs_draws():
    with pytest.raises(ValueError, match="draws"):
        law_check(load_baseline("torch_vectorised"), TARGET, DRAFT, draws=3)


def test_chi_square_functions_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 2, 7, 60, 500):
        for x in (0.1, degrees * 0.7, degrees * 1.0, degrees + 3 * math.sqrt(2 * degrees), degrees + 80):
            assert chi2_tail(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), rel=1e-8, abs=1e-15)
        noncentrality = detectable_noncentrality(degrees, 1e-3, 0.99)
        critical = stats.chi2.isf(1e-3, degrees)
        assert stats.ncx2.sf(critical, degrees, noncentrality) == pytest.approx(0.99, abs=1e-5)


def test_detectable_bias_is_caught_as_often_as_it_says():
    """Simulated counts with the least visible bias of that size, through the same test."""
    draws, random = 5000, np.random.default_rng(0)
    tv = chi_square("x", [(0, 0.125)] * 8, draws, 1e-3, 0.99).detectable_tv
    biased = 0.125 * (1 + 2 * tv * np.array([1, -1] * 4))
    caught = 0
    for _ in range(300):
        counts = random.multinomial(draws, biased)
        caught += not chi_square("x", [(int(n), 0.125) for n in counts], draws, 1e-3, 0.99).passed
    assert 0.96 <= caught / 300 <= 1.0


def test_result_is_short_even_with_many_failures():
    result = CheckResult("x", "p", 9, 0, [], [f"failure {i}" for i in range(100)])
    assert len(str(result).splitlines()) == 7 and "95 more" in str(result)
