"""What finite numbers do to the law of a sampler, computed and not sampled: every function gives the exact law of an inexact way.

Uniforms of N bits are (k + 0.5) * 2^-N, k = 0 .. 2^N - 1: a threshold then has an exact number of them below it, so the
chance of an accept test or of an id is a count over 2^N. Rows stored in half precision give a law of their own, which a
step either follows or does not. All results are float64; the error of computing them is far below what they show.
"""
from __future__ import annotations

import numpy as np
import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
QUANTILES = 200_000  # points of the integral over the winner's exponential


def total_variation(law, other) -> float:
    """Half the sum of the differences of two laws [vocab]."""
    return float(np.abs(np.asarray(law) - np.asarray(other)).sum() / 2)


# ---- uniforms

def below(threshold, bits):
    """P(U < threshold) of a uniform of `bits` bits; float64, arrays too."""
    scale = 2.0**bits
    return np.clip(np.ceil(np.asarray(threshold, dtype=np.float64) * scale - 0.5), 0, scale) / scale


def accept_bias(chance, bits):
    """P(accepted) / chance - 1 of drafts that should be accepted with probability `chance`."""
    chance = np.asarray(chance, dtype=np.float64)
    return below(chance, bits) / chance - 1


def cdf_law(weights, bits):
    """The law [vocab] of the inverse of the cumulative sum (float64) at a uniform of `bits` bits."""
    upto = np.cumsum(np.asarray(weights, dtype=np.float64))
    return np.diff(below(upto / upto[-1], bits), prepend=0.0)


def race_tail(tail, ids, bits, added=0.0):
    """P(an id of the tail wins) of an exponential race between one id of mass 1 - tail and `ids` ids that share `tail` evenly.

    Each E = -log(1 - U) + added, U of `bits` bits (bits = None: a continuous U). It is integrated over the first id's E: the others
    all lose with probability (1 - P(E <= x))^ids, x being where they draw level.
    """
    u = (np.arange(QUANTILES) + 0.5) / QUANTILES
    level = (-np.log1p(-u) + added) * (tail / ids) / (1 - tail) - added
    chance = np.where(level > 0, -np.expm1(-np.maximum(level, 0)), 0.0)  # P(E <= level), continuous
    if bits is not None:
        chance = below(chance, bits)
    return float(-np.expm1(ids * np.log1p(-chance)).mean())


# ---- sums

def summed_law(weights, dtype):
    """The law [vocab] of a cumulative sum kept in `dtype` ("float64", "float32", "float16"), one addition after the other."""
    weights = np.asarray(weights, dtype=np.float64)
    upto = np.add.accumulate(weights.astype(dtype), dtype=dtype).astype(np.float64)
    return np.diff(upto, prepend=0.0) / upto[-1]


# ---- rows

def peaked_rows(vocab, seed=0, exponent=1.2, mix=0.4):
    """(target, draft) [vocab] float64, normalised: a Zipf row in random order, and a draft that is partly another one."""
    random = np.random.default_rng(seed)
    rows = random.uniform(size=(2, vocab)) ** -exponent
    target, other = rows / rows.sum(1, keepdims=True)
    return target, (1 - mix) * target + mix * other


def flat_row(vocab, seed=0):
    """A row [vocab] float64, normalised, whose ids have about the same probability."""
    row = np.exp(0.5 * np.random.default_rng(seed).normal(size=vocab))
    return row / row.sum()


def stored(row, dtype, logits=False):
    """The row as a sampler gets it: rounded to `dtype` (a key of DTYPES), as probabilities or as logits behind a float64 softmax."""
    values = torch.as_tensor(row).log() if logits else torch.as_tensor(row)
    read = values.to(DTYPES[dtype]).double()
    return (torch.softmax(read, 0) if logits else read).numpy()


def step_law(target, draft, drafted_from):
    """The law [vocab] of the first token of a step with these rows, its draft token drawn from `drafted_from` (each as a law).

    It is the target's if `drafted_from` is the draft row, whatever was rounded; if the drafter drew from other
    numbers than the test divides by, it is not.
    """
    drafted = np.asarray(drafted_from, dtype=np.float64) / np.sum(drafted_from)
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = np.where(draft > 0, np.minimum(1.0, target / draft), (target > 0) * 1.0)
    accepted = drafted * chance
    left = np.maximum(target - draft, 0.0)
    left = left if left.any() else target
    return accepted + (1 - accepted.sum()) * left / left.sum()


def storages(vocab, seed=0) -> dict[str, dict[str, float]]:
    """{dtype and form: {measure: total variation}} of a Zipf row pair that is stored so."""
    target, draft = peaked_rows(vocab, seed)
    found = {}
    for dtype in DTYPES:
        for form in ("probabilities", "logits"):
            p, q = (stored(row, dtype, form == "logits") for row in (target, draft))
            p = p / p.sum()
            found[f"{dtype} {form}"] = {
                "the row against what was stored": total_variation(p, target),
                "a step whose draft was drawn before rounding": total_variation(step_law(p, q, draft), p),
                "a step whose draft was drawn from the stored row": total_variation(step_law(p, q, q), p)}
    return found
