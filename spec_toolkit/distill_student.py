"""The draft in training: float32 weights, bfloat16 arithmetic on a GPU, Muon for its matrices, a cosine that the clock may drive."""
from __future__ import annotations

import math

import torch

from . import draft_weights
from .distill_loss import Laws, distance, overlaps


class Student:
    """The first `layers` layers of `target`, learning its laws. The target gets no gradients; embedding and head stay as they are."""

    def __init__(self, target, layers: int, learning_rate: float, kl_weight=0.5, kl_fall=0.8, weight_decay=0.02, warmup=0.02, clip=1.0,
                 optimizer="muon"):
        target.requires_grad_(False)
        self.draft, self.head = draft_weights.cut(target, layers), target.lm_head.weight
        self.device, self.dtype = self.head.device, self.head.dtype
        for module in (self.draft.model.layers, self.draft.model.norm):
            torch.nn.Module.float(module).requires_grad_(True)
        self.weights = [weight for weight in self.draft.parameters() if weight.requires_grad]
        self.learning_rate, self.kl_weight, self.kl_fall, self.warmup, self.clip = learning_rate, kl_weight, kl_fall, warmup, clip
        self.optimizers = _optimizers(self.weights, optimizer, weight_decay)
        self.laws = Laws(compile=self.device.type == "cuda")

    def step(self, pool, progress: float):
        """One step on the texts of a Pool, `progress` 0 to 1 through the schedule -> means (total variation, KL) [2], on the device."""
        heat, weight = _by_position(pool)
        kl_weight = torch.full((), self.kl_weight * (1 - self.kl_fall * progress), device=self.device)  # filled there: a copy would wait
        loss, means = distance(self.read(pool.tokens), pool.hidden.flatten(0, 1), self.head, heat, weight, kl_weight, self.laws)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.clip)
        rate = self.learning_rate * schedule(progress, self.warmup)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return means

    def read(self, tokens):
        """tokens [n, length] -> hidden states [n * length, width] in the target's dtype."""
        return read(self.draft, tokens, self.dtype)


def read(draft, tokens, dtype):
    """A draft's hidden states behind its last norm [n * length, width] in `dtype`; float32 weights work in bfloat16 if that is `dtype`.

    Layer by layer, without a mask (which means causal): the model's own forward looks, with the host, for texts packed into one row.
    """
    hidden = draft.model.embed_tokens(tokens).to(draft.model.norm.weight.dtype)
    places = torch.arange(tokens.shape[1], device=tokens.device)[None]
    mixed = hidden.dtype == torch.float32 and dtype == torch.bfloat16
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=mixed):
        turn = draft.model.rotary_emb(hidden, position_ids=places)
        for layer in draft.model.layers:
            hidden = layer(hidden, attention_mask=None, position_ids=places, position_embeddings=turn)
        return draft.model.norm(hidden).flatten(0, 1).to(dtype)


def schedule(progress: float, warmup: float) -> float:
    """The learning rate's factor: up in a line while progress < warmup, then half a cosine down to 0 at progress 1."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


@torch.no_grad()
def acceptance(draft, head, pool, rows: int = 64) -> dict[str, dict]:
    """By temperature of the pool's texts ("1" and "0.7"): the mean of sum min(p, q) over drawn tokens, both laws at that temperature;
    how often target and draft have the same likeliest word; the number of tokens and the standard error over texts. Read `rows` texts
    at a time."""
    found = []
    for chosen in torch.arange(len(pool.heat), device=pool.heat.device).split(rows):
        part = pool.rows(chosen)
        heat, weight = _by_position(part)
        overlap, same = overlaps(read(draft, part.tokens, head.dtype), part.hidden.flatten(0, 1), head, heat)
        counted = (overlap, same.float(), torch.ones_like(weight))
        found.append(torch.stack([(each * weight).view(len(chosen), -1).sum(1) for each in counted]))
    sums, said = torch.cat(found, 1).double().cpu(), {}
    for heat in sorted(set(pool.heat.tolist()), reverse=True):
        overlap, same, count = sums[:, (pool.heat == heat).cpu()]
        mean = overlap.sum() / count.sum()
        error = (overlap - mean * count).square().sum().sqrt() / count.sum()
        said[f"{heat:.3g}"] = {"acceptance": round(float(mean), 4), "standard_error": round(float(error), 4),
                               "same_likeliest_word": round(float(same.sum() / count.sum()), 4), "tokens": int(count.sum())}
    return said


def _by_position(pool):
    """heat and weight [n * length] float32: of positions whose next token was drawn, 1."""
    return pool.heat[:, None].expand(pool.tokens.shape).flatten(), pool.free.flatten().float()


def _optimizers(weights, name, weight_decay):
    """Muon's steps are scaled to the size of AdamW's. The vectors are the norms' weights, some of them near 0.04: AdamW moves a weight by
    up to its rate, so that they get a tenth of the rate that suits Muon and matrices of 0.2."""
    if name == "adamw":
        return [torch.optim.AdamW([{"params": weights, "share": 1.0}], betas=(0.9, 0.95), weight_decay=weight_decay)]
    if name != "muon":
        raise ValueError(f"optimizer: got {name!r}, accepted: muon, adamw")
    matrices, vectors = ([weight for weight in weights if (weight.ndim == 2) == wanted] for wanted in (True, False))
    return [torch.optim.Muon([{"params": matrices, "share": 1.0}], weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([{"params": vectors, "share": 0.1}], betas=(0.9, 0.95), weight_decay=0.0)]
