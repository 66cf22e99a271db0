"""Training a draft with features: all depths at once are what decoding computes token by token; what counts; several processes."""
import json
import time

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("safetensors")

from spec_toolkit import cli, distill_ranks, distill_student, distill_tiny, draft_weights
from spec_toolkit.distill import Distillation, distill
from spec_toolkit.distill_depths import Parts, unrolled
from spec_toolkit.distill_loss import overlaps
from spec_toolkit.distill_measure import acceptance
from spec_toolkit.distill_positions import chosen
from spec_toolkit.distill_recipe import Recipe
from spec_toolkit.features import takes_features, with_features
from spec_toolkit.own_text import TextSampler, Turns

TINY = {"layers": 2, "batch": 64, "length": 32, "rows": 32, "held_out": 64, "seconds": 600, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def target():
    torch.set_num_threads(1)
    return distill_tiny.target()


@pytest.fixture
def draft(target):
    """Two layers, and a matrix of features that is far from zero."""
    made = draft_weights.cut(target, 2, features=True)
    torch.nn.init.normal_(made.features.weight, std=0.3, generator=torch.Generator().manual_seed(3))
    return made


@pytest.fixture(scope="module")
def pool(target):
    return TextSampler(target, 12, 24, Turns(0, ((1, 3), (1, 2)))).sample([[1, 5, 0], [1, 2], [7] * 9] * 4, [1.0, 1.0, 0.7] * 4, seed=4)


def decoded(draft, tokens, hidden, start, depth):
    """States of the `depth` drafts of the step that begins behind position `start`, as decoding has them: one token at a time, over the
    cache of transformers. tokens [length], hidden [length, width]: the target's."""
    from transformers import DynamicCache
    cache, feature, states = DynamicCache(config=draft.config), torch.zeros_like(hidden[0]), []
    for place in range(start + depth):
        read = with_features(draft.model.embed_tokens(tokens[place]), feature, draft.features.weight)
        state = draft.model(inputs_embeds=read[None, None], past_key_values=cache, use_cache=True).last_hidden_state[0, 0]
        feature = hidden[place] if place < start else state
        states.append(state)
    return states[start:]


@torch.no_grad()
def test_all_depths_at_once_are_decoding_step_by_step(draft, pool):
    found = unrolled(draft, pool.tokens, pool.hidden, depth=4)
    for text in (0, 2):
        for start in (0, 1, 2, 7, 20):
            for d, state in enumerate(decoded(draft, pool.tokens[text], pool.hidden[text], start, 4)):
                torch.testing.assert_close(found[d][text, start + d], state, atol=2e-5, rtol=1e-4, msg=f"start {start} depth {d + 1}")
    assert (found[0] - found[1])[:, 2:].abs().max() > 0.1  # the drafts' own states are not the target's
    torch.testing.assert_close(unrolled(draft, pool.tokens, pool.hidden)[0], found[0])


@torch.no_grad()
def test_without_features_it_is_the_plain_model(draft, pool):
    torch.testing.assert_close(unrolled(draft, pool.tokens, torch.zeros_like(pool.hidden))[0], draft.model(pool.tokens).last_hidden_state)
    plain = draft_weights.cut(draft, 2)
    torch.testing.assert_close(unrolled(plain, pool.tokens)[0], draft.model(pool.tokens).last_hidden_state)


def test_gradients_reach_the_first_depth_through_the_drafts_behind_it(draft, pool):
    draft.requires_grad_(True)
    first, second, third = unrolled(draft, pool.tokens, pool.hidden, depth=3)
    (gradient,) = torch.autograd.grad(third[0, 10].sum(), first, retain_graph=True)
    assert gradient[0, 8].abs().max() > 0 and not gradient[0, 9:].any() and not gradient[1:].any()  # as the feature of the second draft
    (gradient,) = torch.autograd.grad(third[0, 10].sum(), draft.features.weight)
    assert gradient.abs().max() > 0


def test_positions_that_are_chosen(pool):
    recipe, n = Recipe(**TINY | {"first_share": 1.0, "deep_share": 0.5, "rest_weight": 0.0}), pool.free.numel()
    plain = torch.arange(12) % 4 == 0
    places, weight, counts = chosen(pool, plain, recipe)
    assert counts == [n, n // 2, n // 2] and len(places) == len(weight) == 2 * n and len(set(places.tolist())) == 2 * n
    assert [float(part.sum()) for part in weight.split(counts)] == pytest.approx(recipe.depth_weights) and sum(recipe.depth_weights) == 1
    wanted = {place for place, each in zip(places.tolist(), weight.tolist()) if each > 0}
    answer, free = pool.answer, pool.free
    for d in range(3):
        for text in range(12):
            for place in range(24):
                drawn = all(place >= back and free[text, place - back] for back in range(d + 1))
                assert (d * n + text * 24 + place in wanted) == bool(answer[text, place] and drawn and not (d and plain[text]))
    everything = chosen(pool, plain, Recipe(**TINY | {"first_share": 1.0, "rest_weight": 1.0}))
    assert int((everything[1][:n] > 0).sum()) == pool.drawn
    few = chosen(pool, plain, Recipe(**TINY | {"first_share": 0.1, "rest_weight": 1.0}))
    assert (few[1][:few[2][0]] > 0).all()  # those that count come first


@torch.no_grad()
def test_acceptance_by_depth_is_what_a_loop_counts(draft, target, pool):
    """Against sums over single positions: the second draft counts where the first one was accepted."""
    said = acceptance(draft, target.lm_head.weight, pool, depth=2, rows=5)
    states = [state.flatten(0, 1) for state in unrolled(draft, pool.tokens, pool.hidden, 2)]
    heat, behind = pool.heat.repeat_interleave(24), torch.roll(pool.tokens, -1, 1).flatten()
    first, second = (overlaps(state, pool.hidden.flatten(0, 1), target.lm_head.weight, heat, behind) for state in states)
    for kind, flags in (("all", pool.free), ("answers", pool.answer), ("rest", pool.free & ~pool.answer)):
        for heat in (1.0, 0.7):
            weighted = count = 0.0
            for text in (pool.heat == torch.tensor(heat)).nonzero()[:, 0].tolist():
                for place in range(1, 24):
                    if flags[text, place] and flags[text, place - 1]:
                        came = float(first[2][text * 24 + place - 1])
                        weighted, count = weighted + came * float(second[0][text * 24 + place]), count + came
            if kind in said and f"{heat:g}" in said[kind]:
                assert said[kind][f"{heat:g}"][1]["acceptance"] == pytest.approx(weighted / count, abs=1e-4)
                assert said[kind][f"{heat:g}"][1]["tokens"] == round(count)
    assert set(said) == {"all", "answers", "rest"}
    plain = acceptance(draft, target.lm_head.weight, pool, features=False)
    assert plain == acceptance(draft_weights.cut(draft, 2), target.lm_head.weight, pool) != acceptance(draft, target.lm_head.weight, pool)


@pytest.fixture(scope="module")
def trained(target, tmp_path_factory):
    """(folder, what distill said) of a draft with features, depth 3."""
    folder = tmp_path_factory.mktemp("features")
    return folder, distill(target, distill_tiny.tokenizer(), folder, Recipe(steps=80, **TINY), "tiny", say=lambda line: None)


def test_a_draft_with_features_learns_at_every_depth(target, trained):
    folder, said = trained
    first, last = said["curve"][0], said["acceptance_by_kind"]
    assert takes_features(draft_weights.load(target, folder)) and said["recipe"]["features"] and said["recipe"]["depth"] == 3
    assert draft_weights.load(target, folder).features.weight.abs().max() > 0.005
    assert said["acceptance"] == {heat: by_depth[0] for heat, by_depth in last["all"].items()}
    for d in range(3):
        assert last["answers"]["1"][d]["acceptance"] > first["acceptance_of_answers"]["1"][d] + 0.04
    assert len(said["curve"][-1]["train_total_variation_by_depth"]) == 3
    assert said["acceptance_without_features"]["all"]["1"][0]["acceptance"] > first["acceptance"]["1"] + 0.04
    assert said["processes"] == 1 and said["how"]["laws"] == "eager"


def test_going_on_with_and_without_features(target, trained, tmp_path):
    folder, said = trained
    words, quiet = distill_tiny.tokenizer(), lambda line: None
    more = Recipe(steps=1, seed=1, **TINY | {"learning_rate": 1e-5})
    again = distill(target, words, tmp_path / "again", more, say=quiet, start=folder)
    assert again["curve"][0]["acceptance"]["1"] == pytest.approx(said["acceptance"]["1"]["acceptance"], abs=0.06)
    plain = Recipe(steps=1, features=False, **TINY | {"depth": 1})
    before = distill(target, words, tmp_path / "plain", plain, say=quiet)
    assert before["acceptance_without_features"] is None and not takes_features(draft_weights.load(target, tmp_path / "plain"))
    from_plain = distill(target, words, tmp_path / "from", more, say=quiet, start=tmp_path / "plain")
    assert from_plain["before"] == before and takes_features(draft_weights.load(target, tmp_path / "from"))
    with pytest.raises(ValueError, match="start: got a draft of 2 layers"):
        distill(target, words, tmp_path / "no", plain, say=quiet, start=folder)
    with pytest.raises(ValueError, match="accepted: one of 1 layers"):
        distill(target, words, tmp_path / "no", Recipe(steps=1, **TINY | {"layers": 1}), say=quiet, start=folder)


def test_recipes_that_cannot_be():
    for wrong, said in (({"features": False}, "depth: got 3, accepted: 1 without features"),
                        ({"depth": 33}, "depth: got 33, accepted: up to length"),
                        ({"plain_share": 1.5}, "plain_share: got 1.5, accepted: 0 to 1"),
                        ({"deep_share": 0}, "deep_share: got 0, accepted: above 0, up to 1")):
        with pytest.raises(ValueError, match=said):
            Recipe(**TINY | wrong)


def test_a_compiler_that_fails_in_the_backward_is_given_up(target, pool):
    """On a GPU the gradient's code is compiled when it is first wanted: the first step is then done again as it stands."""
    student = distill_student.Student(target, Recipe(**TINY), distill_ranks.Ranks())

    class Broken(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.clone())

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no compiler")
    behind = student.parts.behind
    behind.function = lambda *given: Broken.apply(behind.plain(*given))
    student.warm_up(pool)
    assert set(student.how.values()) == {"eager, for compiling failed: RuntimeError"} and isinstance(student.parts, Parts)
    behind.plain = behind.function = lambda *given: Broken.apply(given[0])
    for each in student.compiled:
        each.function = each.plain
    with pytest.raises(RuntimeError, match="no compiler"):
        student.warm_up(pool)


def _process(folder):
    """What one process does: train, and save what it has."""
    torch.set_num_threads(1)
    ranks, _ = distill_ranks.joined("cpu")
    recipe = Recipe(steps=5, pools_kept=2, **TINY | {"batch": 16, "length": 24, "rows": 8, "held_out": 16})
    training = Distillation(distill_tiny.target(), distill_tiny.tokenizer(), folder, recipe, "tiny", time.monotonic(), print, None, ranks)
    assert (training.run() is None) == (ranks.rank > 0) and training.steps == 5
    saved = {"weights": draft_weights.own_weights(training.student.draft), "drawn": training.pools.drawn}
    torch.save(saved | {"pools": [pool.tokens for pool in training.pools.kept]}, f"{folder}/rank{ranks.rank}.pt")
    distill_ranks.left(ranks)


def test_two_processes_train_one_draft(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    distill_ranks.spread(2, _process, str(tmp_path / "two"))
    _process(str(tmp_path / "one"))
    first, second, alone = (torch.load(tmp_path / name) for name in ("two/rank0.pt", "two/rank1.pt", "one/rank0.pt"))
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())
    assert not any(torch.equal(weight, alone["weights"][name]) for name, weight in first["weights"].items())
    assert torch.equal(first["pools"][-1], alone["pools"][-1]) and not torch.equal(first["pools"][-1], second["pools"][-1])
    assert first["drawn"] == second["drawn"] > alone["drawn"]
    said = json.loads((tmp_path / "two" / "provenance.json").read_text())
    assert said["processes"] == 2 and said["steps"] == 5 and said["tokens"] == 2 * 5 * 8 * 24 and said["finished"]


def _failing():
    ranks, _ = distill_ranks.joined("cpu")
    if ranks.rank == 1:
        raise RuntimeError("this one fails")
    ranks.agreed(0), ranks.total(1)  # waits for the other


def test_a_process_that_fails_ends_the_others():
    with pytest.raises(Exception, match="this one fails|Process"):
        distill_ranks.spread(2, _failing)


def test_the_command_without_features_and_on_from_there_in_two_processes(tmp_path, capsys):
    distill_tiny.tokenizer().save_pretrained(tmp_path)
    distill_tiny.target().save_pretrained(tmp_path)
    given = ["distill", "--target", str(tmp_path), "--device", "cpu", "--out", str(tmp_path / "draft"), "--steps", "2", "--no-features"]
    assert cli.main(given) == 0 and "without features" not in capsys.readouterr().out
    said = json.loads((tmp_path / "draft" / "provenance.json").read_text())
    assert said["recipe"]["depth"] == 1 and not said["recipe"]["features"]
    assert cli.main([*given, "--processes", "2", "--start", str(tmp_path / "draft"), "--features"]) == 0
    said = json.loads((tmp_path / "draft" / "provenance.json").read_text())
    assert said["processes"] == 2 and said["before"]["recipe"]["depth"] == 1 and said["recipe"]["features"]
    assert cli.main([*given, "--processes", "0"]) == 2 and "--processes: got 0, accepted: 1 or more" in capsys.readouterr().err
    assert cli.main([*given, "--depth", "2"]) == 2 and "depth: got 2, accepted: 1 without features" in capsys.readouterr().err
    missing = ["distill", "--target", str(tmp_path / "none"), "--device", "cpu", "--processes", "2", "--out", str(tmp_path / "draft")]
    assert cli.main(missing) == 2 and (said := capsys.readouterr().err).startswith("spec-toolkit distill: ") and "Traceback" not in said


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_depths_are_the_same_and_a_step_is_compiled(draft, pool):
    """All depths against the CPU's, in float32; then a step in bfloat16, whose functions all compile."""
    found = unrolled(draft, pool.tokens, pool.hidden, depth=3)
    on_gpu = unrolled(draft.to("cuda"), pool.tokens.cuda(), pool.hidden.cuda(), depth=3)
    for ours, theirs in zip(on_gpu, found):
        torch.testing.assert_close(ours.cpu(), theirs, atol=2e-3, rtol=1e-2)
    large = distill_tiny.target().to("cuda", torch.bfloat16)
    texts = TextSampler(large, 64, 64).sample([[1, 2]] * 64, [1.0] * 64, seed=1)
    student = distill_student.Student(large, Recipe(**TINY | {"length": 64}), distill_ranks.Ranks())
    student.warm_up(texts)
    before = student.step(texts, 0.02).tolist()
    assert set(student.how.values()) == {"compiled"} and all(0 < each < 1 for each in before[0])
