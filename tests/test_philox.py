"""The random numbers: known answers, NumPy and torch alike, open intervals, and the words each purpose uses."""

import math

import numpy as np
import pytest
import torch

from spec_toolkit import philox
from spec_toolkit.synthetic import make_problem

FULL = 0xFFFFFFFF
# Random123's kat_vectors, philox4x32 with 10 rounds: counter and key, then the answer.
KNOWN = [
    ((0, 0, 0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize("wrap", [int, lambda x: np.array([x]), lambda x: torch.tensor([x])], ids=["int", "numpy", "torch"])
@pytest.mark.parametrize("words, answer", KNOWN)
def test_known_answers(words, answer, wrap):
    assert tuple(int(np.asarray(word).item()) for word in philox.philox4x32(*map(wrap, words))) == answer


def test_seed_and_position_use_all_64_bits():
    base = philox.random_words(5, 7, philox.ACCEPT, 0)
    assert philox.random_words(-1, -1, philox.ACCEPT, 3) == philox.philox4x32(3, 1, FULL, FULL, FULL, FULL)
    for seed, position in [(5 | 1 << 40, 7), (5, 7 | 1 << 40), (5 - 2**63, 7)]:
        assert philox.random_words(seed, position, philox.ACCEPT, 0) != base


def test_streams_are_apart():
    assert sorted(philox.STREAMS.values()) == [0, 1, 2, 3, 4, 5]
    assert len({philox.random_words(1, 2, stream, 0) for stream in philox.STREAMS.values()}) == 6


def test_uniforms_are_open_at_both_ends():
    assert philox.uniform23(0) == 2.0**-24
    assert philox.uniform23(FULL) == 1 - 2.0**-24
    assert np.float32(philox.uniform23(FULL)) < 1
    assert philox.uniform52(0, 0) == 2.0**-53
    assert philox.uniform52(FULL, FULL) == 1 - 2.0**-53 < 1


@pytest.mark.parametrize("high, low", [(0, 0), (0, 5000), (12345, 678), (0x7FFFFFFF, FULL), (0x80000000, 0),
                                       (FULL, FULL - 5000), (FULL, FULL)])
def test_exponential_is_precise_at_both_ends(high, low):
    k = (high << 32 | low) >> 12
    # -log((2^53 - 2k - 1) / 2^53), from exact integers: log1p where the odds are near 1, log elsewhere.
    expected = -math.log1p(-(2 * k + 1) / 2**53) if k < 2**51 else 53 * math.log(2) - math.log(2**53 - 2 * k - 1)
    assert float(philox.exponential(np.int64(high), np.int64(low))) == pytest.approx(expected, rel=1e-13)
    assert float(philox.exponential(torch.tensor(high), torch.tensor(low))) == pytest.approx(expected, rel=1e-13)


def test_race_noise_pairs_two_ids_with_one_index():
    ids = np.arange(7)
    noise = philox.race_noise(11, 22, ids)
    for token in ids:
        words = philox.random_words(11, 22, philox.RACE, int(token) // 2)
        assert noise[token] == philox.exponential(*map(np.int64, words[2:] if token % 2 else words[:2]))
    np.testing.assert_allclose(philox.race_noise(11, 22, torch.arange(7)).numpy(), noise, rtol=1e-15)


def test_race_noise_is_exponential():
    noise = np.sort(philox.race_noise(3, 0, np.arange(100_000)))
    distance = np.abs(-np.expm1(-noise) - (np.arange(100_000) + 0.5) / 100_000).max()
    assert distance < 1.95 / math.sqrt(100_000)  # Kolmogorov-Smirnov at 0.001


def test_problem_uniforms():
    problem = make_problem(batch=3, draft_len=[2, 0, 3], vocab=5, seed=4)
    accept, recover = philox.accept_uniforms(problem), philox.recover_uniforms(problem)
    assert accept.dtype == torch.float32 and accept.shape == (5,)
    assert recover.dtype == torch.float64 and recover.shape == (3, 4)
    seed, position = int(problem.seeds[2]), int(problem.positions[2])
    assert accept[4] == philox.uniform23(philox.random_words(seed, position, philox.ACCEPT, 2)[0])
    assert recover[2, 3] == philox.uniform52(*philox.random_words(seed, position, philox.RECOVER, 3)[:2])
    assert torch.equal(philox.accept_uniforms(problem.take([2, 0])), torch.cat([accept[2:], accept[:2]]))


def test_empty_problems_have_no_uniforms():
    assert philox.accept_uniforms(make_problem(batch=0, vocab=5)).shape == (0,)
    assert philox.recover_uniforms(make_problem(batch=2, draft_len=0, vocab=5)).shape == (2, 1)
