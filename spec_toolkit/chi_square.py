"""Chi-square with its power: the test, its tail, and the smallest bias that it catches. Written out, so that SciPy is not needed.

Sum (delta^2 / p) >= (sum |delta|)^2 = 4 TV^2 for any bias delta of the cells' probabilities p, with equality where every
cell is off by the same factor up or down. So n draws give a noncentrality of at least 4 n TV^2, and the total variation
whose noncentrality is just enough is one that *every* bias of that size is caught at, not only a lucky one.
"""
import math
from dataclasses import dataclass
from functools import cache

import numpy as np

LEAST = 5.0  # expected count of a cell; rarer ones are pooled


@dataclass(frozen=True)
class ChiSquare:
    """One test of `draws` counts at size `alpha`."""
    name: str
    cells: int             # after pooling
    statistic: float
    p_value: float
    alpha: float           # the chance that an exact sampler fails it
    detectable_tv: float   # any bias of this total variation (on the pooled cells) is caught with the power asked for

    @property
    def passed(self):
        return self.p_value >= self.alpha

    def __str__(self):
        return f"{self.name}: chi-square {self.statistic:.1f} on {self.cells} cells, p={self.p_value:.3g}"


def chi_square(name, cells, draws, alpha, power) -> ChiSquare | None:
    """Test of cells [(count, probability)]; None where fewer than two are left after pooling: nothing to test."""
    observed, expected = pool([(count, draws * p) for count, p in cells])
    if len(expected) < 2:
        return None
    statistic, degrees = float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1
    detectable = 0.5 * math.sqrt(detectable_noncentrality(degrees, alpha, power) / draws)
    return ChiSquare(name, len(expected), statistic, chi2_tail(statistic, degrees), alpha, detectable)


def pool(cells, least=LEAST):
    """Merge the rarest of cells [(count, expectation)] until each expects `least`; -> (observed, expected) float64 arrays."""
    pooled, seen, mean = [], 0, 0.0
    for count, expectation in sorted(cells, key=lambda cell: cell[1]):
        seen, mean = seen + count, mean + expectation
        if mean >= least:
            pooled.append((seen, mean))
            seen, mean = 0, 0.0
    if mean and pooled:
        pooled[-1] = (pooled[-1][0] + seen, pooled[-1][1] + mean)
    return np.array(pooled, dtype=np.float64).reshape(-1, 2).T


def chi2_tail(x, degrees):
    """P(chi-square > x): the regularised upper incomplete gamma function Q(degrees/2, x/2), series or continued fraction."""
    a, x = degrees / 2, x / 2
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while abs(term) > 1e-17 * abs(total):
            n += 1
            term *= x / n
            total += term
        return max(0.0, 1 - scale * total)
    return scale * _continued_fraction(a, x)


def _continued_fraction(a, x):
    """Lentz's method for Gamma(a, x) / (x^a e^-x)."""
    b = x + 1 - a
    c, d = 1e300, 1 / b
    value = d
    for i in range(1, 10_000):
        b += 2
        d = 1 / (b - i * (i - a) * d)
        c = b - i * (i - a) / c
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


@cache
def detectable_noncentrality(degrees, alpha, power):
    """The noncentrality at which a chi-square test of size alpha rejects with probability `power`."""
    critical = _bisect(lambda x: alpha - chi2_tail(x, degrees), degrees)
    return _bisect(lambda x: _noncentral_tail(critical, degrees, x) - power, degrees)


def _noncentral_tail(x, degrees, noncentrality):
    """P(noncentral chi-square > x): a Poisson mixture of central ones, out to 12 standard deviations."""
    mean = noncentrality / 2
    reach = 12 * math.sqrt(mean) + 20
    return sum(math.exp(j * math.log(mean) - mean - math.lgamma(j + 1)) * chi2_tail(x, degrees + 2 * j)
               for j in range(max(0, int(mean - reach)), int(mean + reach))) if mean > 0 else chi2_tail(x, degrees)


def _bisect(rising, high):
    """The zero of an increasing function on (0, infinity), to 6 digits."""
    low = 0.0
    while rising(high) < 0:
        low, high = high, 2 * high
    while high - low > 1e-7 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
