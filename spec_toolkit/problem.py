"""Problem: the inputs of one verification step of a batch, validated once.

Rows are ragged and flat, as inference engines hold them: request b owns draft rows draft_start[b]:draft_start[b+1]
and target rows draft_start[b]+b : draft_start[b+1]+b+1, the last of which is its bonus row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import torch

from .probability_rows import probability_rows
from .problem_validation import MAX_DRAFT, ROW_DTYPES, must_be_tensor, validate  # noqa: F401  (limits of a Problem, found where it is)

# Bits of Outputs.status.
ZERO_RESIDUAL = 1  # the residual row had no mass: the recovered token was drawn from the target row
NONFINITE = 2      # a NaN or infinity was met in a tested probability, in a draft_lse or in the row(s) of the draw: with draft_lse a
#                    draw by proposals (v10) reads the draft row at the ids proposed, up to the one that is kept (reference.py)
BAD_TOKEN = 4      # a drafted id outside [0, vocab) was reached, and rejected
NO_MASS = 8        # nothing to draw from: the token is -1


class Outputs(NamedTuple):
    """What every sampler returns, on the problem's device."""
    out_tokens: torch.Tensor    # [batch, max_draft + 1] int32: accepted, then recovered or bonus, then -1
    num_accepted: torch.Tensor  # [batch] int32: accepted drafts only
    status: torch.Tensor        # [batch] int32: the bits above


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Problem:
    """One verification step; all tensors on one device. Raises TypeError (dtype) or ValueError (shape, range)."""
    draft_start: torch.Tensor                  # [batch + 1] int32, from 0, never decreasing
    draft_tokens: torch.Tensor                 # [num_draft] int32; ids outside [0, vocab) are legal, and rejected
    seeds: torch.Tensor                        # [batch] int64: the bits of a uint64 (torch.uint64 is viewed)
    positions: torch.Tensor                    # [batch] int64: absolute position of the first draft token
    target_probs: torch.Tensor | None = None   # [num_draft + batch, vocab], stride(1) == 1
    target_logits: torch.Tensor | None = None  # the same; exactly one of the two is given
    draft_probs: torch.Tensor | None = None    # [num_draft, vocab]; no draft rows at all = one-hot drafts
    draft_logits: torch.Tensor | None = None   # the same, for the logits kind
    temperature: torch.Tensor | None = None    # [batch] float32, logits kind only (None there = ones); 0 = greedy
    draft_lse: torch.Tensor | None = None      # [num_draft] float32, with draft_logits only: logsumexp(row / temperature)
    acceptance: float | None = None            # measured mean of sum_t min(target, draft), float64
    spec: dict = field(default_factory=dict)   # the arguments of make_problem, JSON-able

    def __post_init__(self):
        validate(self)

    @property
    def batch(self) -> int: return self.draft_start.shape[0] - 1
    @property
    def num_draft(self) -> int: return self.draft_tokens.shape[0]
    @property
    def vocab(self) -> int: return self.target.shape[1]
    @property
    def draft_len(self) -> list[int]: return list(self._draft_len)
    @property
    def max_draft(self) -> int: return self._max_draft
    @property
    def device(self) -> torch.device: return self.target.device
    @property
    def dtype(self) -> torch.dtype: return self.target.dtype
    @property
    def kind(self) -> str: return "probs" if self.target_probs is not None else "logits"
    @property
    def target(self) -> torch.Tensor: return self.target_probs if self.kind == "probs" else self.target_logits
    @property
    def draft(self) -> torch.Tensor | None: return self.draft_probs if self.kind == "probs" else self.draft_logits
    @property
    def target_stride(self) -> int: return self.target.stride(0)
    @property
    def draft_stride(self) -> int: return 0 if self.draft is None else self.draft.stride(0)

    def to(self, device) -> Problem:
        """The same problem on another device (row padding is dropped where a copy is made); itself if already there."""
        device = torch.empty(0, device=device).device
        if device == self.device:
            return self
        return replace(self, **{f.name: value.to(device) for f in fields(self)
                                if isinstance(value := getattr(self, f.name), torch.Tensor)})

    def probs(self) -> Problem:
        """The probability problem of a logits problem: float32 `probability_rows` of both sides (draft_lse goes into them)."""
        if self.kind == "probs":
            return self
        lengths = torch.tensor(self._draft_len, dtype=torch.int64, device=self.device)
        target = probability_rows(self.target_logits, self.temperature.repeat_interleave(lengths + 1))
        draft = self.draft_logits
        if draft is not None:
            draft = probability_rows(draft, self.temperature.repeat_interleave(lengths), lse=self.draft_lse)
        return replace(self, target_probs=target, draft_probs=draft, target_logits=None, draft_logits=None, temperature=None,
                       draft_lse=None)

    def take(self, indices) -> Problem:
        """The requests `indices` (repeats allowed), in that order, as a problem of their own; rows are copied."""
        picked = [int(b) for b in indices]
        if any(not 0 <= b < self.batch for b in picked):
            raise ValueError(f"indices: got {picked}, accepted: values in [0, {self.batch})")
        start = self.draft_start.tolist()
        drafts = [i for b in picked for i in range(start[b], start[b + 1])]
        targets = [i + b for b in picked for i in range(start[b], start[b + 1] + 1)]
        select = lambda tensor, rows: None if tensor is None else tensor[torch.tensor(rows, dtype=torch.int64, device=self.device)]
        return Problem(
            draft_start=_starts([self._draft_len[b] for b in picked], self.device), draft_tokens=select(self.draft_tokens, drafts),
            seeds=select(self.seeds, picked), positions=select(self.positions, picked),
            temperature=select(self.temperature, picked), draft_lse=select(self.draft_lse, drafts),
            spec={**self.spec, "taken": picked},
            **{f"target_{self.kind}": select(self.target, targets), f"draft_{self.kind}": select(self.draft, drafts)})

    def __repr__(self):
        lengths = f"{min(self._draft_len, default=0)}..{self.max_draft}" if len(set(self._draft_len)) > 1 else self.max_draft
        acceptance = "unknown" if self.acceptance is None else f"{self.acceptance:.3f}"
        return (f"Problem(batch={self.batch}, draft_len={lengths}, vocab={self.vocab}, {self.kind} {str(self.dtype)[6:]}"
                f"{', one-hot drafts' if self.draft is None else ''}{'' if self.draft_lse is None else ', draft_lse'}, "
                f"acceptance={acceptance}, {self.device})")

    def _repr_html_(self):
        given = [(f.name, tensor) for f in fields(self) if isinstance(tensor := getattr(self, f.name), torch.Tensor)]
        rows = "".join(f"<tr><td style='text-align:left'>{name}</td><td>{list(t.shape)}</td><td>{str(t.dtype)[6:]}</td><td>{list(t.stride())}</td>"
                       f"<td>{t.numel() * t.element_size() / 1e6:,.1f}</td></tr>" for name, t in given)
        return f"<b>{self!r}</b><table><tr><th></th><th>shape</th><th>dtype</th><th>strides</th><th>MB</th></tr>{rows}</table>"


def from_torch(target, draft_tokens, draft=None, *, kind="probs", draft_start=None, temperature=None, draft_lse=None,
               seeds=None, positions=None):
    """A Problem around tensors you already have; the rows are not copied.

    Rectangular: target [B, K+1, V], draft_tokens [B, K], draft [B, K, V] or None. Ragged: the flat shapes of Problem,
    with draft_start [B+1]. kind: "probs" or "logits". temperature: [B] or a number (logits). draft_lse: [B, K] float32, or
    flat (logits): the log-normaliser of each draft row, as the drafter has it. Ids may be int64.
    seeds default to 0..B-1 and positions to 0: the same random numbers at every call, so a decoding loop passes positions.
    """
    if kind not in ("probs", "logits"):
        raise ValueError(f"kind: got {kind!r}, accepted: 'probs', 'logits'")
    for name, given, needed in (("target", target, True), ("draft_tokens", draft_tokens, True), ("draft", draft, False), ("draft_lse", draft_lse, False)):
        must_be_tensor(name, given, needed)
    if draft_tokens.dtype.is_floating_point or draft_tokens.dtype == torch.bool:
        raise TypeError(f"draft_tokens: got {draft_tokens.dtype}, accepted: a tensor of integers")
    if draft_start is None:
        if target.dim() != 3 or draft_tokens.dim() != 2 or (draft is not None and draft.dim() != 3):
            raise ValueError(f"target: got shape {tuple(target.shape)} with draft_tokens {tuple(draft_tokens.shape)}, "
                             "accepted: [B, K+1, V] with [B, K] and draft [B, K, V] or None, or flat rows with draft_start")
        batch, draft_len = draft_tokens.shape
        for name, rows, count in (("target", target, draft_len + 1), ("draft", draft, draft_len)):
            if rows is not None and tuple(rows.shape[:2]) != (batch, count):
                raise ValueError(f"{name}: got shape {tuple(rows.shape)}, accepted: [{batch}, {count}, V] "
                                 f"(draft_tokens is [{batch}, {draft_len}])")
        draft_start = [draft_len * b for b in range(batch + 1)]
        target, draft, draft_tokens = _flatten("target", target), _flatten("draft", draft), draft_tokens.reshape(-1)
    device, batch = target.device, len(draft_start) - 1
    put = lambda value, dtype: torch.as_tensor(value, dtype=dtype, device=device)
    if temperature is not None:
        temperature = put(temperature, torch.float32).expand(batch).contiguous()
    if seeds is None or not isinstance(seeds, torch.Tensor):
        seeds = put([s % 2**64 for s in (range(batch) if seeds is None else seeds)], torch.uint64)
    return Problem(
        draft_start=put(draft_start, torch.int32), seeds=seeds,
        draft_tokens=draft_tokens.clamp(-1, target.shape[-1]).to(torch.int32),  # a wild int64 id must not wrap into range
        positions=put([0] * batch if positions is None else positions, torch.int64),
        temperature=temperature, draft_lse=None if draft_lse is None else draft_lse.reshape(-1),
        **{f"target_{kind}": target, f"draft_{kind}": draft})


def _flatten(name, rows):
    if rows is None or rows.shape[0] * rows.shape[1] == 0:
        return rows if rows is None else rows.new_empty((0, rows.shape[2]))
    try:
        return rows.view(-1, rows.shape[2])
    except RuntimeError:
        raise ValueError(f"{name}: got strides {rows.stride()} for shape {tuple(rows.shape)}, accepted: rows evenly spaced "
                         "(stride(0) == shape[1] * stride(1)), so that no copy is made; call .contiguous() first") from None


def _starts(lengths, device):
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
