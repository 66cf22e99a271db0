"""The suite's cases are what their names claim, and a wrong sampler does not get past them."""
import pytest
import torch

from spec_toolkit import reference, suite, suite_cases
from spec_toolkit.baselines import load_baseline
from spec_toolkit.problem import NO_MASS, NONFINITE, ROW_DTYPES, ZERO_RESIDUAL, Outputs

QUICK = dict(suite.cases())


def outputs(name):
    return reference(QUICK[name])


def test_the_grid_covers_what_it_should():
    problems = QUICK.values()
    assert {*suite_cases.VOCABS, 32000} <= {p.vocab for p in problems} and {p.dtype for p in problems} == {*ROW_DTYPES}
    assert {0, 1, 67} <= {p.batch for p in problems} and {0, 128} <= {k for p in problems for k in p.draft_len}
    assert any(p.draft is None for p in problems) and any(p.target_stride > p.vocab for p in problems)
    assert any(len(set(p.draft_len)) > 1 and 0 in p.draft_len for p in problems)


@pytest.mark.parametrize("level, kind", [("thorough", "probs"), ("quick", "logits")])
def test_levels_hold_each_other_and_names_are_unique(level, kind):
    names = {lower: [case.name for case in suite.listed(lower, kind)] for lower in suite.LEVELS}
    assert len(set(names[level])) == len(names[level])
    assert set(names["few"]) < set(names["quick"]) < set(names["thorough"])


def test_acceptance_is_all_or_nothing():
    for name, problem in QUICK.items():
        if name.startswith("all "):
            accepted = reference(problem).num_accepted.tolist()
            assert accepted == (problem.draft_len if "accepted" in name else [0] * problem.batch), name


def test_edits_reach_the_reference():
    lengths = QUICK["zero residual"].draft_len
    assert [bool(s & ZERO_RESIDUAL) for s in outputs("zero residual").status.tolist()] == [k > 0 for k in lengths]
    assert (outputs("NaN and inf").status[:5] & NONFINITE).all()
    empty = outputs("empty rows")
    assert empty.status[5] & NO_MASS and empty.out_tokens[5, 0] == -1 and (empty.status & NO_MASS).count_nonzero() >= 2
    bad = QUICK["bad ids"].draft_tokens
    assert (bad == -1).any() and (bad == QUICK["bad ids"].vocab).any()


def test_one_hot_and_subnormal_rows():
    assert (QUICK["one-hot rows"].target.count_nonzero(1) == 1).all() and (QUICK["one-hot rows"].draft.count_nonzero(1) == 1).all()
    tiny = QUICK["subnormal entries"].target
    assert ((tiny > 0) & (tiny < torch.finfo(torch.float32).tiny)).any()


def test_misaligned_rows():
    for name in ("misaligned rows", "misaligned rows, even stride", "misaligned rows, one-hot drafts"):
        problem = QUICK[name]
        assert problem.target.data_ptr() % 16 == 4 and problem.target.storage_offset() == 1
    assert QUICK["misaligned rows, even stride"].target_stride % 16 == 0
    odd = QUICK["aligned rows with an odd end"]
    assert odd.target.data_ptr() % 16 == odd.target_stride % 16 == 0 and odd.vocab % 4 and (odd.target.as_strided((1,), (1,), odd.vocab) == 3e4).all()


@pytest.mark.parametrize("kind", ["probs", "logits"])
@pytest.mark.parametrize("name", ["python_loop", "torch_vectorised"])
def test_baselines_pass(name, kind):
    failed = [f"{case}: {result}" for case, result in suite.run_suite(load_baseline(name), "quick", "cpu", kind) if not result]
    assert not failed, "\n".join(failed)


class Wrong:
    """The Python loop with one mistake, made after the fact."""

    def __init__(self, mistake):
        self._right, self._mistake = load_baseline("python_loop"), mistake

    def __getattr__(self, name):
        return getattr(self._right, name)

    def bind(self, problem):
        call, mistake = self._right.bind(problem), self._mistake

        def wrong():
            mistake(problem, call())
            return call.outputs
        wrong.outputs = call.outputs
        return wrong

    def __call__(self, problem):
        return Outputs(*(tensor.clone() for tensor in self.bind(problem)()))


def last_id(problem, got):
    """A scan that never draws the last id."""
    got.out_tokens[got.out_tokens == problem.vocab - 1] = max(problem.vocab - 2, 0)


def token_zero(problem, got):
    """No mass answered with token 0."""
    got.out_tokens[got.status & NO_MASS != 0, 0] = 0


def odd_vocab(problem, got):
    """A tail past the last warp that is forgotten."""
    if problem.vocab > 32 and problem.vocab % 32:
        got.out_tokens[got.out_tokens >= problem.vocab // 32 * 32] = 0


def no_status(problem, got):
    got.status.zero_()


@pytest.mark.parametrize("mistake", [last_id, token_zero, odd_vocab, no_status])
def test_a_wrong_sampler_fails(mistake):
    found = suite.run_suite(Wrong(mistake))
    assert not all(result for _, result in found) and any(result for _, result in found)


def test_a_sampler_that_raises_fails_with_its_words_and_the_suite_goes_on():
    def explode(problem, got):
        if problem.vocab == 31:
            raise RuntimeError(f"no kernel for {problem.vocab}")
    failed = [(name, result) for name, result in suite.run_suite(Wrong(explode)) if not result]
    assert [name for name, _ in failed] == ["vocab 31", "vocab 31, one-hot drafts"]
    assert "RuntimeError: no kernel for 31" in str(failed[0][1])


def test_unknown_level_and_kind():
    for words in ({"level": "slow"}, {"kind": "odds"}):
        with pytest.raises(ValueError, match="accepted are levels few, quick, thorough"):
            suite.cases(**words)


def test_check_each_and_its_table():
    problem = QUICK["vocab 33, ragged"]
    checks = suite.check_each([load_baseline("torch_vectorised"), Wrong(last_id), Wrong(lambda p, g: 1 / 0)], problem)
    lines = suite.table(checks).splitlines()
    assert len(lines) == 5 and "| torch_vectorised | PASS | 4 of 4 |" in lines[2] and "FAIL" in lines[4] and "ZeroDivisionError" in lines[4]
