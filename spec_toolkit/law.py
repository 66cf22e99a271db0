"""Does it follow the law? Chi-square of a sampler's outputs against the exact distribution, with its power stated.

A fixed threshold on the total variation would be too strict for a large vocabulary and blind for a small one. A
chi-square test has a known chance of failing an exact sampler (alpha), and a known size of bias that it catches; the
result states both. Emitted sequences are tested jointly, and the token at each position by itself, where the same bias
stands out from fewer cells; alpha is shared among these tests.
"""
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from . import philox
from .chi_square import ChiSquare, chi_square
from .exact_law import output_law
from .problem import from_torch

SHOWN = 5
ENDED = -1  # the cell of a position where the sequence has ended
CHUNKS = {"cpu": 1 << 22, "cuda": 1 << 26}  # target row elements of one launch


@dataclass(frozen=True)
class LawResult:
    """Chi-square of `draws` outputs against the exact law. True if passed."""
    sampler: str
    draws: int
    cells: int                # of the joint test, after pooling to an expected count of 5
    statistic: float
    p_value: float
    alpha: float              # chance that an exact sampler fails, all tests together
    detectable_tv: float      # any bias of this total variation (on the pooled cells) is caught with probability `power`
    power: float
    impossible: list = field(default_factory=list)  # emitted sequences of probability zero
    positions: list = field(default_factory=list)   # of ChiSquare: the token at each position by itself
    name: str = ""            # of the law

    @property
    def passed(self):
        return not self.impossible and self.p_value >= self.share and all(test.passed for test in self.positions)

    @property
    def share(self):
        """Alpha of each of the tests."""
        return self.alpha / (1 + len(self.positions))

    @property
    def finest_tv(self):
        """The smallest bias that one of the tests catches: of a position's token, or of the whole sequence."""
        return min([self.detectable_tv, *(test.detectable_tv for test in self.positions)])

    def __bool__(self):
        return self.passed

    def __str__(self):
        worst = [str(test) for test in self.positions if not test.passed]
        return (f"{'PASS' if self else 'FAIL'} {self.sampler}: law{f' of {self.name}' if self.name else ''}: {self.draws} draws, "
                f"chi-square {self.statistic:.1f} on {self.cells} cells, p={self.p_value:.3g} (alpha {self.alpha:g} "
                f"over {1 + len(self.positions)} tests); would catch a total variation of "
                f"{self.detectable_tv:.4f} with {self.power:.0%} power"
                + "".join(f"; {text}" for text in worst)
                + (f"; impossible outputs: {self.impossible[:SHOWN]}" if self.impossible else ""))

    def to_dict(self):
        return {**asdict(self), "passed": self.passed, "finest_tv": self.finest_tv,
                "impossible": [list(map(int, key)) for key in self.impossible[:20]]}


def law_check(sampler, target_rows, draft_rows=None, draft_tokens=None, draws=100_000, *, alpha=1e-4, power=0.99, seed=0,
              device="cpu", chunk=None, dtype=torch.float32, kind="probs", name="") -> LawResult:
    """Compare how often each output sequence occurs in `draws` requests with `output_law`, which enumerates vocab^K.

    target_rows [K+1, vocab], draft_rows [K, vocab] or None: probabilities, rounded to `dtype`; the law is that of the
    rounded rows. kind "logits": their logarithms, at temperature 1, are what the sampler gets (float32 only).
    draft_tokens [K] fixes the drafts; None draws them from draft_rows, so that the law is the target's own; they come
    from the DRAFT stream of the request's seed, so that a sampler that uses those numbers again is seen. The requests
    differ in their seed only (`seed`, `seed`+1, ...), so a pass or a fail repeats. `chunk`: target row elements of one launch, None
    = CHUNKS of the device.
    Returns a `LawResult`; ValueError if draws leave fewer than two cells.
    """
    rounded = lambda rows: None if rows is None else torch.as_tensor(np.asarray(rows, dtype=np.float32)).to(dtype)
    target, draft = rounded(target_rows), rounded(draft_rows)
    exact = lambda rows: None if rows is None else rows.double().numpy()
    law = output_law(exact(target), exact(draft), draft_tokens)
    target, draft = target.to(device), None if draft is None else draft.to(device)
    counts, step = {}, max(1, (chunk or CHUNKS[target.device.type]) // target.numel())
    for start in range(0, draws, step):
        seeds = torch.arange(seed + start, seed + min(start + step, draws), device=device)
        for key, count in _counted(sampler(_repeated(target, draft, draft_tokens, seeds, kind)).out_tokens, target.shape[1]):
            counts[key] = counts.get(key, 0) + count
    return judge(sampler.name, law, counts, draws, alpha, power, name)


def judge(sampler_name, law, counts, draws, alpha, power, name="") -> LawResult:
    """LawResult of counts {sequence: how often} against law {sequence: probability}. ValueError for too few draws."""
    marginals = [marginal(law, position) for position in range(max(map(len, law)))]
    tested = [(position, cells) for position, cells in enumerate(marginals) if len(cells) > 1]
    share = alpha / (1 + len(tested))
    joint = chi_square("joint", _cells(law, counts), draws, share, power)
    if joint is None:
        raise ValueError(f"draws: got {draws}, which leaves fewer than two cells with an expected count of 5, accepted: enough for 2")
    positions = [chi_square(f"position {position}", _cells(cells, marginal(counts, position)), draws, share, power)
                 for position, cells in tested]
    positions = [test for test in positions if test is not None] if None in positions else positions
    return LawResult(sampler_name, draws, joint.cells, joint.statistic, joint.p_value, share * (1 + len(positions)), joint.detectable_tv,
                     power, [key for key in counts if not law.get(key)], positions, name)


def marginal(sequences, position):
    """{token at `position`, or ENDED: weight} of {sequence: weight}."""
    found = {}
    for sequence, weight in sequences.items():
        token = sequence[position] if position < len(sequence) else ENDED
        found[token] = found.get(token, 0) + weight
    return found


def _cells(law, counts):
    return [(counts.get(key, 0), p) for key, p in law.items() if p > 0]


def _counted(out_tokens, vocab):
    """[(sequence without its -1 tail, how often)] of out_tokens [batch, width]; ids outside [-1, vocab) are kept as they are."""
    tokens, base = out_tokens.long(), vocab + 1
    if base ** tokens.shape[1] < 2**62 and bool(((tokens >= -1) & (tokens < vocab)).all()):  # one number per sequence sorts faster
        powers = torch.tensor([base**i for i in range(tokens.shape[1])], device=tokens.device)
        codes, counts = torch.unique(((tokens + 1) * powers).sum(1), return_counts=True)
        rows = codes[:, None] // powers % base - 1
    else:
        rows, counts = torch.unique(tokens, dim=0, return_counts=True)
    return [(tuple(t for t in row if t >= 0), count) for row, count in zip(rows.tolist(), counts.tolist())]


def _repeated(target, draft, draft_tokens, seeds, kind):
    """A problem of len(seeds) requests with the same rows, on their device."""
    batch, length = len(seeds), target.shape[0] - 1
    if draft_tokens is None and length:
        tokens = torch.stack([_drawn(draft[i].double(), seeds, i) for i in range(length)], 1)
    else:
        tokens = torch.tensor(draft_tokens if length else [], dtype=torch.int64, device=seeds.device).expand(batch, length)
    stored = lambda rows: (rows if kind == "probs" else rows.log()).repeat(batch, 1, 1)
    return from_torch(stored(target), tokens, None if draft is None else stored(draft), kind=kind, seeds=seeds)


def _drawn(row, seeds, index):
    """One token of `row` (float64) for each seed, by the inverse of the cumulative sum, from the DRAFT stream."""
    cumulative = row.cumsum(0)
    u = philox.uniform52(*philox.random_words(seeds, 0, philox.DRAFT, index)[:2])
    return torch.searchsorted(cumulative, u * cumulative[-1], right=True).clamp(max=int(row.nonzero()[-1]))


__all__ = ["ChiSquare", "LawResult", "judge", "law_check", "marginal"]
