"""A sampler of probabilities as a sampler of logits: torch's softmax in front of it, both inside the call.

    load_composed("softmax+v5"), load_composed("softmax+torch_vectorised"), load_composed("softmax+flashinfer_chain")

This is what an engine does that has only a sampler of probabilities, and what a kernel from logits is compared with. The
buffers are made by `bind`: float32 probabilities of all target and draft rows, `ComposedCall.extra_bytes` in all. The call
fills them (`torch.softmax`, behind a division where a temperature is not 1) and runs the sampler; a CUDA graph can hold it
where it can hold the sampler. The comparison leans towards the composite: which rows are greedy is looked up by `bind`,
and a row maximum is subtracted before the division only where `bind` saw a row that the division would overflow.
"""
from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

PREFIX = "softmax+"
INHERITED = ("draw", "ulps", "reports_status", "own_generator", "fresh_outputs", "law_draws")


def load_composed(name, **tune):
    """The composite "softmax+NAME", NAME being any sampler that takes probabilities; `tune` goes to it. ValueError otherwise."""
    from .sampler import load_sampler  # it knows composites too
    if not name.startswith(PREFIX):
        raise ValueError(f"composed: got {name!r}, accepted: {PREFIX}NAME, such as {', '.join(list_composed()[:3])}")
    return Composed(load_sampler(name.removeprefix(PREFIX), **tune))


def list_composed() -> list[str]:
    """The composites of everything here that takes probabilities from a buffer: rungs, baselines, installed peers."""
    from .peers import PEERS, installed_peers
    from .sampler import list_samplers, load_sampler
    names = [name for name in list_samplers() if name not in PEERS and not name.startswith(PREFIX)]
    return ([PREFIX + name for name in names if getattr(load_sampler(name), "input", "probs") == "probs"]
            + [PREFIX + name for name in installed_peers() if not PEERS[name].copies_rows])


def composed_hashes(hashes) -> dict:
    """name -> source_hash of the composite of each sampler in `hashes`; None where the sampler's own cannot be told."""
    return {PREFIX + name: inner and _hash(inner) for name, inner in hashes.items() if not name.startswith(PREFIX)}


def _hash(inner):
    return hashlib.sha256(Path(__file__).read_bytes() + inner.encode()).hexdigest()


class Composed:
    """`softmax+NAME`. `sampler(problem)` -> Outputs; `sampler.bind(problem)` -> ComposedCall. The draw, the rounding
    allowed and what it reports are those of the sampler behind. ValueError for one that takes logits itself."""
    kind, input = "composed", "logits"

    def __init__(self, inner):
        if getattr(inner, "input", "probs") != "probs" or getattr(inner, "copies_rows", False):
            raise ValueError(f"composed: got {inner.name!r}, accepted: a sampler that reads probabilities where they are")
        self.inner, self.name, self.source_hash = inner, PREFIX + inner.name, _hash(inner.source_hash)
        self.capturable = getattr(inner, "capturable", inner.name != "python_loop")
        for name in INHERITED:
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    def bind(self, problem):
        """Allocate the buffers, fill them once and bind the sampler to them. ValueError for a problem of probabilities."""
        if problem.kind != "logits":
            raise ValueError(f"{self.name}: got a problem of probabilities, accepted: logits; {self.inner.name} takes these rows as they are")
        return ComposedCall(self.inner, problem)

    def __call__(self, problem):
        """A problem of probabilities is turned into logits here, so that the law test of `check` tests the softmax too."""
        return self.bind(problem if problem.kind == "logits" else _as_logits(problem))()

    def __repr__(self):
        return f"Composed({self.name!r}, draw={self.draw!r})"


class ComposedCall:
    """One problem bound: calling it writes the probabilities, then runs the sampler behind, whose `outputs` these are."""

    def __init__(self, inner, problem):
        lengths = (problem.draft_start[1:] - problem.draft_start[:-1]).long()
        self.sides = [Side(problem.target, problem.temperature.repeat_interleave(lengths + 1))]
        if problem.draft is not None:
            self.sides.append(Side(problem.draft, problem.temperature.repeat_interleave(lengths), problem.draft_lse))
        for side in self.sides:
            side()
        self.extra_bytes = sum(4 * tensor.numel() for side in self.sides for tensor in (side.probs, side.scaled) if tensor is not None)
        draft = self.sides[1].probs if len(self.sides) > 1 else None
        self.call = inner.bind(replace(problem, target_logits=None, draft_logits=None, draft_lse=None, temperature=None,
                                       target_probs=self.sides[0].probs, draft_probs=draft))

    @property
    def outputs(self):
        return self.call.outputs

    def __call__(self):
        for side in self.sides:
            side()
        return self.call()


class Side:
    """The target's or the draft's rows: calling it writes `probs` [rows, vocab] float32 from the logits as they are then.

    heat [rows]: temperatures, 0 = greedy. lse [rows] or None, live as the logits are. One to three launches (lse: six), and
    about eight more where a row is greedy. `scaled`: the buffer of logits / heat; None where no division is needed.
    """

    def __init__(self, logits, heat, lse=None):
        self.logits, self.lse, self.greedy = logits, lse, (heat == 0).nonzero()[:, 0]
        self.divisor = torch.where(heat > 0, heat, 1.0)[:, None]
        self.probs = torch.empty(logits.shape, device=logits.device)
        plain = lse is not None or bool((self.divisor == 1).all())
        self.scaled = None if plain else torch.empty_like(self.probs)
        top = logits.amax(1, keepdim=True).float() if len(logits) else self.divisor
        self.steep = bool((top.isfinite() & ~(top / self.divisor).isfinite()).any())

    def __call__(self):
        if len(self.greedy) < len(self.probs):
            self._write_random()
        if len(self.greedy):
            self._write_greedy()

    def _write_random(self):
        if self.lse is not None:
            torch.div(self.logits, self.divisor, out=self.probs)
            self.probs.sub_(torch.where(self.lse.isfinite(), self.lse, torch.nan)[:, None]).exp_()
        elif self.scaled is None:
            torch.softmax(self.logits, -1, dtype=torch.float32, out=self.probs)
        else:
            if self.steep:
                torch.sub(self.logits, self.logits.amax(1, keepdim=True).float(), out=self.scaled)
            torch.div(self.scaled if self.steep else self.logits, self.divisor, out=self.scaled)
            torch.softmax(self.scaled, -1, out=self.probs)

    def _write_greedy(self):
        """One-hot at the first maximum (torch.max promises the first), or NaN where that is not finite."""
        top, first = self.logits.index_select(0, self.greedy).max(1, keepdim=True)
        rest, hot = (torch.where(top.isfinite(), value, torch.nan) for value in (0.0, 1.0))
        self.probs.index_copy_(0, self.greedy, rest.expand(-1, self.logits.shape[1]).scatter(1, first, hot))


def _as_logits(problem, heat=0.5):
    """Logits whose softmax at temperature `heat` are the problem's rows; float32, log(0) = -inf."""
    log = lambda rows: None if rows is None else rows.float().log() * heat
    return replace(problem, target_logits=log(problem.target), draft_logits=log(problem.draft), target_probs=None, draft_probs=None,
                   temperature=torch.full((problem.batch,), heat, device=problem.device))
