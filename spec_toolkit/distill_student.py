"""The draft in training: float32 weights, bfloat16 arithmetic on a GPU, Muon for its matrices, a cosine that the clock may drive."""
from __future__ import annotations

import math

import torch

from . import distill_depths, draft_weights
from .compiled_function import Compiled
from .distill_loss import distance, laws
from .distill_positions import chosen
from .features import takes_features


class Student:
    """The first layers of `target`, learning its laws as the Recipe says. The target gets no gradients; embedding and head stay.

    ranks: the processes that train together (distill_ranks.Ranks); each gives its own texts to `step`, at the same progress.
    """

    def __init__(self, target, recipe, ranks):
        target.requires_grad_(False)
        self.recipe, self.ranks = recipe, ranks
        self.draft, self.head = draft_weights.cut(target, recipe.layers, recipe.features), target.lm_head.weight
        self.device, self.dtype = self.head.device, self.head.dtype
        for module in (self.draft.model.layers, self.draft.model.norm, *([self.draft.features] if recipe.features else [])):
            torch.nn.Module.float(module).requires_grad_(True)
        self.weights = [weight for weight in self.draft.parameters() if weight.requires_grad]
        self.optimizers = _optimizers(self.draft, recipe.optimizer, recipe.weight_decay)
        on_gpu = self.device.type == "cuda"
        self.compiled = [Compiled(function, on_gpu) for function in (laws, distill_depths.before, distill_depths.behind)]
        self.laws, *parts = self.compiled
        self.parts = distill_depths.Parts(*parts)

    @property
    def how(self) -> dict[str, str]:
        """Which of its functions are compiled."""
        return dict(zip(("laws", "before attention", "behind attention"), (each.how for each in self.compiled)))

    def warm_up(self, pool) -> None:
        """A step at rate 0, which compiles; where that fails behind the forward, once more without."""
        try:
            self.step(pool, 0.0).tolist()
        except Exception as error:
            if all(each.function is each.plain for each in self.compiled):
                raise
            for each in self.compiled:
                each.give_up(error)
            self._forget()
            self.step(pool, 0.0).tolist()

    def step(self, pool, progress: float):
        """One step on the texts of a Pool, `progress` 0 to 1 through the schedule -> means by depth [2, depth] of total variation and KL,
        on the device."""
        recipe = self.recipe
        plain = torch.rand(len(pool.heat), device=self.device) < recipe.plain_share
        places, weight, counts = chosen(pool, plain, recipe)
        kl_weight = torch.full((), recipe.kl_weight * (1 - recipe.kl_fall * progress), device=self.device)  # a copy from here would wait
        hidden = pool.hidden.masked_fill(plain[:, None, None], 0) if recipe.features else None
        states = distill_depths.unrolled(self.draft, pool.tokens, hidden, recipe.depth, self.dtype, self.parts)
        states = torch.cat([state.flatten(0, 1) for state in states]).index_select(0, places)
        place = places % pool.tokens.numel()
        heat = pool.heat.index_select(0, place // pool.tokens.shape[1])
        loss, found = distance(states, pool.hidden.flatten(0, 1).index_select(0, place), self.head, heat, weight, kl_weight, self.laws)
        loss.backward()
        self.ranks.average([each.grad for each in self.weights])
        torch.nn.utils.clip_grad_norm_(self.weights, recipe.clip)
        rate = recipe.learning_rate * schedule(progress, recipe.warmup)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.step()
        self._forget()
        parts = zip((found * weight).split(counts, 1), recipe.depth_weights)
        return torch.stack([each.sum(1) / share for each, share in parts], 1)

    def _forget(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)


def schedule(progress: float, warmup: float) -> float:
    """The learning rate's factor: up in a line while progress < warmup, then half a cosine down to 0 at progress 1."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def _optimizers(draft, name, weight_decay):
    """Muon's steps are scaled to the size of AdamW's. The vectors are the norms' weights, some of them near 0.04: AdamW moves a weight by
    up to its rate, so that they get a tenth of the rate that suits Muon and matrices of 0.2. So does the matrix of features, which begins
    at zero and is added to embeddings near 0.1: at the full rate it would drown them within a few steps."""
    if name not in ("muon", "adamw"):
        raise ValueError(f"optimizer: got {name!r}, accepted: muon, adamw")
    features = [draft.features.weight] if takes_features(draft) else []
    layers = [weight for weight in draft.parameters() if weight.requires_grad and not any(weight is each for each in features)]
    matrices, vectors = ([weight for weight in layers if (weight.ndim == 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "share": 1.0}, *([{"params": features, "share": 0.1}] if features else [])]
    adam = {"betas": (0.9, 0.95)}
    if name == "adamw":
        return [torch.optim.AdamW([*groups, {"params": vectors, "share": 1.0}], weight_decay=weight_decay, **adam)]
    return [torch.optim.Muon(groups, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([{"params": vectors, "share": 0.1}], weight_decay=0.0, **adam)]
