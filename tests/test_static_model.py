"""A model over its static cache: the logits of a growing cache, through ragged reading and forgetting; what it refuses."""
import copy

import pytest
import torch

pytest.importorskip("transformers")

from transformers import LlamaConfig, LlamaForCausalLM

from spec_toolkit import static_llama
from spec_toolkit.cached_model import CachedModel
from spec_toolkit.features import attach
from spec_toolkit.loop_law import tiny_model
from spec_toolkit.static_llama import StaticLlama
from spec_toolkit.static_model import StaticModel

SLOTS = 64


def static_read(model, tokens, lengths, **options):
    """Read tokens [batch, n] behind texts of `lengths` tokens."""
    return model.read(tokens, torch.tensor(lengths)[:, None] + torch.arange(tokens.shape[1]), **options)


# The eager attention takes its softmax in float32, and transformers its norms: there the numbers of others differ.
@pytest.mark.parametrize("kind, attention, near", [(StaticModel, "sdpa", 1e-12), (StaticModel, "eager", 1e-4), (StaticLlama, "sdpa", 1e-4)])
def test_logits_are_those_of_a_growing_cache(kind, attention, near):
    """Three texts grow by 4 tokens, or by one, and forget some of them, eight times over; one may fall below where it began."""
    model = tiny_model()
    model.config._attn_implementation = attention
    usual, ours, lengths = CachedModel(model, 3), kind(model, 3, SLOTS), [0, 0, 0]
    turn = torch.Generator().manual_seed(0)
    for step in range(8):
        n = 1 if step == 5 else 4
        tokens = torch.randint(0, 97, (3, n), generator=turn)
        expected, got = usual.read(tokens), static_read(ours, tokens, lengths)
        assert torch.allclose(got, expected, rtol=0, atol=near), step
        lengths = [length + n - int(torch.randint(0, n + 1, (), generator=turn)) for length in lengths]
        lengths[step % 3] = max(0, lengths[step % 3] - 3)
        usual.take_back(lengths)
        lengths = list(usual.lengths)
    assert len(set(lengths)) > 1, "they progressed unevenly"


def test_reading_again_changes_nothing_and_position_minus_one_is_seen_by_nobody():
    model, tokens = tiny_model(), torch.tensor([[5, 6, 7, 8]])
    ours, usual = StaticModel(model, 1, SLOTS), CachedModel(model, 1)
    expected = usual.read(tokens)
    assert static_read(ours, torch.tensor([[96, 5]]), [-1]).isfinite().all()
    assert torch.allclose(static_read(ours, tokens[:, 1:], [1]), expected[:, 1:], rtol=0, atol=1e-12)
    assert torch.allclose(static_read(ours, tokens[:, 2:], [2], keep=1), expected[:, -1:], rtol=0, atol=1e-12)


def test_a_nan_is_forgotten_by_clear():
    model, tokens = tiny_model(), torch.tensor([[5, 6, 7]])
    ours = StaticModel(model, 1, SLOTS)
    expected = static_read(ours, tokens, [0])
    for layer in ours.cache.layers:
        layer.values[:, :, 20] = torch.nan
    assert not static_read(ours, tokens, [0]).isfinite().any(), "0 times NaN is NaN, also where nobody looks"
    ours.clear()
    assert torch.equal(static_read(ours, tokens, [0]), expected)


def test_the_cache_stays_where_it_is_and_low_precision_is_read():
    model = copy.deepcopy(tiny_model()).to(torch.bfloat16)
    ours = StaticModel(model, 2, SLOTS)
    places = []
    for length in (0, 3, 1):
        logits = static_read(ours, torch.tensor([[1, 2], [3, 4]]), [length, length + 1])
        places.append([layer.keys.data_ptr() for layer in ours.cache.layers])
    assert logits.dtype == torch.bfloat16 and places[0] == places[1] == places[2] and len(set(places[0])) == 2
    assert ours.cache.layers[0].keys.shape == (2, 1, SLOTS, 8)


@torch.no_grad()
def test_a_fused_llama_of_another_shape():
    """Three heads on one key each, a width of its own, another rope; read at once, and the last token again."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=6,
                         num_key_value_heads=2,
                         head_dim=8, initializer_range=0.4, tie_word_embeddings=True, rope_parameters={
                             "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 16})
    model = LlamaForCausalLM(config).double().eval()
    ours, tokens = StaticLlama(model, 2, SLOTS), torch.randint(0, 50, (2, 40))
    expected = model(tokens).logits
    assert torch.allclose(static_read(ours, tokens, [0, 0]), expected, rtol=0, atol=1e-4)
    assert torch.allclose(static_read(ours, tokens[:, 39:], [39, 39], keep=1), expected[:, 39:], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("compile", [False, True], ids=["as it stands", "compiled"])
@pytest.mark.parametrize("batch, n", [(1, 1), (2, 3)])
def test_the_form_for_a_compiler_reads_the_same(batch, n, compile, monkeypatch):
    """States and cache, of one token and of several, with features."""
    forms = [static_llama.Compiled(function, compile) for function in (static_llama.read_words, static_llama.read_layer)]
    monkeypatch.setattr(static_llama, "COMPILED", forms)
    model, places = copy.deepcopy(tiny_model()).float(), torch.arange(n + 6).expand(batch, n + 6)
    attach(model)
    torch.manual_seed(0)
    for weight in (model.features.weight, *(norm.weight for layer in model.model.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm))):
        weight.uniform_(0.5, 1.5)
    tokens, features = torch.randint(0, 97, places.shape), torch.randn(*places.shape, model.config.hidden_size)
    usual, ours = (StaticLlama(model, batch, SLOTS) for _ in range(2))
    ours.compiled.add(n)
    for start, end in ((0, 6), (6, n + 6)):
        expected, got = (each.states(tokens[:, start:end], places[:, start:end], features[:, start:end]) for each in (usual, ours))
        assert torch.allclose(got, expected, rtol=0, atol=1e-4)
    for held, other in zip(ours.held, usual.held):
        assert torch.allclose(held, other, rtol=0, atol=1e-4)
    assert static_llama.how() == ("compiled" if compile else "eager")


@torch.no_grad()
def test_where_compiling_fails_the_forward_stays_as_it_was(monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler")
    forms = [static_llama.Compiled(function, False) for function in (static_llama.read_words, static_llama.read_layer)]
    forms[1].function = broken
    monkeypatch.setattr(static_llama, "COMPILED", forms)
    model, tokens = tiny_model(), torch.tensor([[5, 6, 7]])
    ours = StaticLlama(model, 1, SLOTS)
    ours.compiled.add(3)
    for _ in range(2):
        assert torch.allclose(static_read(ours, tokens, [0]), model(tokens).logits, rtol=0, atol=1e-4)
    assert forms[1].how == "eager, for compiling failed: RuntimeError"
    assert torch.equal(static_read(ours, tokens, [0]), static_read(StaticLlama(model, 1, SLOTS), tokens, [0])), "in the form for launches"


@torch.no_grad()
def test_joined_weights_are_shared_and_follow_the_model():
    model, tokens = copy.deepcopy(tiny_model()), torch.tensor([[5, 6, 7]])
    first, second = StaticLlama(model, 1, SLOTS), StaticLlama(model, 2, SLOTS)
    assert first.layers[0].gate_up.data_ptr() == second.layers[0].gate_up.data_ptr()
    model.model.layers[0].mlp.up_proj.weight.mul_(2)
    assert torch.allclose(static_read(StaticLlama(model, 1, SLOTS), tokens, [0]), model(tokens).logits, rtol=0, atol=1e-4)
    assert not torch.allclose(static_read(first, tokens, [0]), model(tokens).logits, rtol=0, atol=1e-2)


def test_a_fused_llama_is_one_without_biases():
    model = copy.deepcopy(tiny_model())
    model.config.attention_bias = True
    with pytest.raises(ValueError, match="fused: got LlamaForCausalLM attention_bias, accepted: LlamaForCausalLM without biases"):
        StaticLlama(model, 1, SLOTS)


@pytest.mark.parametrize("change, message", [
    ({"sliding_window": 8, "layer_types": ["sliding_attention"] * 2}, "accepted: full attention in every layer"),
    ({"_attn_implementation": "flash_attention_2"}, "got attention 'flash_attention_2', accepted: sdpa, eager"),
    ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "got rope type 'dynamic'")])
def test_what_is_refused(change, message):
    model = copy.deepcopy(tiny_model())
    for name, value in change.items():
        model.config.__dict__[name if name != "_attn_implementation" else "_attn_implementation_internal"] = value
    with pytest.raises(ValueError, match=message):
        StaticModel(model, 1, SLOTS)
