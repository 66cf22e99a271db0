"""The exact law of one request's output, by enumeration of what the rule (reference.py) can do."""
from __future__ import annotations

import numpy as np

from .reference import residual, usable


def output_law(target_rows, draft_rows=None, draft_tokens=None) -> dict:
    """The exact law {emitted tokens (tuple): probability} of one request, by enumeration: for small vocabularies.

    target_rows [K+1, V]; draft_rows [K, V] or None (one-hot, which needs draft_tokens). draft_tokens [K]: the law given
    those drafts; None: drafts drawn from draft_rows (each normalised). Probabilities sum to 1.
    """
    target_rows = np.asarray(target_rows, dtype=np.float64)
    count, vocab = len(target_rows) - 1, target_rows.shape[1]
    if draft_rows is None and draft_tokens is None and count:
        raise ValueError("draft_tokens: got None without draft_rows, accepted: the drafted ids (one-hot drafts have no law of their own)")
    law = {}
    prefixes = {(): 1.0}
    for i in range(count):
        target, longer = target_rows[i], {}
        for prefix, mass in prefixes.items():
            for token, chance in _proposals(i, draft_rows, draft_tokens):
                draft = np.asarray(draft_rows[i], dtype=np.float64) if draft_rows is not None else 1.0 * (np.arange(vocab) == token)
                keep = _accept_chance(target, draft, token)
                _add(longer, prefix + (token,), mass * chance * keep)
                for recovered, share in _draw_law(residual(target, draft), usable(target)):
                    _add(law, prefix + (recovered,), mass * chance * (1 - keep) * share)
        prefixes = longer
    for prefix, mass in prefixes.items():
        for token, share in _draw_law(usable(target_rows[count])):
            _add(law, prefix + (token,), mass * share)
    return law


def _proposals(i, draft_rows, draft_tokens):
    if draft_tokens is not None:
        return [(int(draft_tokens[i]), 1.0)]
    row = usable(draft_rows[i])
    return [(token, mass) for token, mass in enumerate(row / row.sum()) if mass > 0]


def _accept_chance(target, draft, token):
    """P(u * q < p) for a continuous u."""
    if not 0 <= token < len(target) or usable(target[token]) == 0 or np.isnan(draft[token]):
        return 0.0
    return 1.0 if draft[token] <= target[token] else float(target[token] / draft[token])


def _draw_law(*choices):
    """[(token, probability)] of a draw from the first of the weight rows that has mass; token -1 if none has."""
    for weights in choices:
        if weights.any():
            return list(enumerate(weights / weights.sum()))
    return [(-1, 1.0)]


def _add(law, key, mass):
    if mass > 0:
        law[key] = law.get(key, 0.0) + mass
