"""Distil a draft from its target's own texts: sample a pool, train on it and on the few before it, sample the next one.

    said = distill(target, tokenizer, "outputs/draft", Recipe(seconds=420))

No text is read more than `pools_kept` times. The clock drives the learning rate, so that the draft is annealed when the time is up, however
fast the machine is. About once a minute the weights and their provenance are written, so that a run that is killed leaves a draft.
"""
from __future__ import annotations

import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from . import draft_weights, pretrained
from .distill_student import Student, acceptance
from .own_text import Pool, TextSampler
from .own_text_openings import SOURCES, openings, turns
from .results import environment

HEATS = ((1.0, 0.7), (0.7, 0.3))  # temperatures of the texts, and how many have them
SAVE_SECONDS = 60.0
RATES = {"muon": 1e-2, "adamw": 2e-3}
CURVE_TEXTS = 128  # held-out texts that a point of the curve is measured on; what is written is measured on all


@dataclass(frozen=True)
class Recipe:
    """seconds: of the whole run, loading included where `started` is given. steps: stop earlier, and let them drive the schedule too."""
    seconds: float = 420.0
    steps: int | None = None
    layers: int = 3
    batch: int = 3072          # texts of a pool
    length: int = 384          # tokens of a text
    rows: int = 64             # texts of a training step
    pools_kept: int = 4        # how often a text is read: sampling takes several times as long as reading it once
    held_out: int = 512        # texts to measure on
    learning_rate: float = 1e-2
    kl_weight: float = 0.5     # at first
    kl_fall: float = 0.8       # so much of it is gone at the end: what counts then is total variation
    weight_decay: float = 0.02
    warmup: float = 0.02
    clip: float = 1.0
    optimizer: str = "muon"
    seed: int = 0
    report_seconds: float = 10.0

    def __post_init__(self):
        for name in ("seconds", "layers", "batch", "length", "rows", "pools_kept", "held_out"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted: a number above 0")
        if not max(self.rows, self.held_out, 2) <= self.batch:
            raise ValueError(f"batch: got {self.batch}, accepted: at least rows ({self.rows}) and held_out ({self.held_out}), and 2")


SMALL = {"batch": 16, "length": 64, "rows": 8, "held_out": 16}  # on a CPU, where it shows that all of it works and no more


def distill(target, tokenizer, out, recipe: Recipe, name: str = "", started: float | None = None, say=print, start=None) -> dict:
    """Train, write the draft to the folder `out`, return its provenance.

    target: a LlamaForCausalLM (bfloat16 on a GPU); name: for the record. started: time.monotonic() when the time began to count (default:
    now). start: a folder with a draft to go on from; take another seed then.
    """
    return Distillation(target, tokenizer, out, recipe, name, time.monotonic() if started is None else started, say, start).run()


class Distillation:
    def __init__(self, target, tokenizer, out, recipe, name, started, say, start=None):
        self.target, self.tokenizer, self.out, self.recipe, self.name, self.say = target, tokenizer, Path(out), recipe, name, say
        self.started, self.deadline = started, started + recipe.seconds - min(8.0, 0.1 * recipe.seconds)  # the rest: the last measurement
        self.student = Student(target, recipe.layers, recipe.learning_rate, recipe.kl_weight, recipe.kl_fall, recipe.weight_decay,
                               recipe.warmup, recipe.clip, recipe.optimizer)
        self.before = draft_weights.provenance_of(start) if start else None  # how the weights that are gone on from came to be
        if start:
            self.student.draft.load_state_dict(draft_weights.own_weights(draft_weights.load(target, start)), strict=False)
        self.device, self.curve, self.pools = self.student.device, [], []
        self.environment = environment(str(self.device))
        self.steps = self.tokens = self.drawn = self.sampled = 0
        self.sampling_seconds = self.last_sampling = 0.0
        self.sums, self.since = torch.zeros(2, device=self.device), 0
        self.sampler = TextSampler(target, recipe.batch, recipe.length, turns(tokenizer))
        self.held_out = self.sample(held_out=True).rows(slice(0, recipe.held_out))
        self.told = self.saved = time.monotonic()

    def run(self) -> dict:
        self.report()
        self.pools.append(self.sample())
        self.student.step(self.pools[0].rows(slice(0, self.recipe.rows)), 0.0).tolist()  # at rate 0: compiles before the schedule begins
        self.begun = time.monotonic()
        while self.progress() < 1:
            self.train_round()
            if self.progress() < 1 and time.monotonic() + 1.5 * self.last_sampling < self.deadline:
                self.pools = [*self.pools, self.sample()][-self.recipe.pools_kept:]
        if self.since:
            self.report()
        return self.save(finished=True)

    def sample(self, held_out: bool = False) -> Pool:
        """A fresh pool; the first one of all is held out: other seeds, other files, and never trained on."""
        begun, seed = time.monotonic(), self.recipe.seed * 1_000_003 + self.sampled
        self.sampled += 1
        dice = random.Random(seed)
        count = self.recipe.batch
        heats = [HEATS[i % 2][0] for i in range(count)] if held_out else dice.choices(*HEATS, k=count)
        texts = [ids[:self.recipe.length // 2] for ids in openings(self.tokenizer, count, seed, held_out)]
        pool = self.sampler.sample(texts, heats, seed)
        self.drawn += 0 if held_out else pool.drawn  # waits for the device: the pool is there when the clock is read
        self.last_sampling = time.monotonic() - begun
        self.sampling_seconds += self.last_sampling
        return pool

    def progress(self) -> float:
        by_time = (time.monotonic() - self.begun) / max(self.deadline - self.begun, 1e-9)
        return max(by_time, self.steps / self.recipe.steps if self.recipe.steps else 0.0)

    def train_round(self) -> None:
        """Every text of the kept pools once, in random order."""
        pool = Pool.together(self.pools)
        order = torch.randperm(len(pool.heat), generator=torch.Generator().manual_seed(self.recipe.seed + self.steps)).to(self.device)
        for chosen in order.split(self.recipe.rows):
            progress = self.progress()
            if progress >= 1:
                return
            self.sums += self.student.step(pool.rows(chosen), progress)
            self.steps, self.since, self.tokens = self.steps + 1, self.since + 1, self.tokens + len(chosen) * self.recipe.length
            if time.monotonic() - self.told > self.recipe.report_seconds:
                self.report()
            if time.monotonic() - self.saved > SAVE_SECONDS:
                self.save()

    def report(self) -> None:
        """A line, and a point of the curve: the means since the last one, and acceptance on the held-out texts."""
        measured = acceptance(self.student.draft, self.student.head, self.held_out.rows(slice(0, CURVE_TEXTS)), self.recipe.rows)
        variation, divergence = ((self.sums / self.since).tolist() if self.since else (None, None))
        now = time.monotonic()
        point = {"seconds": round(now - self.started, 1), "steps": self.steps, "tokens": self.tokens, "tokens_sampled": self.drawn,
                 "train_total_variation": variation, "train_kl": divergence,
                 "acceptance": {heat: m["acceptance"] for heat, m in measured.items()}}
        before = self.curve[-1] if self.curve else {"seconds": point["seconds"], "tokens": 0}
        rate = (point["tokens"] - before["tokens"]) / max(point["seconds"] - before["seconds"], 0.1)
        self.curve.append(point)
        self.sums.zero_()
        self.since, self.told = 0, now
        trained = f"train TV {variation:.4f} KL {divergence:.4f}, " if variation is not None else ""
        self.say(f"{point['seconds']:6.1f} s  {self.steps:6,} steps, {self.tokens / 1e6:.2f} M tokens ({rate:,.0f}/s, sampling included), "
                 + f"{trained}held out: " + ", ".join(f"T={heat} {value:.4f}" for heat, value in point["acceptance"].items()))

    def save(self, finished: bool = False) -> dict:
        """Write the weights, read them back, measure what was read, and write that down with them."""
        draft_weights.save(self.out, self.student.draft, self.provenance(finished) | {"acceptance": None})
        kept = draft_weights.load(self.target, self.out)
        measured = acceptance(kept, self.student.head, self.held_out, self.recipe.rows)
        self.saved = time.monotonic()
        said = draft_weights.note(self.out, acceptance=measured, seconds=round(self.saved - self.started, 1))
        self.say(f"{self.saved - self.started:6.1f} s  {self.out}: written; as written, on held-out texts: "
                 + ", ".join(f"T={heat} {m['acceptance']:.4f}" for heat, m in measured.items()))
        return said

    def provenance(self, finished: bool) -> dict:
        config, recipe, on_gpu = self.target.config, self.recipe, self.device.type == "cuda"
        loss = f"total variation + w KL(target || draft), w from {recipe.kl_weight:g} down to {recipe.kl_weight * (1 - recipe.kl_fall):g}"
        return {"what": "a draft for speculative decoding: the first layers of its target, distilled on the target's own texts; "
                        "embedding and head are the target's",
                "target": {"name": self.name, "layers": config.num_hidden_layers, "hidden_size": config.hidden_size,
                           "vocab_size": config.vocab_size},
                "trained_parameters": sum(weight.numel() for weight in self.student.weights), "texts": SOURCES, "finished": finished,
                "recipe": asdict(self.recipe), "loss": f"{loss}; {self.student.laws.how}",
                "temperatures": {f"{heat:g}": share for heat, share in zip(*HEATS)}, "seed": self.recipe.seed,
                "steps": self.steps, "tokens": self.tokens, "tokens_sampled": self.drawn,
                "pools": self.sampled - 1, "seconds": round(time.monotonic() - self.started, 1),
                "sampling_seconds": round(self.sampling_seconds, 1), "sampling": self.sampler.how,
                "gpu_memory_gib": round(torch.cuda.max_memory_allocated(self.device) / 2**30, 1) if on_gpu else None,
                "environment": self.environment, "curve_texts": min(CURVE_TEXTS, self.recipe.held_out), "curve": self.curve,
                "before": self.before}


def run(target, out, seconds, device, optimizer, learning_rate, batch, length, seed, start) -> int:
    """The command. Returns the exit code 0. pretrained.ModelError or ValueError for a request that cannot be met."""
    started, device = time.monotonic(), device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: got a machine without a usable GPU; accepted: cpu (`spec-toolkit doctor` says why)")
    given = {"batch": batch, "length": length, "optimizer": optimizer, "seed": seed,
             "learning_rate": RATES[optimizer or Recipe.optimizer] if learning_rate is None else learning_rate}
    recipe = Recipe(seconds=seconds, **({} if on_gpu else SMALL) | {name: value for name, value in given.items() if value is not None})
    say = lambda line: print(line, flush=True)
    say(f"loading {target}")
    model, tokenizer = pretrained.load(target, torch.bfloat16 if on_gpu else torch.float32, device)
    say(f"{time.monotonic() - started:6.1f} s  loaded; sampling {recipe.batch:,} held-out texts of {recipe.length} tokens")
    distill(model, tokenizer, out, recipe, target, started, say, start)
    return 0
