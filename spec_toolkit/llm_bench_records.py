"""Records of decoding loops: one JSON file per cell. An arm keeps every run, in columns; medians are made when they are read.

    {"format", "created", "path", "kind", ..., "environment", "models", "arms": [{"method", "sampler", "source_hash", "check",
     "runs": {"prompt": [...], "seed": [...], "new_tokens": [...], "tokens_per_s": [...], "draft_s": [...], ...}, ...}]}

Sees only records: neither models nor torch. A ratio is formed within one record, prompt by prompt and seed by seed.
"""
from __future__ import annotations

import statistics
from pathlib import Path

from . import results

FORMAT = "spec_toolkit llm record 1"
PARTS = ("draft", "target", "sampler", "rest")


class LoopRecord(dict):
    """A record as loaded. `path`: its file. `stale`: names of samplers whose source is not today's (if hashes were given)."""
    stale: tuple = ()
    path: Path | None = None

    @property
    def title(self) -> str:
        return f"{self.forms}, B={self['batch']}, T={self['temperature']:g}"

    @property
    def forms(self) -> str:
        """The path, and whose forward it takes."""
        return f"{self['path']} path{self.forward}"

    @property
    def forward(self) -> str:
        """Whose forward the graph path takes, in words; "" on the eager path, where it is transformers'."""
        words = {"both": " (own forward)", "draft": " (transformers' target, own draft)", "none": " (transformers' forward)"}
        return words.get(self.get("fused"), "")

    @property
    def compiled(self) -> bool:
        """Was our own forward compiled?"""
        return self.get("own_forward") == "compiled"

    @property
    def rank(self) -> int:
        """The usual forward of a path first."""
        return ("both", "draft", "none").index(self["fused"]) if self.get("fused") else 0

    def arm(self, method: str, sampler: str | None = None, draft_len: int | None = None) -> dict | None:
        """The first arm of that method, and of the sampler and K where they are given; None if there is none."""
        return next((arm for arm in self["arms"] if arm["method"] == method and sampler in (None, arm["sampler"])
                     and draft_len in (None, arm["draft_len"])), None)

    def measured(self) -> list[dict]:
        """The arms of speculation with the sampler that plain decoding uses too: the one that is measured."""
        plain = self.arm("plain")
        return [arm for arm in self["arms"] if plain and arm["method"] == "speculation" and arm["sampler"] == plain["sampler"]]

    def __repr__(self) -> str:
        return f"LoopRecord({self['kind']}, {self.title}, {len(self['arms'])} arms{', failed' if self.get('error') else ''})"


def write(record: dict, out="results") -> Path:
    """Write out/<gpu | cpu>/llm/<path>-<kind>-...json over an older one of the same cell; its path."""
    folder = Path(out) / results.slug(record["environment"]["gpu"] or "cpu") / "llm"
    folder.mkdir(parents=True, exist_ok=True)
    models = record["models"]
    name = results.slug(f"{record['path']}-{record.get('fused') or ''}-{record['kind']}-b{record['batch']}-t{record['temperature']:g}-"
                        f"{Path(models['target']).name}-{Path(models['draft']).name}")
    results.write_atomically(folder / f"{name}.json", results.to_text(record))
    return folder / f"{name}.json"


def load(folder, hashes: dict | None = None, kind: str | None = None, failed: bool = False) -> list[LoopRecord]:
    """Records below folder, by path; failed ones only if asked for. hashes: name -> today's source_hash, marks what is stale.

    ValueError names a file that is not JSON.
    """
    found = []
    for path, data in results.json_files(folder, "llm/*.json"):
        if data.get("format") != FORMAT or kind not in (None, data["kind"]) or data.get("error") and not failed:
            continue
        record = LoopRecord(data)
        record.path, record.stale = path, tuple(sorted({arm["sampler"] for arm in data["arms"] if is_stale(arm, hashes)}))
        found.append(record)
    return found


def is_stale(arm: dict, hashes: dict | None) -> bool:
    return bool(hashes is not None and arm["sampler"] and results.is_stale(arm, hashes))


def latest(records) -> list[LoopRecord]:
    """Those of the machine and pair of models, weight by weight, that were recorded last; [] if there are none."""
    place = lambda r: (r["environment"]["gpu"], *(r["models"].get(key) for key in ("target", "draft", "target_hash", "draft_hash")))
    newest = max(records, key=lambda r: (r["environment"]["gpu"] is not None, r["created"]), default=None)
    return [r for r in records if place(r) == place(newest)]


def is_finished(spec: dict, models: dict, gpu, hashes: dict, records) -> bool:
    """Is this cell there without an error, of these models on this GPU, with the samplers as they are today?"""
    return any(r["spec"] == spec and r["models"] == models and r["environment"]["gpu"] == gpu and not r.get("error")
               and not any(is_stale(arm, hashes) for arm in r["arms"]) for r in records)


# ---- what an arm says ---------------------------------------------------------------------------------------------------

def rates(arm: dict) -> list[float]:
    """tokens/s of every run."""
    return [rate for rate in arm["runs"]["tokens_per_s"] if rate]


def speedups(arm: dict, base: dict) -> list[float]:
    """tokens/s over that of `base` for the same prompts and seed, run by run."""
    at = {(p, s): rate for p, s, rate in zip(base["runs"]["prompt"], base["runs"]["seed"], base["runs"]["tokens_per_s"]) if rate}
    mine = zip(arm["runs"]["prompt"], arm["runs"]["seed"], arm["runs"]["tokens_per_s"])
    return [rate / at[p, s] for p, s, rate in mine if rate and (p, s) in at]


def rates_by_seed(arm: dict) -> list[float]:
    """Median tokens/s of the runs of each seed, in the order in which they were made."""
    runs = list(zip(arm["runs"]["seed"], arm["runs"]["tokens_per_s"]))
    groups = ([rate for s, rate in runs if s == seed and rate] for seed in sorted(set(arm["runs"]["seed"])))
    return [statistics.median(group) for group in groups if group]


def spread(samples) -> dict | None:
    """median, p10 and p90; None without samples."""
    return results.spread(samples) if samples else None


def median(samples) -> float | None:
    return statistics.median(samples) if samples else None


def step_ms(arm: dict) -> dict[str, float] | None:
    """{part: ms of a step of the batch}, mean over all runs; None for one that cannot be taken apart (transformers' own)."""
    runs = arm["runs"]
    steps = sum(runs["steps"])
    return {part: 1000 * sum(runs[f"{part}_s"]) / steps for part in PARTS} if steps and None not in runs["draft_s"] else None


def run_step_ms(arm: dict) -> list[float]:
    """ms of a step of the batch in every run, also of one that cannot be taken apart: there by its rate, of the steps behind its first."""
    runs, found = arm["runs"], []
    for i, steps in enumerate(runs["steps"]):
        if steps and runs["draft_s"][i] is not None:
            found.append(1000 * sum(runs[f"{part}_s"][i] for part in PARTS) / steps)
        elif steps and runs["tokens_per_s"][i]:
            found.append(1000 * runs["emitted"][i] / runs["tokens_per_s"][i] / steps)
    return found


def sampler_shares(arm: dict) -> list[float]:
    """The sampler's share of the time of every run."""
    columns = zip(*(arm["runs"][f"{part}_s"] for part in PARTS))
    return [parts[PARTS.index("sampler")] / sum(parts) for parts in columns if None not in parts and sum(parts)]


def tokens_per_step(arm: dict) -> float | None:
    counted = sum(arm["runs"]["request_steps"])
    return sum(arm["runs"]["emitted"]) / counted if counted else None


def kept_per_step(arm: dict) -> float | None:
    """Tokens of the texts over all steps of their requests: without what a last step decodes beyond the limit, and with the first
    step of transformers' own way, which is not timed since it reads the prompt. So the two are comparable."""
    runs = arm["runs"]
    steps = sum(runs["request_steps"]) + (len(runs["seed"]) if arm["method"] == "assisted" else 0)
    return sum(runs["new_tokens"]) / steps if steps else None


def acceptance(arm: dict) -> list[float | None]:
    """[K]: of the drafts looked at in a position, the share that was accepted."""
    return [accepted / tested if tested else None for accepted, tested in zip(arm["accepted"], arm["tested"])]


def mean_acceptance(arm: dict) -> float | None:
    """Over all positions: accepted / looked at."""
    return sum(arm["accepted"]) / sum(arm["tested"]) if sum(arm["tested"]) else None


def expected_tokens(acceptance: float, draft_len: int) -> float:
    """Tokens of a step if every draft were accepted independently with this chance: (1 - a^(K+1)) / (1 - a)."""
    return sum(acceptance**i for i in range(draft_len + 1))


def equal_texts(arm: dict, base: dict) -> tuple[int, int]:
    """(greedy texts that are those of `base`, texts)."""
    pairs = list(zip(arm.get("texts") or (), base.get("texts") or ()))
    return sum(a == b for a, b in pairs), len(pairs)


def with_features(record: LoopRecord) -> bool:
    """Did the draft take the target's hidden states?"""
    return bool(record["models"].get("draft_features"))


def best_draft_len(record: LoopRecord) -> int:
    """The K whose median tokens/s is the largest."""
    arms = [arm for arm in record["arms"] if arm["method"] == "speculation" and rates(arm)]
    return max(arms, key=lambda arm: statistics.median(rates(arm)))["draft_len"]


def held_out(record: LoopRecord) -> float | None:
    """Acceptance of the draft at temperature 1 on held-out texts of its training; None for a draft of another origin."""
    said = (record["models"].get("draft_provenance") or {}).get("acceptance") or {}
    return said["1"]["acceptance"] if "1" in said else None
