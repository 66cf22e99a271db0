"""Distilling a draft: the texts follow the target's law, the loss is the one that is said, the draft learns, the weights come back."""
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

from spec_toolkit import cli, distill_loss, distill_tiny, draft_weights, own_text_openings, own_text_questions, plot_distill, pretrained
from spec_toolkit.chi_square import chi_square
from spec_toolkit.compiled_function import Compiled
from spec_toolkit.distill import Distillation, distill
from spec_toolkit.distill_depths import unrolled
from spec_toolkit.distill_measure import acceptance
from spec_toolkit.distill_recipe import HEATS, Recipe
from spec_toolkit.distill_student import schedule
from spec_toolkit.distill_tiny import target as llama
from spec_toolkit.llm_prompts import PROMPTS
from spec_toolkit.own_text import TextSampler, Turns


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The tiny pair's tokenizer, and a folder with it and a model of its size."""
    tokenizer, folder = distill_tiny.tokenizer(), tmp_path_factory.mktemp("words")
    tokenizer.save_pretrained(folder)
    llama().save_pretrained(folder)
    return tokenizer, folder


def test_hidden_states_are_the_models_own():
    """Batched steps over the static cache against one forward of transformers, behind given and drawn tokens."""
    model = llama()
    pool = TextSampler(model, 3, 80).sample([[5], [1, 2, 3, 4], [7] * 10], [1.0, 0.7, 1.3], seed=1)
    with torch.no_grad():
        wanted = model.model(pool.tokens).last_hidden_state
    torch.testing.assert_close(pool.hidden, wanted, atol=2e-5, rtol=1e-4)
    assert pool.tokens[1, :4].tolist() == [1, 2, 3, 4] and pool.free.sum(1).tolist() == [80, 77, 71] and pool.drawn == 228
    assert len(set(map(tuple, pool.tokens[:, 20:].tolist()))) == 3


@pytest.mark.parametrize("heat", [1.0, 0.7])
def test_texts_follow_the_targets_law(heat):
    """The first two drawn tokens together against the exact law, 20,000 texts; another temperature's law is refused by the same counts."""
    model, draws = llama(vocab=9), 20_000
    pool = TextSampler(model, draws, 4).sample([[3, 1]] * draws, [heat] * draws, seed=5)
    pairs = torch.tensor([[3, 1, a] for a in range(9)])
    with torch.no_grad():
        logits = model(pairs).logits
    counts = torch.bincount(pool.tokens[:, 2] * 9 + pool.tokens[:, 3], minlength=81).numpy()

    def tested(temperature):
        law = (logits[0, 1] / temperature).softmax(-1)[:, None] * (logits[:, 2] / temperature).softmax(-1)
        return chi_square("pairs", list(zip(counts, law.flatten().double().numpy())), draws, 1e-4, 0.9)
    assert tested(heat).passed, str(tested(heat))
    assert not tested(heat * 1.3).passed


def test_turns_are_opened_and_not_counted_as_drawn():
    end = 2
    pool = TextSampler(llama(), 8, 60, Turns(end, ((7, 8), (9,)))).sample([[1]] * 8, [1.5] * 8, seed=3)
    turned = 0
    for text, free, answer in zip(pool.tokens.tolist(), pool.free.tolist(), pool.answer.tolist()):
        closed, role, i = [], 0, 1
        while i < len(text) - 3:
            assert answer[i - 1] == (free[i - 1] and role == 1)  # role 1: the assistant's turn has begun
            if text[i] == end:
                opening = [(7, 8), (9,)][role]
                assert tuple(text[i + 1:i + 1 + len(opening)]) == opening
                assert free[i:i + len(opening) + 1] == [False] * len(opening) + [True]
                closed, role, i = [*closed, i], 1 - role, i + len(opening)
            i += 1
        turned += len(closed)
    assert turned > 8


def test_an_opening_that_ends_a_turn_is_answered():
    """The assistant's words stand behind it and are not drawn; a mark inside of an opening ends nothing."""
    end = 2
    pool = TextSampler(llama(), 2, 12, Turns(end, ((7, 8), (9,)))).sample([[1, 5, end], [1, end, 5]], [1.0, 1.0], seed=3)
    assert pool.tokens[0, :5].tolist() == [1, 5, end, 7, 8] and pool.free[0, :5].tolist() == [False] * 4 + [True]
    assert pool.answer[0, 4] and pool.free[1, 2] and not pool.answer[1, 2] and pool.tokens[1, :3].tolist() == [1, end, 5]


def test_openings(words):
    tokenizer, _ = words
    assert own_text_openings.turns(tokenizer) == Turns(0, ((1, 3), (1, 2)))
    assert own_text_openings.chat_prefix(tokenizer) == [1, 4, 5, 0, 1, 2]
    made = own_text_openings.openings(tokenizer, 200, seed=1)
    assert made == own_text_openings.openings(tokenizer, 200, seed=1) != own_text_openings.openings(tokenizer, 200, seed=2)
    chats = [ids for ids in made if ids[:6] == [1, 4, 5, 0, 1, 2]]
    assert 160 < len(chats) < 198 and [1] in made
    assert 120 < sum(len(ids) > 7 and ids[-1] == 0 for ids in chats) < 170
    ours, theirs = (set(own_text_openings.pieces(held_out)) for held_out in (False, True))
    assert len(ours) > 5 * len(theirs) > 0 and not ours & theirs


def test_questions_are_ours_and_a_tenth_is_held_out():
    """None of the bench's prompts, nor six words of one in a row; held-out questions share no frame and no subject with the others."""
    import random
    made = [{own_text_questions.message(random.Random(i), held_out) for i in range(4000)} for held_out in (False, True)]
    runs = lambda text: {tuple(words[i:i + 6]) for words in [text.lower().split()] for i in range(len(words) - 5)}
    prompts = set().union(*map(runs, PROMPTS))
    assert not any(runs(text) & prompts for texts in made for text in texts)
    assert len(made[0]) > 2000 and 30 < len(made[1]) < 400 and not made[0] & made[1]
    for _, frames, subjects in own_text_questions.KINDS.values():
        for list_ in (frames, subjects or own_text_questions.TEXTS):
            ours, theirs = (own_text_questions.part(list_, held_out) for held_out in (False, True))
            assert len(ours) > 3 * len(theirs) > 0 and set(ours) | set(theirs) == set(list_) and not set(ours) & set(theirs)


def test_the_chat_format_is_read_from_the_template():
    """Not from eos_token, which some versions of transformers take from the wrong entry of a .gguf file."""
    tokenizer = distill_tiny.tokenizer()
    tokenizer.eos_token = "<start>"
    assert own_text_openings.turns(tokenizer) == Turns(0, ((1, 3), (1, 2)))
    silent = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    assert pretrained.stop_ids(silent, tokenizer) == {0, 1}
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    assert own_text_openings.turns(tokenizer) == Turns() and pretrained.stop_ids(silent, tokenizer) == {1}


def test_a_tokenizer_without_a_chat():
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=pytest.importorskip("tokenizers").Tokenizer(
        pytest.importorskip("tokenizers").models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    assert own_text_openings.turns(plain) == Turns() and own_text_openings.openings(plain, 4, 0)[0]


def test_the_loss_and_its_gradient(monkeypatch):
    """Against autograd in float64, in one chunk and in several."""
    generator = torch.Generator().manual_seed(0)
    draft, target, head = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((11, 6), (11, 6), (30, 6)))
    heat, weight = torch.tensor([1.0, 0.7] * 5 + [0.5]), torch.tensor([1.0, 0.0, 1.0] * 3 + [1.0, 1.0])

    def wanted(hidden):
        log_p, log_q = ((h @ head.T / heat[:, None]).log_softmax(-1) for h in (target, hidden))
        variation = 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)
        return ((variation + 0.3 * (log_p.exp() * (log_p - log_q)).sum(-1)) * weight).sum() / weight.sum()
    ours, theirs = draft.clone().requires_grad_(), draft.clone().requires_grad_()
    monkeypatch.setattr(distill_loss, "CHUNK", 4)
    loss, found = distill_loss.distance(ours, target, head, heat, weight / weight.sum(), 0.3)
    means = found @ (weight / weight.sum())
    expected = wanted(theirs)
    loss.backward(), expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(means[0] + 0.3 * means[1]) == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)
    overlap, same, taken = distill_loss.overlaps(draft, target, head, heat, torch.arange(11))
    assert float((1 - overlap) @ weight / weight.sum()) == pytest.approx(float(means[0]), rel=1e-5)
    assert torch.equal(same, (draft @ head.T).argmax(-1) == (target @ head.T).argmax(-1))
    p, q = ((h @ head.T / heat[:, None]).softmax(-1).diagonal() for h in (target, draft))
    torch.testing.assert_close(taken, (q / p).clamp(max=1).float(), rtol=1e-4, atol=1e-6)


def test_compiling_that_fails_is_no_reason_not_to_train():
    def broken(*_):
        raise RuntimeError("no compiler")
    function = Compiled(distill_loss.laws, compile=False)
    function.function = broken
    row = torch.randn(2, 5)
    assert torch.equal(function(row, row, torch.ones(2, 1), 0.5)[2], torch.zeros(2, 5))
    assert function.how == "eager, for compiling failed: RuntimeError"
    with pytest.raises(RuntimeError):
        function(row, row[:, :4], torch.ones(2, 1), 0.5)


def test_schedule():
    assert [schedule(x, 0.1) for x in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])


TINY = {"depth": 2, "batch": 64, "length": 32, "rows": 32, "held_out": 64, "seconds": 600}


@pytest.fixture(scope="module")
def trained(words, tmp_path_factory):
    """(target, folder, what distill said, lines) after 80 steps of a two-layer draft of a four-layer target."""
    target, folder, lines = llama(), tmp_path_factory.mktemp("draft"), []
    said = distill(target, words[0], folder, Recipe(steps=80, layers=2, learning_rate=5e-3, **TINY), "tiny", say=lines.append)
    return target, folder, said, lines


def test_the_draft_learns(trained):
    _, _, said, lines = trained
    first, last = said["curve"][0], said["curve"][-1]
    assert said["steps"] == 80 and said["finished"] and said["tokens"] == 80 * 32 * 32 and said["pools"] > 10
    for heat in ("1", "0.7"):
        assert said["acceptance"][heat]["acceptance"] > first["acceptance"][heat] + 0.1, (first, said["acceptance"])
    assert last["train_total_variation"] < 1 - first["acceptance"]["1"] - 0.05
    assert "held out: all T=1" in lines[0] and "; answers T=1" in lines[0] and "as written, on held-out texts" in lines[-1]


def test_adamw_learns_too(words, tmp_path):
    recipe = Recipe(steps=60, layers=2, learning_rate=5e-3, optimizer="adamw", **TINY)
    said = distill(llama(), words[0], tmp_path, recipe, say=lambda line: None)
    assert said["acceptance"]["1"]["acceptance"] > said["curve"][0]["acceptance"]["1"] + 0.05 and said["recipe"]["optimizer"] == "adamw"
    with pytest.raises(ValueError, match="optimizer: got 'sgd', accepted: muon, adamw"):
        distill(llama(), words[0], tmp_path, Recipe(steps=1, layers=2, optimizer="sgd", **TINY))


def test_the_weights_come_back(trained):
    target, folder, said, _ = trained
    assert said == json.loads((folder / "provenance.json").read_text()) and said["layers"] == 2
    assert all((folder / name).stat().st_size < 12e6 and hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
               for name, digest in said["files"].items())
    draft = draft_weights.load(target, folder)
    assert draft.model.embed_tokens is target.model.embed_tokens and draft.lm_head.weight is target.lm_head.weight
    assert len(draft.model.layers) == 2
    assert {weight.dtype for weight in draft_weights.own_weights(draft).values()} == {torch.float32}
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert not torch.allclose(draft(tokens).logits, draft_weights.cut(target, 2)(tokens).logits, atol=0.1)
        torch.testing.assert_close(draft(tokens).logits, unrolled(draft, tokens)[0] @ target.lm_head.weight.T)


def test_a_target_in_bfloat16(words, tmp_path):
    """As on a GPU: the target's rows in bfloat16, the draft's weights in float32 while it learns, and bfloat16 behind that."""
    target = llama().to(torch.bfloat16)
    said = distill(target, words[0], tmp_path, Recipe(steps=40, layers=2, **TINY), say=lambda line: None)
    assert said["acceptance"]["1"]["acceptance"] > said["curve"][0]["acceptance"]["1"] + 0.05
    draft = draft_weights.load(target, tmp_path)
    assert {weight.dtype for weight in draft.parameters()} == {torch.bfloat16} and draft.model.rotary_emb.inv_freq.dtype == torch.float32


def test_the_target_is_as_it_was(trained):
    target, *_ = trained
    assert all(torch.equal(was, now) for was, now in zip(llama().parameters(), target.parameters()))


def test_held_out_texts_are_not_trained_on(words, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("spec_toolkit.distill_pools.openings", lambda *given: asked.append(given) or own_text_openings.openings(*given))
    training = Distillation(llama(), words[0], tmp_path, Recipe(steps=4, layers=1, **TINY), "", 0.0, lambda line: None)
    seen = []
    step = training.student.step
    training.student.step = lambda pool, progress: seen.extend(map(tuple, pool.tokens.tolist())) or step(pool, progress)
    training.started = training.deadline = 1e18
    training.run()
    held = set(map(tuple, training.held_out.tokens.tolist()))
    assert len(held) == 64 and len(seen) == 5 * 32 and not held & set(seen)
    assert [given[3] for given in asked] == [True, *[False] * (len(asked) - 1)] and len({given[2] for given in asked}) == len(asked)
    heats, shares = HEATS
    assert set(training.held_out.heat.tolist()) == {torch.tensor(heat).item() for heat in heats}
    pools = [training.pools.sample().heat for _ in range(10)]
    assert float((torch.cat(pools) == 1).float().mean()) == pytest.approx(dict(zip(heats, shares))[1.0], abs=0.08)


def test_going_on_from_a_draft(trained, words, tmp_path):
    target, folder, said, _ = trained
    recipe = Recipe(steps=2, layers=2, learning_rate=1e-5, seed=1, **TINY)
    again = distill(target, words[0], tmp_path, recipe, start=folder, say=lambda line: None)
    assert again["before"] == said
    assert again["curve"][0]["acceptance"]["1"] == pytest.approx(said["acceptance"]["1"]["acceptance"], abs=0.05)


def test_acceptance_is_a_mean_over_drawn_tokens():
    target = llama()
    pool = TextSampler(target, 6, 20).sample([[1], [2] * 15] * 3, [1.0, 1.0, 0.7] * 2, seed=2)
    itself = acceptance(target, target.lm_head.weight, pool, rows=4)
    assert set(itself) == {"all", "rest"} and itself["all"] == itself["rest"]
    assert {heat: m["acceptance"] for heat, (m,) in itself["all"].items()} == {"1": 1.0, "0.7": 1.0}
    assert itself["all"]["1"][0]["same_likeliest_word"] == 1.0 and sum(m["tokens"] for m, in itself["all"].values()) == pool.drawn
    draft = draft_weights.cut(target, 1)
    states = unrolled(draft, pool.tokens)[0].detach().flatten(0, 1)
    overlap, *_ = distill_loss.overlaps(states, pool.hidden.flatten(0, 1), target.lm_head.weight, pool.heat.repeat_interleave(20),
                                        pool.tokens.flatten())
    chosen = (pool.free & (pool.heat == 1)[:, None]).flatten()
    found = acceptance(draft, target.lm_head.weight, pool)["all"]["1"][0]
    assert found["acceptance"] == pytest.approx(float(overlap[chosen].mean()), abs=1e-4)


def test_shards_stay_below_the_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(draft_weights, "SHARD", 120_000)
    target = llama()
    said = draft_weights.save(tmp_path, draft_weights.cut(target, 4), {})
    assert len(said["files"]) > 1 and all((tmp_path / name).stat().st_size < 120_000 for name in said["files"])
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(draft_weights.load(target, tmp_path)(tokens).logits, target(tokens).logits, atol=0.1, rtol=0.02)


def test_weights_that_cannot_be_had(trained, tmp_path, monkeypatch):
    target, folder, said, _ = trained
    with pytest.raises(pretrained.ModelError, match="no trained weights in .*spec-toolkit distill --out"):
        draft_weights.load(target, tmp_path)
    monkeypatch.setattr(draft_weights, "FOLDER", tmp_path)
    with pytest.raises(pretrained.ModelError, match="smollm2-draft: no trained weights"):
        pretrained.load("smollm2-draft")
    with pytest.raises(pretrained.ModelError, match="do not fit this target"):
        draft_weights.load(llama(vocab=50, head_dim=16), folder)
    name = next(iter(said["files"]))
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"cut off")
    with pytest.raises(pretrained.ModelError, match="not the file that provenance.json speaks of"):
        draft_weights.load(target, tmp_path)


def test_loading_by_name(trained, words, monkeypatch, tmp_path):
    target, folder, *_ = trained
    draft, tokenizer = pretrained.load(str(folder), target=(target, words[0]))
    assert tokenizer is words[0] and draft.lm_head.weight is target.lm_head.weight
    (tmp_path / "some.gguf").write_bytes(b"")
    assert pretrained._gguf(str(tmp_path)) == (tmp_path, {"gguf_file": "some.gguf"}) and pretrained._gguf("no/such") is None
    monkeypatch.setenv("SPEC_TOOLKIT_SMOLLM2", str(tmp_path))
    assert pretrained._smollm2()[1] == {"gguf_file": "some.gguf"}
    monkeypatch.setenv("SPEC_TOOLKIT_SMOLLM2", str(folder))
    with pytest.raises(pretrained.ModelError, match="SPEC_TOOLKIT_SMOLLM2=.*accepted: a folder with one .gguf"):
        pretrained.load("smollm2")


def test_the_command(words, tmp_path, capsys):
    _, folder = words
    given = ["distill", "--target", str(folder), "--device", "cpu", "--out", str(tmp_path / "draft")]
    assert cli.main([*given, "--seconds", "3", "--batch", "32", "--length", "24"]) == 0
    assert "as written, on held-out texts" in capsys.readouterr().out
    said = json.loads((tmp_path / "draft" / "provenance.json").read_text())
    assert said["finished"] and said["steps"] > 0 and said["environment"]["gpu"] is None and said["seconds"] < 60
    assert cli.main([*given, "--batch", "4"]) == 2 and "batch: got 4, accepted: at least rows (8)" in capsys.readouterr().err


def test_another_architecture_is_refused():
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match="model: got gpt2"):
        TextSampler(transformers.GPT2LMHeadModel(config), 2, 8)
    assert np.isfinite(llama(attention_bias=False).lm_head.weight.detach().numpy()).all()
    with pytest.raises(ValueError, match="attention_bias=True"):
        TextSampler(llama(attention_bias=True), 2, 8)


def test_the_figure_and_table_of_a_training(trained, tmp_path):
    _, _, said, _ = trained
    left, right = plot_distill.curve(said).axes
    drawn = [list(line.get_ydata()) for line in right.lines]
    assert drawn == [[point["acceptance"][heat] for point in said["curve"]] for heat in ("1", "0.7")]
    assert list(left.lines[1].get_ydata()) == [point["train_kl"] for point in said["curve"][1:]]
    assert "2 of 4 layers of tiny" in plot_distill.hardware(said) and "80 steps of 32 texts" in plot_distill.hardware(said)
    assert "cut off before its end" in plot_distill.hardware(said | {"finished": False})
    assert "80 steps of 128 texts" in plot_distill.hardware(said | {"processes": 4})
    by_depth, plain = said["acceptance_by_kind"]["answers"]["1"], said["acceptance_without_features"]["answers"]["1"]
    (row,) = [line for line in plot_distill.depths(said).splitlines() if line.startswith("| answers | 1 |")]
    assert [cell.split()[0] for cell in row.split("|")[3:-1]] == [f"{m['acceptance']:.3f}" for m in (*by_depth, *plain)]
    assert "without features" not in plot_distill.depths(said | {"acceptance_without_features": None})
    assert f"| 1 | {said['curve'][0]['acceptance']['1']:.3f} | {said['acceptance']['1']['acceptance']:.3f} ±" in plot_distill.table(said)


def test_the_notebook_with_and_without_kept_weights(trained, monkeypatch, tmp_path, capsys):
    pytest.importorskip("papermill")
    from test_notebooks import execute
    _, folder, said, _ = trained
    monkeypatch.setattr(draft_weights, "FOLDER", folder)
    names = execute("train_draft", monkeypatch, steps=20, out=str(tmp_path / "with"))
    assert f"are accepted {said['acceptance']['1']['acceptance']:.1%} of the time" in names["sentence"]
    assert (tmp_path / "with" / "train_draft.png").is_file()
    monkeypatch.setattr(draft_weights, "FOLDER", tmp_path)
    names = execute("train_draft", monkeypatch, steps=20, out=str(tmp_path / "without"))
    assert "layers of a random model" in names["sentence"] and "No trained weights are here yet" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_draw_what_the_steps_draw():
    """On a GPU: captured steps give texts whose hidden states are the model's, other texts for other seeds, the same for the same."""
    model = llama().to("cuda")
    sampler = TextSampler(model, 16, 150)
    assert sampler.how == "CUDA graphs"
    pools = [sampler.sample([[1, 2]] * 16, [1.0] * 16, seed=seed) for seed in (1, 2, 1)]
    assert torch.equal(pools[0].tokens, pools[2].tokens) and not torch.equal(pools[0].tokens, pools[1].tokens)
    with torch.no_grad():
        torch.testing.assert_close(pools[0].hidden, model.model(pools[0].tokens).last_hidden_state, atol=2e-3, rtol=1e-2)
