"""Features: what the target knew where it read the token before, handed to the draft with each token (EAGLE, Li et al., ICML 2024).

A draft of its target's first layers sees words alone, and must find out anew what thirty layers have found. The target's hidden state
behind its last norm, times the head, is its whole law of the token that was then drawn; a matrix brings it into the draft's input:

    input of the token at position t  =  embedding(token t)  +  features(h(t - 1) / rms)

h(t - 1) is the target's state where it has read position t - 1, and the draft's own, behind its own last norm, where it has not yet:
behind the first draft of a step. Zeros where there is none (position 0, or a caller that hands none): then the draft is the plain
model of `transformers` that it looks like, whose forward does not know of the matrix.
"""
from __future__ import annotations

import torch
from torch.nn import functional


def attach(draft) -> None:
    """Give a model the matrix `draft.features` [width, width], zero at first, without bias; ours are the only forwards to use it."""
    weight = draft.model.norm.weight
    draft.features = torch.nn.Linear(weight.shape[0], weight.shape[0], bias=False, dtype=weight.dtype, device=weight.device)
    torch.nn.init.zeros_(draft.features.weight)


def takes_features(model) -> bool:
    return isinstance(getattr(model, "features", None), torch.nn.Linear)


def with_features(embedded, hidden, weight):
    """embedded + features of `hidden`: both [..., width], hidden states behind the last norm; weight: `draft.features.weight`."""
    return embedded + functional.linear(functional.rms_norm(hidden, hidden.shape[-1:]), weight)
