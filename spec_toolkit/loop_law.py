"""Is a decoding loop lossless? The first tokens of many requests against the exact law of a model small enough to read every continuation.

    model = tiny_model(vocab=7, sharp=0.2, seed=3)
    decoder = Decoder(model, draft=moved(model, 0.08), draft_len=3)
    print(law_test(model, [1, 2, 3], decoder.speculate, runs=20_000))    # ChiSquare: passed, p_value, detectable_tv
"""
from __future__ import annotations

import contextlib
import copy

import torch

from .chi_square import ChiSquare, chi_square
from .features import attach
from .problem import Outputs
from .sampler import load_sampler
from .tables import markdown

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


def moved(model, by: float = 0.02, features: float = 0.0):
    """The same model, its weights moved a little: a draft that is often right and often not. features: how large the entries of a random
    matrix are, by which it takes the target's hidden states (features.py); 0: it takes none."""
    torch.manual_seed(1)
    draft = copy.deepcopy(model)
    for weight in draft.parameters():
        weight.data += by * torch.randn_like(weight)
    if features:
        attach(draft)
        draft.features.weight.data.normal_(0, features)
    return draft


@contextlib.contextmanager
def one_thread():
    """Inside, torch works with one thread: on matrices so small more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def law_test(model, prompt, decode, runs: int = 20_000, first: int = 3, temperature: float = 1.0, seed: int = 1000, law=None) -> ChiSquare:
    """chi-square of the first tokens of `runs` requests, each with a seed of its own. decode: Decoder.speculate or the like. law: of
    `exact_law`, where it is known already."""
    rows = decode([prompt] * runs, max_new_tokens=first, temperature=temperature, seeds=range(seed, seed + runs)).tokens
    law, counts = law or exact_law(model, prompt, first, temperature), {}
    for row in map(tuple, rows):
        counts[row] = counts.get(row, 0) + 1
    return chi_square("first tokens", [(counts.get(row, 0), p) for row, p in law.items()], runs, SIZE, POWER)


# ---- the tests of a notebook ---------------------------------------------------------------------------------------------

class Accepting:
    """A sampler that accepts every draft and draws the bonus token: what the test must refuse."""
    name, kind, input, draw = "accepting", "wrong", "logits", "cdf"

    def __call__(self, problem):
        right = load_sampler("torch_vectorised")(problem)
        rows = problem.draft_tokens.view(problem.batch, -1)
        return Outputs(torch.cat([rows, right.out_tokens[:, -1:]], 1), torch.full_like(right.num_accepted, rows.shape[1]), right.status)


PROMPT = [1, 2, 3, 1, 2, 4, 1, 2]


def law_tests(runs: int = 10_000) -> list[tuple[str, bool, ChiSquare]]:
    """(way to decode, must it pass?, test) of both loops on a small model of five words; the last accepts every draft, and must fail."""
    from .drafting import NgramDrafter
    from .graph_decoder import GraphDecoder
    from .llm import Decoder

    model = tiny_model(vocab=5, sharp=0.2, seed=3)
    draft, heeding = moved(model, 0.08), moved(model, 0.08, features=0.1)
    ngram, law = NgramDrafter(3, shortest=1), exact_law(model, PROMPT)
    ways = {"plain decoding": (Decoder(model).plain, True),
            "speculation, drafts by a model": (Decoder(model, draft=draft, draft_len=3).speculate, True),
            "speculation, drafts with features": (Decoder(model, draft=heeding, draft_len=3).speculate, True),
            "speculation, drafts by n-grams": (Decoder(model, draft=ngram, draft_len=3).speculate, True),
            "speculation in the graph path's loop": (GraphDecoder(model, draft=draft, draft_len=3).speculate, True),
            "the same, drafts with features": (GraphDecoder(model, draft=heeding, draft_len=3).speculate, True),
            "every draft accepted (wrong)": (Decoder(model, draft=draft, draft_len=3, sampler=Accepting()).speculate, False)}
    with one_thread():
        return [(name, expected, law_test(model, PROMPT, decode, runs, law=law)) for name, (decode, expected) in ways.items()]


def table(tests) -> str:
    """A Markdown table of `law_tests`."""
    rows = [[name, f"{t.statistic:.1f}", str(t.cells), f"{t.p_value:.3g}", "passed" if t.passed else "refused", f"{t.detectable_tv:.3f}"]
            for name, _, t in tests]
    return markdown(["way to decode", "chi-square", "cells", "p", "test", "total variation that would be caught"], rows)


def sentence(tests) -> str:
    """Did those pass that must, and did the wrong one fail?"""
    right, wrong = [t for _, expected, t in tests if expected], [t for _, expected, t in tests if not expected]
    good, caught = sum(t.passed for t in right), sum(not t.passed for t in wrong)
    least = max(t.detectable_tv for t in right)
    return (f"The law of the first tokens is the target's in {good} of {len(right)} ways to decode (any bias of {least:.3f} in total "
            f"variation would be caught), and the same test refuses {caught} of {len(wrong)} that accepts every draft.")
