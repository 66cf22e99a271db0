"""How a draft is distilled: sizes, rates and shares, in one frozen record that the provenance keeps."""
from __future__ import annotations

from dataclasses import dataclass

HEATS = ((1.0, 0.7), (0.8, 0.2))  # temperatures of the texts, and how many have them
RATES = {"muon": 1e-2, "adamw": 2e-3}


@dataclass(frozen=True)
class Recipe:
    """seconds: of the whole run, loading included where `started` is given. steps: stop earlier, and let them drive the schedule too.

    batch, rows and pools_kept are of each GPU. depth: how many drafts of a step are learned from; with features alone, for without them
    the second draft is read like the first.
    """
    seconds: float = 420.0
    steps: int | None = None
    layers: int = 3
    features: bool = True
    depth: int = 3
    batch: int = 4096          # texts of a pool
    length: int = 256          # tokens of a text
    rows: int = 96             # texts of a training step
    pools_kept: int = 4        # how often a text is read: sampling takes several times as long as reading it once
    held_out: int = 512        # texts to measure on
    first_share: float = 0.5   # of the positions of a step, so many have their first draft's law compared
    deep_share: float = 0.25   # and so many each of the drafts behind it
    depth_fall: float = 0.7    # a draft's loss weighs so much of that of the one before it
    plain_share: float = 0.1   # of the texts, read without features
    rest_weight: float = 0.25  # of tokens that are not an assistant's
    learning_rate: float = 1e-2
    kl_weight: float = 0.5     # at first
    kl_fall: float = 0.8       # so much of it is gone at the end: what counts then is total variation
    weight_decay: float = 0.02
    warmup: float = 0.02
    clip: float = 1.0
    optimizer: str = "muon"
    seed: int = 0
    report_seconds: float = 15.0

    def __post_init__(self):
        for name in ("seconds", "layers", "depth", "batch", "length", "rows", "pools_kept", "held_out"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted: a number above 0")
        for name in ("first_share", "deep_share", "depth_fall"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted: above 0, up to 1")
        for name in ("plain_share", "rest_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted: 0 to 1")
        if not max(self.rows, self.held_out, 2) <= self.batch:
            raise ValueError(f"batch: got {self.batch}, accepted: at least rows ({self.rows}) and held_out ({self.held_out}), and 2")
        if self.depth > (self.length if self.features else 1):
            accepted = f"up to length ({self.length})" if self.features else "1 without features"
            raise ValueError(f"depth: got {self.depth}, accepted: {accepted}")

    @property
    def depth_weights(self) -> list[float]:
        """What each draft's loss weighs; the sum is 1."""
        weights = [self.depth_fall**i for i in range(self.depth)]
        return [weight / sum(weights) for weight in weights]


SMALL = {"batch": 16, "length": 64, "rows": 8, "held_out": 16}  # on a CPU, where it shows that all of it works and no more
