"""Drafts with features in both loops: the rows that the sampler gets, against a reading from scratch of all that was known at each step."""
import copy

import pytest
import torch

pytest.importorskip("transformers")

from tiny_llm import PROMPTS, REPEATING, VOCAB, NoLooks, law_test, naive, speculation_follows_the_law

from spec_toolkit import draft_weights
from spec_toolkit.draft_chain import Chain, KnownStates
from spec_toolkit.feature_drafting import FeatureDrafter
from spec_toolkit.features import attach, takes_features, with_features
from spec_toolkit.graph_decoder import GraphDecoder
from spec_toolkit.llm import Decoder
from spec_toolkit.loop_law import moved, tiny_model
from spec_toolkit.sampler import load_sampler
from spec_toolkit.static_llama import StaticLlama
from spec_toolkit.static_model import StaticModel

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
MIXED = {"max_new_tokens": 25, "temperature": [1.0, 0.0, 0.7], "seeds": [3, 4, 5]}
WAYS = {"eager": (Decoder, {}), "graph": (GraphDecoder, {}), "graph, own target": (GraphDecoder, {"fused": "both"})}


class Recording:
    """A sampler: the vectorised baseline, with a copy of the draft rows and tokens of every step. Its kind is bound by no loop."""
    kind, input, draw, own_generator, capturable, reports_status = "recording", "logits", "cdf", False, False, False

    def __init__(self):
        self.behind, self.name, self.steps = load_sampler("torch_vectorised"), "recording", []
        self.source_hash = self.behind.source_hash

    def __call__(self, problem):
        batch, k = problem.batch, problem.num_draft // problem.batch
        self.steps.append((problem.positions.tolist(), problem.draft_tokens.view(batch, k).tolist(), problem.draft.view(batch, k, -1).clone().cpu()))
        return self.behind(problem)


@pytest.fixture(scope="module")
def target():
    return tiny_model()


@pytest.fixture(scope="module")
def draft(target):
    return moved(target, features=0.15)


@torch.no_grad()
def rows_from_scratch(target, draft, text, drafts):
    """[K, vocab]: the draft's rows behind a text and its own drafts, each by a reading of everything, in transformers' layers."""
    seen = target.model(torch.tensor([text])).last_hidden_state[0]
    before, rows, ids = torch.cat([torch.zeros_like(seen[:1]), seen[:-1]]), [], list(text)
    for token in drafts:
        embedded = with_features(draft.model.embed_tokens(torch.tensor(ids)), before, draft.features.weight)
        state = draft.model(inputs_embeds=embedded[None]).last_hidden_state[0, -1]
        rows.append(draft.lm_head(state))
        ids, before = [*ids, token], torch.cat([before, state[None]])
    return torch.stack(rows)


def farthest(target, draft, way, draft_len=3, device="cpu"):
    """The largest difference of a row that a loop's sampler was given from that row read from scratch; how many steps were looked at."""
    sampler, (cls, options) = Recording(), WAYS[way]
    there = [copy.deepcopy(model).to(device) for model in (target, draft)]
    decoded = cls(there[0], draft=there[1], sampler=sampler, draft_len=draft_len, **options).speculate(PROMPTS, **MIXED)
    worst, count = 0.0, 0
    for lengths, tokens, rows in sampler.steps[-decoded.steps:]:  # before them: the runs before a capture
        for b, (prompt, length) in enumerate(zip(PROMPTS, lengths)):
            text = [*prompt, *decoded.tokens[b]]
            if length < len(text):
                expected = rows_from_scratch(target, draft, text[:length], tokens[b])
                worst, count = max(worst, (rows[b] - expected).abs().max().item()), count + 1
    assert len({length - len(prompt) for lengths, *_ in sampler.steps for prompt, length in zip(PROMPTS, lengths)}) > 5
    return worst, count


# ---- the rows ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("draft_len", [1, 4])
def test_rows_are_those_of_a_reading_from_scratch(target, draft, way, draft_len):
    worst, count = farthest(target, draft, way, draft_len)
    assert worst < 1e-2 and count > 30


WRONG = {
    "features of the token itself": (KnownStates, "before", lambda self, positions, right=KnownStates.before: right(self, positions + 1)),
    "features of two before": (KnownStates, "before", lambda self, positions, right=KnownStates.before: right(self, positions - 1)),
    "none of the target": (KnownStates, "before", lambda self, positions, right=KnownStates.before: 0 * right(self, positions)),
    "states kept a place too far": (KnownStates, "keep", lambda self, hidden, places, right=KnownStates.keep: right(self, hidden, places + 1)),
    "none of its own": (StaticLlama, "states", lambda self, tokens, at, features=None, right=StaticLlama.states: right(
        self, tokens, at, features if tokens.shape[1] > 1 or features is None else 0 * features)),
    "stale: two tokens are read again": (Chain, "run", lambda self, tokens, length, draw, right=Chain.run: _reading_two(self, tokens, length, draw, right)),
}


def _reading_two(chain, tokens, length, draw, right):
    """The drafts of the step before keep what was made with the draft's own states."""
    chain.read, chain.offsets = 2, torch.arange(-2, chain.draft_len - 1)
    right(chain, tokens[:, -2:], length, draw)
    chain.read = chain.draft_len + 1


@pytest.mark.parametrize("way", ["eager", "graph"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_seen(target, draft, way, wrong, monkeypatch):
    monkeypatch.setattr(*WRONG[wrong])
    assert farthest(target, draft, way)[0] > 1


# ---- texts ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("way", WAYS)
def test_features_change_the_drafts_and_not_the_text(target, draft, way):
    cls, options = WAYS[way]
    plain = copy.deepcopy(draft)
    del plain.features
    ours, without = (cls(target, draft=model, **options).speculate(PROMPTS, max_new_tokens=30) for model in (draft, plain))
    assert ours.tokens == without.tokens == [naive(target, prompt, 30) for prompt in PROMPTS]
    assert ours.emitted != without.emitted and ours.steps < 30
    zero = copy.deepcopy(draft)
    zero.features.weight.data.zero_()
    assert cls(target, draft=zero, **options).speculate(PROMPTS, max_new_tokens=30).emitted == without.emitted


def test_both_loops_draft_alike(target, draft):
    """Greedily: the same steps."""
    ours, usual = (cls(target, draft=draft, draft_len=5).speculate(PROMPTS, max_new_tokens=30) for cls in (GraphDecoder, Decoder))
    assert (ours.steps, ours.emitted, ours.tested, ours.accepted) == (usual.steps, usual.emitted, usual.tested, usual.accepted)


@pytest.mark.parametrize("way", ["eager", "graph"])
def test_law_of_speculation(way):
    small = tiny_model(vocab=VOCAB, sharp=0.2, seed=3)
    speculation_follows_the_law(small, WAYS[way][0](small, draft=moved(small, 0.08, features=0.1), draft_len=3))


def test_states_that_the_draft_was_not_drawn_from_break_the_law(monkeypatch):
    """... and the test sees it: rows that are handed on differ from those that drafts are drawn from."""
    small, fill = tiny_model(vocab=VOCAB, sharp=0.2, seed=3), Chain.run

    def run(self, *given):
        fill(self, *given)
        self.rows.copy_(self.rows.roll(1, -1))
    monkeypatch.setattr(Chain, "run", run)
    assert not law_test(small, REPEATING, Decoder(small, draft=moved(small, 0.08, features=0.1), draft_len=3).speculate).passed


# ---- the parts -----------------------------------------------------------------------------------------------------------

@torch.no_grad()
def test_states_are_those_behind_the_last_norm(target):
    tokens = torch.randint(0, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(2, 9)
    expected = target.model(tokens).last_hidden_state
    for kind in (StaticModel, StaticLlama):
        logits, states = kind(target, 2, 64).read_both(tokens, positions, keep=2)
        assert torch.allclose(states, expected, rtol=0, atol=1e-4) and torch.allclose(logits, target.lm_head(expected[:, -2:]), rtol=0, atol=1e-3)
    assert not target.model._forward_hooks, "none is left behind"


@torch.no_grad()
def test_rows_are_written_where_the_sampler_reads_them():
    """In the dtype of the rows the head writes them in place; so does a fused target."""
    model = copy.deepcopy(tiny_model()).float()
    with_, without = moved(model, features=0.15), moved(model)
    for draft in (with_, without):
        decoder = GraphDecoder(model, draft=draft, fused="both")
        assert decoder.speculate(PROMPTS, max_new_tokens=20).tokens == [naive(model, prompt, 20) for prompt in PROMPTS]
        ((step, _),) = decoder._steps.values()
        assert step.direct and step.chain.direct and (step.known is not None) == takes_features(draft)


@torch.no_grad()
def test_kept_states():
    known = KnownStates(2, 8, 3, torch.float32, "cpu")
    hidden = torch.arange(1.0, 13.0).view(2, 2, 3)
    known.keep(hidden, torch.tensor([[1, 2], [4, 5]]))
    got = known.before(torch.tensor([[-3, 0, 1, 2], [0, 4, 5, 6]]))
    assert torch.equal(got[0], torch.cat([torch.zeros(2, 3), hidden[0]])) and torch.equal(got[1, 1:3], hidden[1]) and not got[1, ::3].any()
    known.clear()
    assert not known.held.any()


def test_drafting_does_not_look_at_the_host(target, draft):
    """In the eager loop, which copies the ends of the texts to the device and reads nothing back."""
    texts, positions = [list(prompt) for prompt in PROMPTS], torch.tensor([len(prompt) for prompt in PROMPTS])
    state = FeatureDrafter(draft, 3).start(texts, vocab=97, dtype=torch.float32, temperature=torch.ones(3), seeds=torch.arange(3))
    state.begin(None, 40)
    state.draft(texts, positions)  # makes its random numbers
    with NoLooks():
        found = state.draft(texts, positions)
        state.hear(torch.zeros(3, 4, 16, dtype=torch.float64), positions)
    assert found.tokens.shape == (3, 3) and found.logits.shape == (3, 3, 97) and found.counts == [3, 3, 3]
    assert state.chain.model.slots == 64, "rounded up"


def test_weights_from_a_file_are_read_with_their_features(target, tmp_path):
    cut = draft_weights.cut(target, 1, features=True)
    cut.features.weight.data.normal_(0, 0.3)
    draft_weights.save(tmp_path, cut, {}, dtype=torch.float64)
    loaded = draft_weights.load(target, tmp_path)
    ours, usual = (GraphDecoder(target, draft=model).speculate(PROMPTS, max_new_tokens=20) for model in (loaded, cut))
    assert takes_features(loaded) and ours.emitted == usual.emitted and ours.tokens == [naive(target, prompt, 20) for prompt in PROMPTS]


@pytest.mark.parametrize("way", ["eager", "graph"])
def test_features_of_another_width_are_refused(target, way):
    from transformers import LlamaConfig, LlamaForCausalLM
    other = LlamaForCausalLM(LlamaConfig(vocab_size=97, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)).double()
    attach(other)
    with pytest.raises(ValueError, match="draft: got features of width 8, accepted: the target's, 16"):
        WAYS[way][0](target, draft=other)


# ---- on a GPU ------------------------------------------------------------------------------------------------------------

@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_rows_on_a_gpu(target, draft, way):
    worst, count = farthest(target, draft, way, 4, "cuda")
    assert worst < 1e-2 and count > 30


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("fused", ["none", "both"])
def test_replays_are_the_launches_one_by_one(target, draft, fused):
    there = copy.deepcopy(target).cuda(), copy.deepcopy(draft).cuda()
    ours, usual = (GraphDecoder(there[0], draft=there[1], capture=capture, fused=fused) for capture in (True, False))
    for seeds in ([3, 4, 5], [6, 7, 8], [3, 4, 5]):
        options = MIXED | {"seeds": seeds}
        assert ours.speculate(PROMPTS, **options).tokens == usual.speculate(PROMPTS, **options).tokens
