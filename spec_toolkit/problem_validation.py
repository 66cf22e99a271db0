"""What a Problem must be: every tensor's type, shape, strides and device, and the ranges of what is small enough to look at."""
from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import torch

MAX_DRAFT = 128
ROW_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SMALLEST = torch.finfo(torch.float32).tiny


def validate(p) -> None:
    """Refuse a Problem that is none, with a TypeError (dtype) or ValueError (shape, range) that names the field; else complete it: the
    bits of seeds as int64, temperatures of ones for logits without any, and the lengths on the host."""
    for f in fields(p):
        if "Tensor" in f.type:
            must_be_tensor(f.name, getattr(p, f.name), f.name in ("draft_start", "draft_tokens", "seeds", "positions"))
    if p.draft_tokens.dim() != 1:
        raise ValueError(f"draft_tokens: got shape {tuple(p.draft_tokens.shape)}, accepted: [num_draft]")
    if (p.target_probs is None) == (p.target_logits is None):
        raise ValueError("target: got both or neither of target_probs and target_logits, accepted: exactly one")
    if (p.draft_logits if p.kind == "probs" else p.draft_probs) is not None:
        raise ValueError(f"draft: got the other kind, accepted: draft_{p.kind} with target_{p.kind}, or no draft rows (one-hot)")
    if p.kind == "probs" and p.temperature is not None:
        raise ValueError("temperature: got a tensor with target_probs, accepted: None (it is already in the probabilities)")
    if p.draft_lse is not None and p.draft_logits is None:
        raise ValueError("draft_lse: got a tensor without draft_logits, accepted: None (it normalises rows of draft_logits)")
    if p.seeds.dtype == torch.uint64:
        object.__setattr__(p, "seeds", p.seeds.view(torch.int64))
    if p.draft_start.dim() != 1 or p.draft_start.shape[0] < 1:
        raise ValueError(f"draft_start: got shape {tuple(p.draft_start.shape)}, accepted: [batch + 1]")
    if p.kind == "logits" and p.temperature is None:
        object.__setattr__(p, "temperature", torch.ones(p.batch, device=p.device))
    for name, dtype, count in (("draft_start", torch.int32, p.batch + 1), ("draft_tokens", torch.int32, p.num_draft),
                               ("seeds", torch.int64, p.batch), ("positions", torch.int64, p.batch),
                               ("temperature", torch.float32, p.batch), ("draft_lse", torch.float32, p.num_draft)):
        if (tensor := getattr(p, name)) is not None:
            _check_tensor(p, name, tensor, (dtype,), (count,))
    starts = p.draft_start.tolist()
    lengths = [after - before for before, after in pairwise(starts)]
    if starts[0] != 0 or starts[-1] != p.num_draft or min(lengths, default=0) < 0:
        raise ValueError(f"draft_start: got {starts[:8]}... for {p.num_draft} draft_tokens, "
                         "accepted: from 0 to num_draft, never decreasing")
    if max(lengths, default=0) > MAX_DRAFT:
        raise ValueError(f"draft_start: got a request with {max(lengths)} draft tokens, accepted: at most {MAX_DRAFT}")
    if p.temperature is not None and not bool(((p.temperature == 0) | (p.temperature >= SMALLEST) & p.temperature.isfinite()).all()):
        raise ValueError(f"temperature: got {p.temperature.tolist()[:8]}, accepted: 0 (greedy) or finite values >= 2**-126 "
                         "(GPU code takes smaller ones for 0)")
    _check_tensor(p, f"target_{p.kind}", p.target, ROW_DTYPES, (p.num_draft + p.batch, None))
    if p.draft is not None:
        _check_tensor(p, f"draft_{p.kind}", p.draft, (p.dtype,), (p.num_draft, p.vocab))
    object.__setattr__(p, "_draft_len", lengths)
    object.__setattr__(p, "_max_draft", max(lengths, default=0))


def must_be_tensor(name, value, needed):
    if not isinstance(value, torch.Tensor) and (needed or value is not None):
        raise TypeError(f"{name}: got {type(value).__name__}, accepted: a tensor{'' if needed else ' or None'}")


def _check_tensor(p, name, tensor, dtypes, shape):
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in dtypes:
        raise TypeError(f"{name}: got {getattr(tensor, 'dtype', type(tensor).__name__)}, "
                        f"accepted: a tensor of {', '.join(map(str, dtypes))}")
    if tensor.device != p.device:
        raise ValueError(f"{name}: got device {tensor.device}, accepted: {p.device}, where the target rows are")
    if tensor.dim() != len(shape) or any(want is not None and got != want for got, want in zip(tensor.shape, shape)):
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, accepted: {list(shape)} (None = any)".replace("None]", "vocab]"))
    if tensor.dim() == 2 and not 1 <= tensor.shape[1] < 2**31:
        raise ValueError(f"{name}: got vocab {tensor.shape[1]}, accepted: 1 to 2**31 - 1")
    if tensor.dim() == 2 and not _rows_are_dense(tensor):
        raise ValueError(f"{name}: got strides {tensor.stride()}, accepted: stride(1) == 1 and stride(0) >= vocab")
    if tensor.dim() == 1 and not tensor.is_contiguous():
        raise ValueError(f"{name}: got stride {tensor.stride(0)}, accepted: a contiguous tensor")


def _rows_are_dense(rows):
    (count, vocab), (row_stride, stride) = rows.shape, rows.stride()
    return count == 0 or (stride == 1 or vocab == 1) and (row_stride >= vocab or count == 1)
