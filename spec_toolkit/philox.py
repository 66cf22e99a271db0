"""The random numbers of the contract: Philox4x32-10 (Salmon et al., SC 2011), bit for bit what the kernels compute.

key = the request's seed (low, high word); counter = (index, stream, position low, position high). Every number is thus
a function of (seed, position, purpose, index) alone: never of a request's slot, the batch, or the launch. Streams keep
the purposes apart, since a number used twice (to draft and to accept, say) biases the output.
All functions take NumPy int64 arrays or torch int64 tensors (or Python ints), and broadcast.
"""

from __future__ import annotations

import numpy as np
import torch

DRAFT, ACCEPT, RECOVER, RACE, SYNTHETIC, PROPOSE = range(6)
STREAMS = {"DRAFT": DRAFT, "ACCEPT": ACCEPT, "RECOVER": RECOVER, "RACE": RACE, "SYNTHETIC": SYNTHETIC, "PROPOSE": PROPOSE}
MASK = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85


def philox4x32(c0, c1, c2, c3, k0, k1):
    """Ten rounds: counter words c0..c3 and key words k0, k1 (0..2^32-1 each) -> four words, in int64."""
    for turn in range(10):
        if turn:
            k0, k1 = k0 + KEY_STEPS[0] & MASK, k1 + KEY_STEPS[1] & MASK
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def random_words(seed, position, stream, index):
    """The four words at `index` of `stream`, for int64 seed (a uint64's bits) and int64 position."""
    return philox4x32(index & MASK, stream, position & MASK, position >> 32 & MASK, seed & MASK, seed >> 32 & MASK)


def uniform23(x):
    """One word -> (k + 0.5) * 2^-23 in (0, 1), k of 23 bits: exact in float32, and so in the float64 returned."""
    return ((x >> 9) + 0.5) * 2.0**-23 if not isinstance(x, torch.Tensor) else ((x >> 9).double() + 0.5) * 2.0**-23


def uniform52(high, low):
    """Two words -> (k + 0.5) * 2^-52 in (0, 1), k their top 52 bits; float64. With 53 bits the + 0.5 could round to 1."""
    k = high << 20 | low >> 12
    return ((k.double() if isinstance(k, torch.Tensor) else k) + 0.5) * 2.0**-52


def exponential(high, low):
    """-log(1 - uniform52(high, low)), float64, with full relative precision at both ends; NumPy or torch, same formula."""
    lib = torch if isinstance(high, torch.Tensor) else np
    # Near u = 1 the sum 1 - u would lose digits; the complemented words are exactly the bits of 1 - u.
    flipped = uniform52(high ^ MASK, low ^ MASK)
    return lib.where(high >> 31 == 1, -lib.log(flipped), -lib.log1p(-uniform52(high, low)))


def race_noise(seed, position, tokens):
    """E of the race draw for the ids `tokens`: words (0, 1) of index token // 2 for even ids, (2, 3) for odd ones."""
    w0, w1, w2, w3 = random_words(seed, position, RACE, tokens >> 1)
    lib = torch if isinstance(tokens, torch.Tensor) else np
    odd = tokens & 1 == 1
    return exponential(lib.where(odd, w2, w0), lib.where(odd, w3, w1))


def accept_uniforms(problem):
    """[num_draft] float32 on the problem's device: the U of each accept test."""
    count = torch.tensor(problem.draft_len, dtype=torch.int64, device=problem.device)
    request = torch.repeat_interleave(torch.arange(problem.batch, device=problem.device), count)
    index = torch.arange(problem.num_draft, device=problem.device) - problem.draft_start[request].long()
    return uniform23(random_words(problem.seeds[request], problem.positions[request], ACCEPT, index)[0]).float()


def recover_uniforms(problem):
    """[batch, max_draft + 1] float64 on the problem's device: the U of a cdf draw, column a being the one used if a are accepted."""
    index = torch.arange(problem.max_draft + 1, device=problem.device)
    return uniform52(*random_words(problem.seeds[:, None], problem.positions[:, None], RECOVER, index)[:2])


def _multiply(word, constant):
    """High and low 32 bits of a 64-bit product; in halves, since int64 overflows and NumPy and torch have no high product."""
    low, high = (word & 0xFFFF) * constant, (word >> 16) * constant
    middle = high + (low >> 16)
    return middle >> 16, (middle & 0xFFFF) << 16 | low & 0xFFFF
