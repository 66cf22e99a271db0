"""Ways to draft for the tiny random models of loop_law.py, and its test of the law as the tests here ask it."""
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spec_toolkit import loop_law
from spec_toolkit.drafting import NO_TOKEN, Draft, NgramDrafter
from spec_toolkit.loop_law import moved, tiny_model

PROMPTS = [[1, 2, 3, 4, 5], [7], [9, 8, 9, 8, 9, 8, 1, 9, 8]]


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
    return {"model": moved(target), "with features": moved(target, features=0.15), "another model": tiny_model(seed=3), "ngram": NgramDrafter(length, shortest=1),
            "knowing": Knowing(target, length)}


KINDS = ["model", "with features", "another model", "ngram", "knowing"]


@torch.no_grad()
def naive(model, prompt, count):
    """Greedy text without a cache: the whole text is read for every token."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(prompt):]


class NoLooks(TorchDispatchMode):
    """Refuses what would make the host wait for a device, or what has a shape that only the device knows."""
    REFUSED = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_dim", "_unique2")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name.removeprefix("aten::") not in self.REFUSED, f"{func} looks at the host"
        return func(*args, **kwargs or {})


REPEATING = [1, 2, 3, 1, 2, 4, 1, 2]
RUNS, VOCAB, FIRST, HEAT = 20_000, 7, 3, 0.8


def law_test(model, prompt, decode, runs=RUNS):
    """loop_law's, of the first FIRST tokens at temperature HEAT."""
    return loop_law.law_test(model, prompt, decode, runs, FIRST, HEAT)


def speculation_follows_the_law(model, decoder):
    """Asserts it, and that drafts are both accepted and rejected on the way."""
    result = law_test(model, REPEATING, decoder.speculate)
    assert result.passed and result.cells > 20 and result.detectable_tv < 0.05, result
    (rate, *_) = decoder.speculate([REPEATING] * 200, max_new_tokens=FIRST, temperature=HEAT).acceptance
    assert 0.1 < rate < 0.95, "both ways through the rule are taken"
