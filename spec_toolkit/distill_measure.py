"""How often a draft is accepted on a pool's texts: by kind of text, temperature, and which draft of a step it is."""
from __future__ import annotations

import torch

from .distill_depths import features_of, unrolled
from .distill_loss import overlaps
from .distill_positions import steps_own

KINDS = ("all", "answers", "rest")  # drawn tokens; those of an assistant's turns; the others


@torch.no_grad()
def acceptance(draft, head, pool, depth: int = 1, rows: int = 64, features: bool = True) -> dict[str, dict[str, list[dict]]]:
    """kind -> temperature of the texts ("1", "0.7") -> a list by depth of acceptance, standard_error, same_likeliest_word and tokens.

    acceptance: the mean of sum min(p, q) over tokens, both laws at that temperature. Each token of depth d weighs the chance that the d - 1
    before it were accepted, as a loop meets it; "tokens" is the sum of these weights. The standard error is over texts. A kind of text that
    is not there is left out. features: False for the draft as the plain model, which has depth 1 alone. Reads `rows` texts at a time.
    """
    found = [_of_texts(draft, head, pool.rows(chosen), depth, features)
             for chosen in torch.arange(len(pool.heat), device=pool.heat.device).split(rows)]
    sums, said = torch.cat(found, 3).double().cpu(), {}  # [kinds, depth, 3, texts]
    for kind, of_kind in zip(KINDS, sums):
        for heat in sorted(set(pool.heat.tolist()), reverse=True):
            texts = of_kind[:, :, (pool.heat == heat).cpu()]
            if (texts[:, 2].sum(1) > 0).all():
                said.setdefault(kind, {})[f"{heat:.3g}"] = [_mean(*of_depth) for of_depth in texts]
    return said


def _of_texts(draft, head, pool, depth, features):
    """Sums over positions [kinds, depth, 3, n] of: overlap, same likeliest word, weight."""
    n, length = pool.tokens.shape
    hidden = features_of(draft, pool)
    states = unrolled(draft, pool.tokens, hidden if features or hidden is None else torch.zeros_like(hidden), depth, head.dtype)
    heat, drawn = pool.heat.repeat_interleave(length), torch.roll(pool.tokens, -1, 1).flatten()  # the last one's is cut off
    free = steps_own(pool.free, depth)
    answer, rest = steps_own(pool.answer, depth), steps_own(pool.free & ~pool.answer, depth)
    came, sums = torch.ones(n, length, device=heat.device), []
    for d, state in enumerate(states):
        found = overlaps(state.flatten(0, 1), pool.hidden.flatten(0, 1), head, heat, drawn)
        overlap, same, taken = (each.view(n, length) for each in found)
        by_kind = torch.stack([free[d], answer[d], rest[d]]) * came
        sums.append(torch.stack([(by_kind * each).sum(2) for each in (overlap, same, torch.ones_like(overlap))], 1))
        came = torch.nn.functional.pad((came * taken)[:, :-1], (1, 0))
    return torch.stack(sums, 1)


def _mean(overlap, same, weight):
    mean = overlap.sum() / weight.sum()
    error = (overlap - mean * weight).square().sum().sqrt() / weight.sum()
    return {"acceptance": round(float(mean), 4), "standard_error": round(float(error), 4),
            "same_likeliest_word": round(float(same.sum() / weight.sum()), 4), "tokens": round(float(weight.sum()))}
