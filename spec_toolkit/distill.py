"""Distil a draft from its target's own texts: sample a pool, train on it and on the few before it, sample the next one.

    said = distill(target, tokenizer, "outputs/draft", Recipe(seconds=420))

No text is read more than `pools_kept` times. The clock drives the learning rate, so that the draft is annealed when the time is up, however
fast the machine is. About once a minute the weights and their provenance are written, so that a run that is killed leaves a draft.
"""
from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch

from . import distill_ranks, draft_weights
from .distill_measure import acceptance
from .distill_pools import Pools
from .distill_recipe import HEATS, Recipe
from .distill_student import Student
from .own_text import Pool
from .own_text_openings import SHARES, SOURCES
from .results import environment

SAVE_SECONDS = 60.0
CURVE_TEXTS = 128  # held-out texts that a point of the curve is measured on; what is written is measured on all


def distill(target, tokenizer, out, recipe: Recipe, name: str = "", started: float | None = None, say=print, start=None,
            ranks=distill_ranks.Ranks()) -> dict | None:
    """Train, write the draft to the folder `out`, return its provenance.

    target: a LlamaForCausalLM (bfloat16 on a GPU); name: for the record. started: time.monotonic() when the time began to count (default:
    now). start: a folder with a draft to go on from; take another seed then. ranks: the processes that train together; each calls this,
    and rank 0 alone measures, writes and says, the others return None.
    """
    return Distillation(target, tokenizer, out, recipe, name, time.monotonic() if started is None else started, say, start, ranks).run()


class Distillation:
    def __init__(self, target, tokenizer, out, recipe, name, started, say, start=None, ranks=distill_ranks.Ranks()):
        self.target, self.out, self.recipe, self.name, self.say = target, Path(out), recipe, name, say
        self.started, self.deadline = started, started + recipe.seconds - min(10.0, 0.1 * recipe.seconds)  # the rest: the last measurement
        self.ranks, self.leads, self.student = ranks, ranks.rank == 0, Student(target, recipe, ranks)
        self.before = draft_weights.provenance_of(start) if start else None  # how the weights that are gone on from came to be
        if start:
            self._go_on_from(start)
        self.device, self.curve = self.student.device, []
        self.environment = environment(str(self.device))
        self.steps = self.tokens = 0
        self.sums, self.since = torch.zeros(2, recipe.depth, device=self.device), 0
        self.pools = Pools(target, tokenizer, recipe, self.device, ranks)
        self.held_out = self.pools.held_out() if self.leads else None
        self.told = self.saved = time.monotonic()

    def run(self) -> dict | None:
        if self.leads:
            self.report()
        self.pools.add()
        self.student.warm_up(self.pools.kept[0].rows(slice(0, self.recipe.rows)))  # at rate 0, before the schedule begins
        if self.leads:
            self.say(f"{time.monotonic() - self.started:6.1f} s  the first step is done: "
                     + ", ".join(f"{part} {how}" for part, how in self.student.how.items()))
        self.begun = time.monotonic()
        while self.ranks.agreed(self.progress()) < 1:
            self.train_round()
            if self.ranks.agreed(self.progress() < 1 and time.monotonic() + 1.5 * self.pools.last_seconds < self.deadline):
                self.pools.add()
        if self.leads and self.since:
            self.report()
        return self.save(finished=True) if self.leads else None

    def progress(self) -> float:
        by_time = (time.monotonic() - self.begun) / max(self.deadline - self.begun, 1e-9)
        return max(by_time, self.steps / self.recipe.steps if self.recipe.steps else 0.0)

    def train_round(self) -> None:
        """Every text of the kept pools once, in random order, but for those that would not fill a step."""
        pool, rows = Pool.together(self.pools.kept), self.recipe.rows
        order = torch.randperm(len(pool.heat), generator=torch.Generator().manual_seed(self.recipe.seed + self.steps)).to(self.device)
        for chosen in order[:len(order) // rows * rows].split(rows):
            progress = self.ranks.agreed(self.progress())
            if progress >= 1:
                return
            self.sums += self.student.step(pool.rows(chosen), progress)
            self.steps, self.since = self.steps + 1, self.since + 1
            self.tokens += rows * self.recipe.length * self.ranks.size
            if self.leads and time.monotonic() - self.told > self.recipe.report_seconds:
                self.report()
            if self.leads and time.monotonic() - self.saved > SAVE_SECONDS:
                self.save()

    def report(self) -> None:
        """A line, and a point of the curve: the means since the last one, and acceptance on the held-out texts."""
        measured = self.measured(self.student.draft, self.held_out.rows(slice(0, CURVE_TEXTS)))
        variation, divergence = ((self.sums / self.since).tolist() if self.since else (None, None))
        now = time.monotonic()
        point = {"seconds": round(now - self.started, 1), "steps": self.steps, "tokens": self.tokens, "tokens_sampled": self.pools.drawn,
                 "train_total_variation": variation and variation[0], "train_kl": divergence and divergence[0],
                 "train_total_variation_by_depth": variation,
                 "acceptance": {heat: by_depth[0]["acceptance"] for heat, by_depth in measured["all"].items()},
                 "acceptance_of_answers": {heat: [m["acceptance"] for m in by_depth]
                                           for heat, by_depth in measured.get("answers", {}).items()}}
        before = self.curve[-1] if self.curve else {"seconds": point["seconds"], "tokens": 0}
        rate = (point["tokens"] - before["tokens"]) / max(point["seconds"] - before["seconds"], 0.1)
        self.curve.append(point)
        self.sums.zero_()
        self.since, self.told = 0, now
        trained = f"train TV {_numbers(variation)} KL {_numbers(divergence)}, " if variation is not None else ""
        self.say(f"{point['seconds']:6.1f} s  {self.steps:6,} steps, {self.tokens / 1e6:.2f} M tokens ({rate:,.0f}/s, sampling included), "
                 + f"{trained}held out: " + _said(measured))

    def measured(self, draft, pool, features: bool = True):
        depth = self.recipe.depth if features else 1
        return acceptance(draft, self.student.head, pool, depth, self.recipe.rows, features)

    def save(self, finished: bool = False) -> dict:
        """Write the weights, read them back, measure what was read, and write that down with them."""
        draft_weights.save(self.out, self.student.draft, self.provenance(finished) | {"acceptance": None})
        kept = draft_weights.load(self.target, self.out)
        measured = self.measured(kept, self.held_out)
        plain = self.measured(kept, self.held_out, features=False) if self.recipe.features else None
        self.saved = time.monotonic()
        said = draft_weights.note(self.out, acceptance={heat: by_depth[0] for heat, by_depth in measured["all"].items()},
                                  acceptance_by_kind=measured, acceptance_without_features=plain,
                                  seconds=round(self.saved - self.started, 1))
        self.say(f"{self.saved - self.started:6.1f} s  {self.out}: written; as written, on held-out texts: " + _said(measured)
                 + ("; without features: " + _said(plain) if plain else ""))
        return said

    def _go_on_from(self, start) -> None:
        draft, weights = self.student.draft, draft_weights.own_weights(draft_weights.load(self.target, start))
        missing = draft_weights.own_weights(draft).keys() ^ weights.keys()
        if missing - {"features.weight"} or "features.weight" in weights and not self.recipe.features:
            raise ValueError(f"start: got a draft of {self.before['layers']} layers with {len(weights)} weights in {start}, accepted: one "
                             f"of {self.recipe.layers} layers, with features only if they are trained")
        draft.load_state_dict(weights, strict=False)

    def provenance(self, finished: bool) -> dict:
        config, recipe, on_gpu = self.target.config, self.recipe, self.device.type == "cuda"
        loss = f"total variation + w KL(target || draft), w from {recipe.kl_weight:g} down to {recipe.kl_weight * (1 - recipe.kl_fall):g}"
        return {"what": "a draft for speculative decoding: the first layers of its target, distilled on the target's own texts; "
                        "embedding and head are the target's",
                "target": {"name": self.name, "layers": config.num_hidden_layers, "hidden_size": config.hidden_size,
                           "vocab_size": config.vocab_size},
                "trained_parameters": sum(weight.numel() for weight in self.student.weights), "texts": SOURCES, "finished": finished,
                "recipe": asdict(self.recipe), "loss": loss, "how": self.student.how, "processes": self.ranks.size,
                "temperatures": {f"{heat:g}": share for heat, share in zip(*HEATS)}, "seed": self.recipe.seed,
                "steps": self.steps, "tokens": self.tokens, "tokens_sampled": self.pools.drawn,
                "pools": self.pools.count, "seconds": round(time.monotonic() - self.started, 1),
                "sampling_seconds": round(self.pools.seconds, 1), "sampling": self.pools.sampler.how, "openings": SHARES,
                "gpu_memory_gib": round(torch.cuda.max_memory_allocated(self.device) / 2**30, 1) if on_gpu else None,
                "environment": self.environment, "curve_texts": min(CURVE_TEXTS, self.recipe.held_out), "curve": self.curve,
                "before": self.before}


def _numbers(values) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _said(measured) -> str:
    """By temperature, over all drawn tokens and over those of answers: acceptance by depth."""
    by_heat = lambda of_kind: (f"T={heat} " + _numbers(m["acceptance"] for m in by_depth) for heat, by_depth in of_kind.items())
    return "; ".join(f"{kind} " + ", ".join(by_heat(of_kind)) for kind, of_kind in measured.items() if kind != "rest")
