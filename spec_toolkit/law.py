"""Does it follow the law? Chi-square of a sampler's outputs against the exact distribution, with its power stated.

A fixed threshold on the total variation would be too strict for a large vocabulary and blind for a small one. A
chi-square test has a known chance of failing an exact sampler (alpha), and a known size of bias that it catches; the
result states both. The tail functions are written out (about 40 lines), so that SciPy is not needed to run a check.
"""
import math
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from .problem import from_torch
from .reference import output_law

SHOWN = 5


@dataclass(frozen=True)
class LawResult:
    """Chi-square of `draws` outputs against the exact law. True if passed."""
    sampler: str
    draws: int
    cells: int                # after pooling to an expected count of 5
    statistic: float
    p_value: float
    alpha: float              # chance that an exact sampler fails
    detectable_tv: float      # any bias of this total variation (on the pooled cells) is caught with probability `power`
    power: float
    impossible: list = field(default_factory=list)  # emitted sequences of probability zero

    @property
    def passed(self):
        return not self.impossible and self.p_value >= self.alpha

    def __bool__(self):
        return self.passed

    def __str__(self):
        return (f"{'PASS' if self else 'FAIL'} {self.sampler}: law: {self.draws} draws, chi-square {self.statistic:.1f} on "
                f"{self.cells} cells, p={self.p_value:.3g} (alpha {self.alpha:g}); would catch a total variation of "
                f"{self.detectable_tv:.4f} with {self.power:.0%} power"
                + (f"; impossible outputs: {self.impossible[:SHOWN]}" if self.impossible else ""))

    def to_dict(self):
        return {**asdict(self), "passed": self.passed, "impossible": [list(map(int, key)) for key in self.impossible[:20]]}


def law_check(sampler, target_rows, draft_rows=None, draft_tokens=None, draws=100_000, *, alpha=1e-4, power=0.99, seed=0,
              device="cpu", chunk=1 << 22) -> LawResult:
    """Compare how often each output sequence occurs in `draws` requests with `output_law`, which enumerates vocab^K.

    target_rows [K+1, vocab], draft_rows [K, vocab] or None: float32 probabilities (converted). draft_tokens [K] fixes
    the drafts; None draws them from draft_rows, so that the law is the target's own. The requests differ in their seed
    only (`seed`, `seed`+1, ...), so a pass or a fail repeats. `chunk`: row elements per launch. Returns a `LawResult`;
    ValueError if draws leave fewer than two cells.
    """
    target = torch.as_tensor(target_rows, dtype=torch.float32, device="cpu")
    draft = None if draft_rows is None else torch.as_tensor(draft_rows, dtype=torch.float32, device="cpu")
    law = output_law(target.numpy(), None if draft is None else draft.numpy(), draft_tokens)
    counts = {}
    step, random = max(1, chunk // target.numel()), np.random.default_rng(seed)
    for start in range(0, draws, step):
        problem = _repeated(target, draft, draft_tokens, range(seed + start, seed + min(start + step, draws)), random)
        outputs = sampler(problem.to(device)).out_tokens.cpu().numpy()
        for row, count in zip(*np.unique(outputs, axis=0, return_counts=True)):
            key = tuple(int(t) for t in row if t >= 0)
            counts[key] = counts.get(key, 0) + int(count)
    return _chi_square(sampler.name, law, counts, draws, alpha, power)


def _repeated(target, draft, draft_tokens, seeds, random):
    """A problem of len(seeds) requests with the same rows. The drafts come from NumPy, a generator of its own."""
    batch, length = len(seeds), target.shape[0] - 1
    if draft_tokens is None and length:
        law = draft.double().numpy()
        law = law / law.sum(1, keepdims=True)
        tokens = np.stack([random.choice(law.shape[1], size=batch, p=row) for row in law], axis=1)
    else:
        tokens = np.tile(np.array(draft_tokens if length else [], dtype=np.int64), (batch, 1))
    rows = None if draft is None else draft.repeat(batch, 1, 1)
    return from_torch(target.repeat(batch, 1, 1), torch.as_tensor(tokens), rows, seeds=list(seeds))


def _chi_square(name, law, counts, draws, alpha, power):
    impossible = [key for key in counts if not law.get(key)]
    observed, expected = _pool([(counts.get(key, 0), draws * p) for key, p in law.items() if p > 0])
    if len(expected) < 2:
        raise ValueError(f"draws: got {draws}, which leaves {len(expected)} cells with an expected count of 5, accepted: enough for 2")
    statistic, degrees = float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1
    # Sum (delta^2 / p) >= (sum |delta|)^2 = 4 TV^2 for any bias delta: the least visible bias of a given TV meets equality.
    detectable = 0.5 * math.sqrt(detectable_noncentrality(degrees, alpha, power) / draws)
    return LawResult(name, draws, len(expected), statistic, chi2_tail(statistic, degrees), alpha, detectable, power, impossible)


def _pool(cells, least=5.0):
    """Merge the rarest cells until each has an expected count of `least`; -> (observed, expected) float64 arrays."""
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
