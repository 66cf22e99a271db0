"""Tiny random language models, ways to draft for them, and the test of the law of their first tokens."""
import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spec_toolkit import load_sampler
from spec_toolkit.chi_square import chi_square
from spec_toolkit.drafting import NO_TOKEN, Draft, NgramDrafter
from spec_toolkit.problem import Outputs

PROMPTS = [[1, 2, 3, 4, 5], [7], [9, 8, 9, 8, 9, 8, 1, 9, 8]]


def tiny(vocab=97, sharp=1.0, seed=0):
    """A random Llama of two layers in float64, so that rounding makes no ties; sharp: a factor of its logits. Its weights are large:
    what it says then depends on all it has read and on where, not on the last token alone."""
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=vocab, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.6)
    model = LlamaForCausalLM(config).double().eval()
    model.lm_head.weight.data *= sharp
    return model


def near(model, by=0.02):
    """The same model, its weights moved a little: a draft that is often right and often not."""
    torch.manual_seed(1)
    draft = copy.deepcopy(model)
    for weight in draft.parameters():
        weight.data += by * torch.randn_like(weight)
    return draft


class Knowing:
    """A drafter without rows that knows the greedy texts and gets every fourth token wrong; it drafts 0 to draft_len tokens."""
    has_rows = False

    def __init__(self, model, draft_len):
        self.draft_len, self.texts = draft_len, [[*prompt, *naive(model, prompt, 40)] for prompt in PROMPTS]

    def start(self, prompts, **_):
        return self

    def draft(self, texts, positions):
        rows, counts = torch.full((len(texts), self.draft_len), NO_TOKEN), []
        for b, text in enumerate(texts):
            (known,) = [whole for whole in self.texts if whole[0] == text[0]]
            count = (len(text) + text[0]) % (self.draft_len + 1)
            drafts = [token if i % 4 else (token + 1) % 97 for i, token in enumerate(known)][len(text):len(text) + count]
            rows[b, :len(drafts)] = torch.tensor(drafts, dtype=torch.int64)
            counts.append(len(drafts))
        return Draft(rows, None, counts)

    def take_back(self, texts):
        """It keeps nothing."""


def drafts(target, length=4):
    return {"model": near(target), "another model": tiny(seed=3), "ngram": NgramDrafter(length, shortest=1),
            "knowing": Knowing(target, length)}


KINDS = ["model", "another model", "ngram", "knowing"]


@torch.no_grad()
def naive(model, prompt, count):
    """Greedy text without a cache: the whole text is read for every token."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(prompt):]


REPEATING = [1, 2, 3, 1, 2, 4, 1, 2]
RUNS, VOCAB, FIRST, HEAT = 20_000, 7, 3, 0.8
SIZE = 1e-4  # of each test: the seeds are fixed, so it passes for ever or never


@torch.no_grad()
def exact_law(model, prompt):
    """{first FIRST tokens: probability}, by reading every continuation."""
    law = {(): 1.0}
    for _ in range(FIRST):
        heads = list(law)
        rows = torch.softmax(model(torch.tensor([[*prompt, *head] for head in heads])).logits[:, -1] / HEAT, 1).tolist()
        law = {(*head, token): law[head] * p for head, row in zip(heads, rows) for token, p in enumerate(row)}
    return law


def law_test(model, prompt, decode, runs=RUNS):
    """chi-square of the first tokens of `runs` requests, each with a seed of its own, against the model's exact law."""
    rows = decode([prompt] * runs, max_new_tokens=FIRST, temperature=HEAT, seeds=range(1000, 1000 + runs)).tokens
    law, counts = exact_law(model, prompt), {}
    for row in map(tuple, rows):
        counts[row] = counts.get(row, 0) + 1
    return chi_square("first tokens", [(counts.get(row, 0), p) for row, p in law.items()], runs, SIZE, 0.9)


class Accepting:
    """A sampler that accepts every draft: what the law test must refuse."""
    name, kind, draw = "accepting", "baseline", "cdf"

    def __call__(self, problem):
        right = load_sampler("torch_vectorised")(problem)
        rows = problem.draft_tokens.view(problem.batch, -1)
        return Outputs(torch.cat([rows, right.out_tokens[:, -1:]], 1), torch.full_like(right.num_accepted, rows.shape[1]), right.status)
