"""The decoding loop on tiny random models: greedy text equal to plain text, the law of the first tokens, seeds, stops, counts."""
import copy
import re

import pytest
import torch

from spec_toolkit import paths

pytest.importorskip("transformers")

from tiny_llm import KINDS, PROMPTS, REPEATING, VOCAB, drafts, law_test, naive, speculation_follows_the_law

from spec_toolkit.cached_model import CachedModel
from spec_toolkit.drafting import DraftNumbers, NgramDrafter
from spec_toolkit.llm import Decoder, NoMass
from spec_toolkit.loop_law import Accepting, moved, tiny_model
from spec_toolkit.philox import DRAFT, random_words, uniform52


@pytest.fixture(scope="module")
def target():
    return tiny_model()


@torch.no_grad()
def test_the_models_heed_what_they_read(target, small):
    """Else no test here could tell a wrong cache, mask or position: the last row with two earlier tokens exchanged."""
    for model, least in ((target, 0.1), (small, 0.04)):
        rows = torch.softmax(model(torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 4, 3, 5, 6]])).logits[:, -1], 1)
        assert (rows[0] - rows[1]).abs().sum() / 2 > least


# ---- greedy: the same text ---------------------------------------------------------------------------------------------

def test_plain_greedy_is_the_model_itself(target):
    assert Decoder(target).plain(PROMPTS, max_new_tokens=30).tokens == [naive(target, prompt, 30) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 5])
def test_greedy_speculation_is_plain_text(target, kind, length):
    decoder = Decoder(target, draft=drafts(target, length)[kind], draft_len=length)
    ours, plain = (method(PROMPTS, max_new_tokens=30) for method in (decoder.speculate, decoder.plain))
    assert ours.tokens == plain.tokens and plain.steps == 30
    assert ours.steps <= 30 and max(ours.emitted) <= length + 1
    assert kind not in ("model", "knowing") or ours.steps < 30, "some draft was accepted in every request"


@pytest.mark.parametrize("kind", KINDS)
def test_stop_tokens_end_a_request_and_not_the_others(target, kind):
    decoder = Decoder(target, draft=drafts(target)[kind])
    whole = decoder.plain(PROMPTS, max_new_tokens=30).tokens
    stop = {whole[0][6], whole[2][14]}
    until = lambda row: row[:next((i + 1 for i, token in enumerate(row) if token in stop), len(row))]
    expected = [until(row) for row in whole]
    assert len({len(row) for row in expected}) > 1, "they end at different steps"
    assert decoder.speculate(PROMPTS, max_new_tokens=30, stop=stop).tokens == expected
    assert decoder.plain(PROMPTS, max_new_tokens=30, stop=stop).tokens == expected


@pytest.mark.parametrize("name", ["python_loop", "v5", "v9"])
def test_every_kind_of_sampler_gives_the_same_text(target, name):
    """A baseline, a kernel behind a softmax and a kernel from logits: the same numbers, so the same random text too."""
    options = {"max_new_tokens": 10, "temperature": [1.0, 0.0, 0.7], "seeds": [3, 4, 2**64 - 1]}
    draft = moved(target)
    ours, usual = (Decoder(target, draft=draft, sampler=sampler).speculate(PROMPTS, **options) for sampler in (name, "torch_vectorised"))
    assert ours.tokens == usual.tokens and ours.emitted == usual.emitted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kind", ["model", "ngram"])
def test_a_gpu_writes_the_same_text(target, kind):
    """In float64 the models' rows are those of the CPU but for rounding, and the random numbers are the same bits."""
    options = {"max_new_tokens": 20, "temperature": [1.0, 0.0, 0.7], "seeds": [3, 4, 5]}
    draft = drafts(target)[kind]
    there = draft if kind == "ngram" else copy.deepcopy(draft).cuda()
    ours = Decoder(copy.deepcopy(target).cuda(), draft=there, sampler="v9").speculate(PROMPTS, **options)
    usual = Decoder(target, draft=draft, sampler="torch_vectorised").speculate(PROMPTS, **options)
    assert ours.tokens == usual.tokens and min(ours.seconds.values()) >= 0 < ours.seconds["target"]


def test_the_guide(target, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (paths.PACKAGE.parent / "docs" / "llm.md").read_text(), re.DOTALL)
    names = {"target_model": target, "draft_model": moved(target), "prompts": PROMPTS[:2]}
    exec(code, names)  # noqa: S102 (a block of our own page)
    assert names["decoded"].tokens[0] == names["plain"].tokens[0] and "[[" in capsys.readouterr().out


def test_a_draft_of_another_vocabulary():
    """Fewer ids than the target (the rest is never drafted), or more (they are cut off)."""
    target = tiny_model(vocab=60)
    for vocab in (40, 90):
        decoder = Decoder(target, draft=tiny_model(vocab=vocab, seed=3))
        for heat in (0.0, 1.0):
            prompts = [[1, 2, 3], [4, 5]]
            rows = decoder.speculate(prompts, max_new_tokens=12, temperature=heat).tokens
            assert heat or rows == decoder.plain(prompts, max_new_tokens=12).tokens
            assert all(0 <= token < 60 for row in rows for token in row)


# ---- random: a request depends on its prompt and seed; the law is the target's ------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_a_request_does_not_depend_on_its_batch(target, kind):
    decoder, seeds = Decoder(target, draft=drafts(target)[kind]), [11, 12, 2**63 + 5]
    options = {"max_new_tokens": 20, "temperature": 1.0}
    together = decoder.speculate(PROMPTS, seeds=seeds, **options).tokens
    turned = decoder.speculate(PROMPTS[::-1], seeds=seeds[::-1], **options).tokens[::-1]
    alone = [decoder.speculate([prompt], seeds=[seed], **options).tokens[0] for prompt, seed in zip(PROMPTS, seeds)]
    assert together == turned == alone
    assert decoder.speculate(PROMPTS, seeds=[1, 2, 3], **options).tokens != together


@pytest.fixture(scope="module")
def small():
    return tiny_model(vocab=VOCAB, sharp=0.2, seed=3)


def small_decoder(model, kind, **options):
    return Decoder(model, draft={"model": moved(model, 0.08), "ngram": NgramDrafter(3, shortest=1)}[kind], draft_len=3, **options)


def test_law_of_plain_decoding(small):
    result = law_test(small, REPEATING, Decoder(small).plain)
    assert result.passed and result.cells > 20, result


@pytest.mark.parametrize("kind", ["model", "ngram"])
def test_law_of_speculation(small, kind):
    speculation_follows_the_law(small, small_decoder(small, kind))


def test_the_tests_refuse_what_is_wrong(small, target, monkeypatch):
    speculate = small_decoder(small, "model").speculate
    assert not law_test(small, REPEATING, small_decoder(small, "model", sampler=Accepting()).speculate).passed
    monkeypatch.setattr("spec_toolkit.drafting.DRAFT", 1)  # drafting and acceptance share their numbers
    assert not law_test(small, REPEATING, speculate).passed
    monkeypatch.undo()
    monkeypatch.setattr("spec_toolkit.drafting.draw", lambda logits, *_: logits.argmax(1))  # not drawn from the rows handed on
    assert not law_test(small, REPEATING, speculate).passed
    monkeypatch.undo()
    take_back = CachedModel.take_back  # one rejected draft stays in the cache
    monkeypatch.setattr("spec_toolkit.llm.CachedModel.take_back", lambda self, lengths: take_back(self, [length + 1 for length in lengths]))
    decoder = Decoder(target, draft=NgramDrafter(4, shortest=1))
    assert decoder.speculate(PROMPTS, max_new_tokens=30).tokens != decoder.plain(PROMPTS, max_new_tokens=30).tokens


# ---- statistics, requests that cannot be met ---------------------------------------------------------------------------

def test_statistics(target):
    same = Decoder(target, draft=target, draft_len=3).speculate([[1, 2, 3]], max_new_tokens=12)
    assert same.acceptance == [1.0, 1.0, 1.0] and same.tokens_per_step == 4 and same.steps == 3 and same.tested == [3, 3, 3]
    assert set(same.seconds) == {"draft", "target", "sampler", "rest"} and min(same.seconds.values()) > 0
    assert same.new_tokens == 12 and sum(same.shares.values()) == pytest.approx(1) and "4.00 tokens a step" in repr(same)
    nothing = Decoder(target, draft=NgramDrafter(3)).speculate([[1, 2, 3]], max_new_tokens=1)
    assert nothing.acceptance == [None, None, None] and nothing.emitted == [1]
    assert Decoder(target).plain([[1]], max_new_tokens=0).tokens == [[]]


def test_numbers_of_drafts_are_those_of_the_stream():
    """... made four positions at a time, as texts grow unevenly, beyond the four and back."""
    seeds = torch.tensor([1, 2**63 - 1, -5])
    numbers = DraftNumbers(seeds, 3)
    numbers.ahead = 4
    for lengths in ([3, 5, 1], [4, 6, 3], [7, 6, 4], [8, 7, 5], [2, 7, 5]):
        at = torch.tensor(lengths)
        words = [random_words(seeds, at, DRAFT, torch.full_like(at, k)) for k in range(3)]
        assert torch.equal(numbers.at(lengths, at), torch.stack([uniform52(*four[:2]) for four in words], 1))


def test_ngrams():
    drafter = NgramDrafter(3, longest=2, shortest=1)
    assert drafter.look_up([5, 6, 7, 8, 5, 6]) == [7, 8, 5]       # the pair 5 6, seen before
    assert drafter.look_up([5, 1, 6, 2, 9, 6]) == [2, 9, 6]       # no pair, but the last token
    assert drafter.look_up([6, 1, 6, 2, 6]) == [2, 6]             # the most recent place, and no more than follows there
    assert drafter.look_up([1, 2, 3]) == drafter.look_up([1]) == NgramDrafter(3).look_up([6, 1, 6]) == []
    with pytest.raises(ValueError, match="got 3, 2, accepted: 1 <= shortest"):
        NgramDrafter(3, longest=2, shortest=3)


@pytest.mark.parametrize("options, message", [
    ({"prompts": [[1], []]}, r"prompts: got lengths \[1, 0\]"), ({"prompts": []}, "prompts: got lengths"),
    ({"prompts": [[1, 97]]}, "the id 97, accepted: ids in"), ({"temperature": -1.0}, "temperature: got"),
    ({"temperature": 1e-9}, "temperature: got"), ({"seeds": [1, 2]}, "seeds: got 2, accepted: one per prompt, 1"),
    ({"max_new_tokens": 300}, "max_new_tokens: got 300, accepted: 0 to 254"), ({"max_new_tokens": -1}, "max_new_tokens: got -1")])
def test_wrong_requests_are_named(target, options, message):
    with pytest.raises(ValueError, match=message):
        Decoder(target).plain(**({"prompts": [[1, 2]], "max_new_tokens": 3} | options))


def test_what_cannot_be_decoded(target):
    with pytest.raises(ValueError, match="draft: got None"):
        Decoder(target).speculate([[1]], max_new_tokens=1)
    with pytest.raises(ValueError, match="draft_len: got 0"):
        Decoder(target, draft_len=0)
    broken = copy.deepcopy(target)
    broken.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(NoMass, match="request 0: its target row has nothing to draw from"):
        Decoder(broken).plain([[1]], max_new_tokens=1)
    windows = copy.deepcopy(target)
    windows.config.sliding_window, windows.config.layer_types = 8, ["sliding_attention"] * 2
    with pytest.raises(ValueError, match="accepted: full attention in every layer"):
        Decoder(windows).plain([[1]], max_new_tokens=1)
