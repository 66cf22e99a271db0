"""Is a decoding loop lossless? The first tokens of many requests against the exact law of a model small enough to read every continuation.

    model = tiny_model(vocab=7, sharp=0.2, seed=3)
    decoder = Decoder(model, draft=moved(model, 0.08), draft_len=3)
    print(law_test(model, [1, 2, 3], decoder.speculate, runs=20_000))    # ChiSquare: passed, p_value, detectable_tv
"""
from __future__ import annotations

import copy

import torch

from .chi_square import ChiSquare, chi_square

SIZE = 1e-4  # of the test: fixed seeds, so it passes for ever or never
POWER = 0.9


def tiny_model(vocab: int = 97, sharp: float = 1.0, seed: int = 0):
    """A random Llama of two layers in float64, so that rounding makes no ties; sharp: a factor of its logits. Its weights are large:
    what it says then depends on all it has read and on where, not on the last token alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=vocab, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.6)
    model = LlamaForCausalLM(config).double().eval()
    model.lm_head.weight.data *= sharp
    return model


def moved(model, by: float = 0.02):
    """The same model, its weights moved a little: a draft that is often right and often not."""
    torch.manual_seed(1)
    draft = copy.deepcopy(model)
    for weight in draft.parameters():
        weight.data += by * torch.randn_like(weight)
    return draft


@torch.no_grad()
def exact_law(model, prompt, first: int = 3, temperature: float = 1.0) -> dict[tuple, float]:
    """{first tokens: probability}, by reading every continuation of the prompt: vocab**first of them."""
    law = {(): 1.0}
    for _ in range(first):
        heads = list(law)
        texts = torch.tensor([[*prompt, *head] for head in heads], device=model.device)
        rows = torch.softmax(model(texts).logits[:, -1].double() / temperature, 1).tolist()
        law = {(*head, token): law[head] * p for head, row in zip(heads, rows) for token, p in enumerate(row)}
    return law


def law_test(model, prompt, decode, runs: int = 20_000, first: int = 3, temperature: float = 1.0, seed: int = 1000) -> ChiSquare:
    """chi-square of the first tokens of `runs` requests, each with a seed of its own. decode: Decoder.speculate or the like."""
    rows = decode([prompt] * runs, max_new_tokens=first, temperature=temperature, seeds=range(seed, seed + runs)).tokens
    law, counts = exact_law(model, prompt, first, temperature), {}
    for row in map(tuple, rows):
        counts[row] = counts.get(row, 0) + 1
    return chi_square("first tokens", [(counts.get(row, 0), p) for row, p in law.items()], runs, SIZE, POWER)
