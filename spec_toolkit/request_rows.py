"""The rows of one request of a problem, as NumPy arrays on the CPU; fetched one at a time, so that memory does not grow with the batch."""
from __future__ import annotations

import numpy as np
import torch

from .probability_rows import probability_rows


def draft_tokens(problem, b) -> list[int]:
    """The drafted ids of request b."""
    return problem.draft_tokens[_draft_rows(problem, b)].tolist()


def target_row(problem, b, i):
    """Target row i (0..K_b) of request b, [vocab]: float32 as stored, or the float64 softmax of logits."""
    return _row(problem, b, problem.target[_draft_rows(problem, b).start + b + i])


def draft_row(problem, b, i):
    """Draft row i (0..K_b-1) of request b, likewise (normalised by draft_lse where the problem has it); one-hot at the
    drafted token if the problem has no draft rows."""
    at = _draft_rows(problem, b).start + i
    if problem.draft is not None:
        return _row(problem, b, problem.draft[at], None if problem.draft_lse is None else problem.draft_lse[at : at + 1].cpu())
    return (np.arange(problem.vocab) == int(problem.draft_tokens[at])).astype(np.float32)


def drafted_probabilities(problem, b, i, token):
    """Target and draft probability of drafted token i; one element is fetched from stored rows, a row from logits."""
    if not 0 <= token < problem.vocab:
        return 0.0, 1.0 if problem.draft is None else 0.0
    if problem.kind == "logits":
        return float(target_row(problem, b, i)[token]), float(draft_row(problem, b, i)[token])
    at = _draft_rows(problem, b).start + i
    draft = 1.0 if problem.draft is None else float(problem.draft[at, token])
    return float(problem.target[at + b, token]), draft


def _draft_rows(problem, b):
    start, stop = problem.draft_start[b : b + 2].tolist()
    return slice(start, stop)


def _row(problem, b, stored, lse=None):
    if problem.kind == "probs":
        return stored.float().cpu().numpy()
    return probability_rows(stored[None].cpu(), problem.temperature[b : b + 1].cpu(), torch.float64, lse)[0].numpy()
