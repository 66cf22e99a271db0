"""Rows of probabilities from rows of logits: softmax(logits / temperature), computed a chunk of rows at a time."""
from __future__ import annotations

import torch

CHUNK_ELEMENTS = 1 << 24  # whole-row work is cut into chunks of at most this many elements


def probability_rows(logits, temperature, dtype=torch.float32, lse=None):
    """softmax(logits / temperature) [rows, vocab] in `dtype`, temperature [rows]; temperature 0: one-hot at the first maximum.

    A row with a NaN or +inf, or with nothing finite, becomes a row of NaN whatever the temperature. -inf: probability 0.

    lse [rows], where given: exp(logits / temperature - lse) instead, in float64. The number is trusted: the row need not sum
    to 1, and each entry is its own: a NaN gives NaN, and +inf or a probability past float32's range gives +inf, there
    alone. An lse that is not finite makes a row of NaN. Where the temperature is 0, lse is not looked at.
    """
    out = torch.empty(logits.shape, dtype=dtype, device=logits.device)
    for rows in row_chunks(*logits.shape):
        x, heat = logits[rows].to(dtype), temperature[rows, None].to(dtype)
        top = x.amax(-1, keepdim=True)
        if lse is not None:
            out[rows] = _normalised_by(lse[rows, None].double(), logits[rows].double() / heat.double())
        else:  # The maximum is subtracted before the division: a tiny temperature cannot overflow.
            torch.softmax((x - top) / torch.where(heat > 0, heat, 1), -1, out=out[rows])
        greedy = (heat[:, 0] == 0).nonzero()[:, 0]
        if len(greedy):
            out[rows][greedy] = _one_hot(x[greedy], top[greedy])
    return out


def row_chunks(rows, vocab):
    """Slices that cover `rows` rows in chunks of at most CHUNK_ELEMENTS elements (at least one row each)."""
    step = max(1, CHUNK_ELEMENTS // max(1, vocab))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def _normalised_by(lse, scaled):
    rows = torch.exp(scaled - torch.where(lse.isfinite(), lse, torch.nan))
    return torch.where(rows > torch.finfo(torch.float32).max, torch.inf, rows)


def _one_hot(x, top):
    ids = torch.arange(x.shape[1], device=x.device)
    first = torch.where(x == top, ids, x.shape[1]).amin(-1, keepdim=True)  # argmax promises no order among ties
    return torch.where(top.isfinite(), (ids == first).to(x.dtype), torch.nan)
