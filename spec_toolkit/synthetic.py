"""make_problem: random problems of a stated shape, whose acceptance rate is set, then measured.

Target rows: weights u ** -s of independent uniforms u, which is a Zipf law in random order without a sort. Draft rows:
(1 - mix) * target + mix * other, where `other` is an independent row of the same shape that lives on tokens the target
finds unlikely. With TV the total variation distance of target and other, sum(min(target, draft)) = 1 - mix * TV exactly.
"""

from __future__ import annotations

import torch

from .probability_rows import probability_rows, row_chunks
from .problem import MAX_DRAFT, ROW_DTYPES, Problem, _starts

EXPONENTS = {"zipf": 1.2, "peaked": 2.5, "flat": None}  # flat: exp(0.5 * normal)
PADDING_VALUE = 1e30  # columns past vocab: finite garbage, so that a kernel that reads them is seen to


def make_problem(batch=4, draft_len=8, vocab=32000, acceptance=0.7, shape="zipf", seed=0, device="cpu",
                 dtype=torch.float32, logits=False, temperature=1.0, draft_probs=True, row_padding=0, draft_lse=False) -> Problem:
    """A random Problem on `device`; the same arguments give the same problem on the same device type.

    draft_len: K for every request, or a list of `batch` lengths (0 allowed). acceptance: wanted mean acceptance in
    [0, 1]; `.acceptance` of the result is what the stored rows really have, which differs where the shape cannot reach
    it (flat below about 0.3, vocab 1); 0 always gives disjoint rows for vocab >= 2. logits=True stores
    log(row) * temperature, temperature being a number or a list, 0 = greedy (there the draft's first choice is the
    target's with probability `acceptance`). draft_probs=False: one-hot drafts. row_padding: extra columns of garbage.
    draft_lse=True (logits with draft rows): the log-normaliser of each draft row too; NaN at temperature 0, where none is used.
    """
    spec = {k: v for k, v in locals().items()} | {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
    lengths = [draft_len] * batch if isinstance(draft_len, int) else [int(k) for k in draft_len]
    temperatures = [temperature] * batch if isinstance(temperature, (int, float)) else [float(t) for t in temperature]
    _check(lengths, temperatures, **spec | {"dtype": dtype})
    spec |= {"draft_len": draft_len if isinstance(draft_len, int) else lengths,
             "temperature": temperature if isinstance(temperature, (int, float)) else temperatures}
    random = torch.Generator(device=device).manual_seed(seed)
    heat = torch.tensor(temperatures if logits else [1.0] * batch, dtype=torch.float32, device=device)
    count = torch.tensor(lengths, dtype=torch.int64, device=device)
    request = torch.repeat_interleave(torch.arange(batch, device=device), count)      # of each draft row
    target_row = torch.arange(len(request), device=device) + request
    bonus_row = count.cumsum(0) + torch.arange(batch, device=device)
    target = _rows(len(request) + batch, vocab, row_padding, dtype, device)
    draft = _rows(len(request), vocab, row_padding, dtype, device) if draft_probs else None
    tokens = torch.empty(len(request), dtype=torch.int32, device=device)
    overlap = torch.empty(len(request), dtype=torch.float64, device=device)
    lse = torch.empty(len(request), dtype=torch.float32, device=device) if draft_lse else None
    for rows in row_chunks(len(request), vocab):
        row_heat = heat[request[rows]]
        p = _weights(rows.stop - rows.start, vocab, shape, random)
        q = _mixed(p, shape, acceptance, row_heat == 0, random) if draft_probs else None
        stored = _store(p, row_heat, logits, dtype)
        target[target_row[rows]] = stored
        if draft_probs:
            draft[rows] = _store(q, row_heat, logits, dtype)
            if draft_lse:
                lse[rows] = _log_normaliser(draft[rows], row_heat)
        p = _as_read(stored, row_heat, logits)
        if draft_probs:
            q = _as_read(draft[rows], row_heat, logits, lse[rows] if draft_lse else None)
            tokens[rows], overlap[rows] = _race(q, random), torch.minimum(p, q).sum(-1)
        else:
            tokens[rows] = _guess(p, acceptance, random)
            overlap[rows] = p.gather(1, tokens[rows, None].long())[:, 0]
    for rows in row_chunks(batch, vocab):
        target[bonus_row[rows]] = _store(_weights(rows.stop - rows.start, vocab, shape, random), heat[rows], logits, dtype)
    kind = "logits" if logits else "probs"
    return Problem(
        draft_start=_starts(lengths, device), draft_tokens=tokens, temperature=heat if logits else None, draft_lse=lse,
        seeds=torch.randint(2**63 - 1, (batch,), generator=random, device=device),
        positions=torch.randint(2**40, (batch,), generator=random, device=device),  # past 32 bits, so that the high word matters
        acceptance=float(overlap.mean()) if len(request) else None, spec=spec, **{f"target_{kind}": target, f"draft_{kind}": draft})


def _check(lengths, temperatures, *, batch, vocab, acceptance, shape, dtype, logits, draft_probs, row_padding, draft_lse, **_):
    for name, got, fine, accepted in (
            ("shape", shape, shape in EXPONENTS, f"one of {list(EXPONENTS)}"),
            ("batch", batch, batch >= 0, "0 or more"),
            ("vocab", vocab, 1 <= vocab < 2**31, "1 to 2**31 - 1"),
            ("acceptance", acceptance, 0 <= acceptance <= 1, "0 to 1"),
            ("draft_len", lengths, len(lengths) == batch and all(0 <= k <= MAX_DRAFT for k in lengths),
             f"0 to {MAX_DRAFT}, one for all or {batch} values"),
            ("temperature", temperatures, len(temperatures) == batch and all(0 <= t < float("inf") for t in temperatures),
             f"0 or more, one for all or {batch} values"),
            ("dtype", dtype, dtype in ROW_DTYPES, ROW_DTYPES),
            ("row_padding", row_padding, row_padding >= 0, "0 or more"),
            ("draft_lse", draft_lse, not draft_lse or logits and draft_probs, "False without logits=True and draft_probs=True")):
        if not fine:
            raise ValueError(f"{name}: got {got}, accepted: {accepted}")


def _rows(rows, vocab, padding, dtype, device):
    storage = torch.empty(rows, vocab + padding, dtype=dtype, device=device)
    storage[:, vocab:] = min(PADDING_VALUE, torch.finfo(dtype).max)
    return storage[:, :vocab]


def _weights(rows, vocab, shape, random):
    """Unmixed rows [rows, vocab] float32 that sum to 1."""
    w = torch.empty(rows, vocab, device=random.device)
    if EXPONENTS[shape] is None:
        w.normal_(0, 0.5, generator=random).exp_()
    else:
        w.uniform_(generator=random).neg_().add_(1).pow_(-EXPONENTS[shape])  # 1 - u is in (0, 1]: no infinity
    return _normalised(w)


def _normalised(w):
    return w.div_(w.sum(-1, keepdim=True, dtype=torch.float64).to(w.dtype))


def _mixed(p, shape, acceptance, greedy, random):
    """Draft rows for the target rows p; p loses the draft's tokens if acceptance is 0 (in place)."""
    unlikely = p < p.median(-1, keepdim=True).values
    top, least = p.argmax(-1, keepdim=True), p.argmin(-1, keepdim=True)
    least = torch.where(least == top, (top + 1) % p.shape[1], least)
    unlikely.scatter_(1, least, True)  # never empty, whatever the ties (vocab 2 has no middle)
    other = _weights(*p.shape, shape, random)
    other = _normalised(other.mul_(unlikely))
    if acceptance == 0 and p.shape[1] > 1:
        _normalised(p.masked_fill_(unlikely, 0))
    distance = 1 - torch.minimum(p, other).sum(-1, keepdim=True, dtype=torch.float64)
    mix = ((1 - acceptance) / distance.clamp(min=1e-6)).clamp(max=1).to(p.dtype)
    coin = torch.rand(len(p), 1, device=p.device, generator=random) >= acceptance
    mix = torch.where(greedy[:, None], coin.to(p.dtype), mix)
    return p * (1 - mix) + other * mix


def _store(rows, heat, logits, dtype):
    return (rows.log_() * torch.where(heat > 0, heat, 1)[:, None] if logits else rows).to(dtype)


def _as_read(stored, heat, logits, lse=None):
    return probability_rows(stored, heat, torch.float64, lse) if logits else stored.double()


def _log_normaliser(stored, heat):
    """logsumexp(stored / heat) in float64, rounded to float32, [rows]; NaN where heat is 0: whoever reads it there is seen to."""
    exact = torch.logsumexp(stored.double() / heat.double()[:, None], -1)
    return torch.where(heat > 0, exact, torch.nan).float()


def _race(q, random):
    """One token of each row of q (float64), by an exponential race."""
    noise = torch.empty_like(q).exponential_(generator=random)
    return (q / noise.clamp_(min=1e-300)).argmax(-1).to(torch.int32)


def _guess(p, acceptance, random):
    """One-hot drafts: the likeliest token with probability `acceptance`, else any id."""
    coin = torch.rand(len(p), device=p.device, generator=random) < acceptance
    return torch.where(coin, p.argmax(-1), torch.randint(p.shape[1], coin.shape, device=p.device, generator=random)).to(torch.int32)
