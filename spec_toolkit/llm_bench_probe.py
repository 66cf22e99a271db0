"""What acceptance the rows themselves predict: sum over x of min(target(x), draft(x)), at the positions that a loop really tests.

    probe = Probe(draft_len=4)
    Decoder(target, draft=draft, sampler=probe, draft_len=4).speculate(prompts, ...)     # apart from any timing
    probe.predicted                                                                       # [4], or None where nothing was tested

and where two greedy texts part: the logits there.
"""
from __future__ import annotations

import math

import torch

from .sampler import load_sampler


class Probe:
    """A sampler: the vectorised baseline, with a look at the rows. For a batch of one (a finished request would be counted on)."""
    kind, input, draw, own_generator, capturable = "probe", "logits", "cdf", False, False  # no baseline: a loop may bind these once

    def __init__(self, draft_len: int):
        self.behind, self.name = load_sampler("torch_vectorised"), "probe"
        self.source_hash, self.reports_status = self.behind.source_hash, False
        self.sums, self.counts = [0.0] * draft_len, [0] * draft_len

    def __call__(self, problem):
        outputs = self.behind(problem)
        if problem.num_draft:
            self._look(problem, int(outputs.num_accepted[0]))
        return outputs

    def _look(self, problem, accepted):
        """problem: logits of one request; all drafts up to the first rejection were tested."""
        tokens = problem.draft_tokens.tolist()
        tested = min(accepted + 1, sum(token >= 0 for token in tokens))
        if not tested:
            return
        heat = float(problem.temperature[0])
        target = law(problem.target[:tested], heat)
        if problem.draft is None:
            common = target.gather(1, torch.tensor(tokens[:tested], device=target.device)[:, None])[:, 0]
        else:
            common = torch.minimum(target, law(problem.draft[:tested], heat)).sum(1)
        for position, value in enumerate(common.tolist()):
            self.sums[position] += value
            self.counts[position] += 1

    @property
    def predicted(self) -> list[float | None]:
        return [total / count if count else None for total, count in zip(self.sums, self.counts)]


def law(logits, heat: float):
    """[rows, vocab] float64: softmax(logits / heat); heat 0: one-hot at the first maximum."""
    if heat > 0:
        return torch.softmax(logits.double() / heat, 1)
    return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).double()


@torch.no_grad()
def parting(model, prompt, left, right) -> dict | None:
    """Where two greedy continuations of a prompt part, and how near the two tokens are there by a reading without a cache.

    {"place", "tokens": [left's, right's], "gap": difference of their logits, "below_top": of the lower one and the largest, "spacing": of
    the model's dtype there, "noise": root mean square over the vocabulary of what the logits differ by from a reading token by token};
    None where they do not (one may be the start of the other).
    """
    place = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), None)
    if place is None:
        return None
    text = torch.tensor([[*prompt, *left[:place]]], device=model.device)
    row, other = model(text).logits[0, -1], _by_token(model, text, len(prompt) - 1)
    tokens = [left[place], right[place]]
    first, second = row[tokens[0]].double().item(), row[tokens[1]].double().item()
    top = row.double().max().item()
    spacing = torch.finfo(row.dtype).eps * 2.0 ** math.floor(math.log2(abs(top))) if top else torch.finfo(row.dtype).tiny
    noise = (row.double() - other.double()).square().mean().sqrt().item()
    return {"place": place, "tokens": tokens, "gap": abs(first - second), "below_top": top - min(first, second), "spacing": spacing, "noise": noise}


def _by_token(model, text, begun):
    """The logits behind a text [1, n]: its first `begun` tokens read at once, each further one alone, as plain decoding does."""
    cache = model(text[:, :begun], use_cache=True).past_key_values if begun else None
    for i in range(begun, text.shape[1]):
        out = model(text[:, i:i + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
    return out.logits[0, -1]
