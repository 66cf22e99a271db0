"""Which positions of a pool's texts count, and which of them a training step compares laws at: comparing costs more than reading."""
from __future__ import annotations

import torch
from torch.nn import functional as F


def steps_own(flags, depth: int) -> list:
    """By depth [n, length] bool: flagged, and so are the positions that the drafts before it are drawn at. flags [n, length] bool."""
    found = [flags]
    for _ in range(depth - 1):
        found.append(flags & F.pad(found[-1][:, :-1], (1, 0)))
    return found


@torch.no_grad()
def chosen(pool, read_plainly, recipe):
    """-> (positions [m] int64 into depths x texts x length, their weights [m] float32 with a sum of 1, m of each depth).

    Tokens of an assistant's turn are wanted, others that were drawn with the chance `rest_weight`; of the wanted ones as many are chosen at
    random as the recipe's shares say, and if there are fewer, the others weigh nothing. Nothing here waits for the device.
    read_plainly [n] bool: texts without features, which have no depth but the first.
    """
    worth = torch.where(pool.answer, 1.0, recipe.rest_weight) > torch.rand(pool.free.shape, device=pool.free.device)
    counts = [max(1, int(share * worth.numel())) for share in (recipe.first_share, *[recipe.deep_share] * (recipe.depth - 1))]
    places, weights = [], []
    for d, (drawn, count, part) in enumerate(zip(steps_own(pool.free, recipe.depth), counts, recipe.depth_weights)):
        wanted = (drawn & worth & ~(read_plainly[:, None] & (d > 0))).flatten()
        place = (wanted + torch.rand(wanted.shape, device=wanted.device)).topk(count, sorted=False).indices
        weight = wanted[place].float()
        places.append(place + d * wanted.numel())
        weights.append(part * weight / weight.sum().clamp(min=1))
    return torch.cat(places), torch.cat(weights), counts
