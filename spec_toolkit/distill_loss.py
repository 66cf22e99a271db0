"""How far a draft's law is from its target's, with the gradient written out, in chunks: no [tokens, vocab] array is ever kept.

Of target p and draft q, total variation is 1 - sum min(p, q), which is one minus the acceptance of speculative decoding: the very thing
wanted. Its gradient vanishes where q is far below p, so a part of KL(p || q) is added. With respect to the draft's logits:
    KL:              q - p
    total variation: q * (sum of q where q < p  -  [q < p])
"""
from __future__ import annotations

import torch
from torch.nn import functional as F

CHUNK = 4096  # rows of logits at a time: 0.8 GB in float32 at 49,152 words


def laws(target_logits, draft_logits, heat, kl_weight):
    """-> (total variation [n], KL [n], gradient of total variation + kl_weight * KL by the draft's logits).

    Rows of logits [n, vocab], temperatures heat [n, 1], kl_weight a number or a tensor [] (whose value may change without compiling anew).
    """
    log_p, log_q = (F.log_softmax(logits.float() / heat, -1) for logits in (target_logits, draft_logits))
    p, q = log_p.exp(), log_q.exp()
    below = q < p
    variation, divergence = 1 - torch.minimum(p, q).sum(-1), (p * (log_p - log_q)).sum(-1)
    inside = torch.where(below, q, 0.0).sum(-1, keepdim=True)
    gradient = (kl_weight * (q - p) + q * (inside - below.float())) / heat
    return variation, divergence, gradient.to(draft_logits.dtype)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, draft_hidden, target_hidden, head, heat, weight, kl_weight, function):
        gradient, found = torch.empty_like(draft_hidden), torch.empty(2, len(heat), device=heat.device)
        for rows in _chunks(len(heat)):
            target_logits, draft_logits = target_hidden[rows] @ head.T, draft_hidden[rows] @ head.T
            variation, divergence, by_logits = function(target_logits, draft_logits, heat[rows, None], kl_weight)
            gradient[rows] = (by_logits @ head) * weight[rows, None].to(head.dtype)
            found[0, rows], found[1, rows] = variation, divergence
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(found)
        return (found[0] + kl_weight * found[1]) @ weight, found

    @staticmethod
    def backward(ctx, by_loss, _):
        return ctx.saved_tensors[0] * by_loss.to(ctx.saved_tensors[0].dtype), None, None, None, None, None, None


def distance(draft_hidden, target_hidden, head, heat, weight, kl_weight=0.5, function=laws):
    """-> (loss [], total variation and KL [2, n]): the loss is their sum over n positions by `weight`, differentiable by draft_hidden.

    kl_weight: a number or a tensor [] on the device.
    hidden [n, width] and head [vocab, width] of one dtype; heat, weight [n] float32.
    """
    return _Distance.apply(draft_hidden, target_hidden, head, heat, weight, kl_weight, function)


@torch.no_grad()
def overlaps(draft_hidden, target_hidden, head, heat, drawn):
    """By position: acceptance, sum min(p, q) [n] float32; whether both have the same likeliest word [n] bool; and the chance
    min(1, q / p) that a step which emits the target's own word `drawn` [n] int64 does so by accepting it as a draft [n] float32."""
    found = []
    for rows in _chunks(len(heat)):
        logits = [hidden[rows] @ head.T for hidden in (target_hidden, draft_hidden)]
        p, q = (F.softmax(row.float() / heat[rows, None], -1) for row in logits)
        of_p, of_q = (law.gather(1, drawn[rows, None])[:, 0] for law in (p, q))
        taken = (of_q / of_p.clamp(min=1e-30)).clamp(max=1)
        found.append((torch.minimum(p, q).sum(-1), logits[0].argmax(-1) == logits[1].argmax(-1), taken))
    return tuple(torch.cat(each) for each in zip(*found))


def _chunks(n):
    """Slices of equal size, but for the last one, and at most CHUNK."""
    size = -(-n // -(-n // CHUNK))
    return [slice(start, start + size) for start in range(0, n, size)]
