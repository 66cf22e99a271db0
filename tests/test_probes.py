"""The probes find what they look for, and nothing in samplers that are right."""
import pytest
import torch
from test_examine import Own, Wrong

from spec_toolkit import load_sampler, make_problem
from spec_toolkit.baselines import load_baseline
from spec_toolkit.defects import MUTANTS
from spec_toolkit.mutant_kernels import load_mutant, rung_text
from spec_toolkit.probes import TURNS, is_move, probe, rebatched, rebound, reordered, resplit

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


def mutant(name, rung):
    return load_mutant(BY_NAME[name], rung)


@pytest.fixture
def problem():
    return make_problem(4, [2, 0, 1, 3], 700, seed=3)


def nothing(problem, outputs):
    pass


@pytest.mark.parametrize("name", ["v1", "v6"])
def test_nothing_in_a_rung(name):
    found = probe(load_sampler(name))
    assert set(found) == {"8 re-batchings", "inputs changed under a bound call", "other multiprocessor counts", "other thread orders",
                          "blocks that take turns", "inputs changed between blocks that take turns"}
    assert not any(found.values()), found
    assert [name for name in found if is_move(name)] == ["8 re-batchings", "other multiprocessor counts"]


def test_other_orders_see_rows_that_are_fetched_late_without_a_barrier():
    """V9 fetches the draft row of a rejection late where the drafter gave its log-normaliser; other warps then weigh it."""
    text, barrier = rung_text("v9"), "    __syncthreads();\n    // A lane's part of piece"
    assert barrier in text, "v9 reads otherwise now: rewrite this mutant"
    found = probe(load_sampler(source=text.replace(barrier, barrier.split("\n")[1])))
    assert found.pop("other thread orders") and not any(probe(load_sampler("v9")).values())


def test_only_what_means_something():
    assert set(probe(load_baseline("torch_vectorised"), rebatchings=3)) == {"3 re-batchings"}
    assert not any(probe(load_baseline("torch_vectorised"), rebatchings=3, kind="logits").values())


def test_rebatched_finds_a_slot(problem):
    assert rebatched(load_sampler("v1"), problem, 20) == []
    found = rebatched(mutant("randomness of the slot", "v4"), problem, 20)
    assert found and "in slot" in found[0] and "before" in found[0]


def test_rebatched_finds_a_batch_size_a_tail_and_a_count(problem):
    def size(given, outputs):
        if given.batch > 6:
            outputs.num_accepted[0] += 1
    def tail(given, outputs):
        if given.max_draft < problem.max_draft:
            outputs.out_tokens[0, -1] = 5
    for mistake in (size, tail):
        assert rebatched(Wrong(mistake), problem, 30)
    def status(given, outputs):
        outputs.status[:] = given.batch
    assert rebatched(Wrong(status), problem, 10) == [], "it does not report its status"
    assert rebatched(Wrong(status, reports_status=True), problem, 10)


def test_rebatched_seeds_a_generator_of_its_own_and_leaves_it_as_it_was():
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    found = rebatched(Own(nothing), make_problem(4, 2, 50), 5)
    assert found and torch.equal(torch.rand(3), expected)
    class Kept(Own):
        """Numbers by request, whatever the slot: what a seed of its own would give."""
        def bind(self, problem):
            return self.right.bind(problem)
    assert rebatched(Kept(nothing), make_problem(4, 2, 50), 5) == []


def test_rebatched_is_the_same_again(problem):
    one, other = (rebatched(mutant("randomness of the slot", "v1"), make_problem(40, 1, 70), 4, seed=2) for _ in range(2))
    assert one == other and one


def test_resplit_finds_a_grid(problem):
    assert resplit(load_sampler("v5"), make_problem(2, 1, 9001), (1, 2, 13)) == []
    text = load_sampler("v1").text.replace("status[request] = bits;", "status[request] = bits + (gridDim.x > 1);")
    text = text.replace('grid  = "ceil_div(batch, BLOCK)"', 'grid  = "ceil_div(batch, BLOCK) * min(2, sm_count)"')
    sampler = load_sampler(source=text)
    assert resplit(sampler, problem, (1, 13)) == ["told of 1 multiprocessors: other outputs"]
    assert sampler.symbols(problem)["sm_count"] > 1, "it is told the truth again"


def test_reordered_finds_a_missing_barrier(problem):
    assert reordered(load_sampler("v4"), problem) == []
    found = reordered(mutant("missing barrier", "v4"), problem)
    assert found and found[0].startswith("threads ")


def test_blocks_that_take_turns_show_a_decision_that_came_too_early():
    """Run one by one, the block that may write is always the last to write."""
    given = make_problem(30, 3, vocab=1500, logits=True, acceptance=0.6, seed=1)
    assert reordered(load_sampler("v10"), given, TURNS) == []
    hasty = mutant("ends at any rejection", "v10")
    assert reordered(hasty, given) == [] and reordered(hasty, given, TURNS)


def test_rebound_finds_numbers_kept_from_before():
    one, other = (make_problem(3, [2, 0, 1], 200, seed=seed) for seed in (1, 2))
    first = one.target.clone()
    assert rebound(load_sampler("v2"), one, other) == []
    assert torch.equal(one.target, first), "the problem is as it was"
    class Kept:
        """Takes its copies at bind."""
        name, kind, draw, ulps, reports_status = "kept", "kernel", "cdf", 1.0, False
        def bind(self, problem):
            return load_baseline("torch_vectorised").bind(problem.take(range(problem.batch)))
        def __call__(self, problem):
            return self.bind(problem)()
    found = rebound(Kept(), one, other)
    assert [text.split(" of a bound problem")[0] for text in found] == ["call 2", "call 3"]


def test_rebound_finds_what_a_block_takes_from_the_call_before_only_when_blocks_take_turns():
    given = [make_problem(30, 5, 1500, logits=True, acceptance=0.6, seed=seed) for seed in (1, 2)]
    stale = mutant("verdicts of another call looked at", "v10")
    assert rebound(load_sampler("v10"), *given, TURNS) == [] == rebound(stale, *given)
    assert any("interleaved" in text for text in rebound(stale, *given, TURNS))


def test_a_kernel_that_faults_is_a_finding():
    found = probe(mutant("reads past the row", "v1"))
    assert any("out-of-bounds" in text for texts in found.values() for text in texts)
