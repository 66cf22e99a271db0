"""The cells of an experiment: each problem under each flush, one `bench.compare` each; and which of them are recorded already."""
from __future__ import annotations

import inspect
from dataclasses import dataclass

from .synthetic import make_problem


@dataclass(frozen=True)
class Cell:
    """One problem and one flush of an experiment, the `place`-th of `of`."""
    experiment: str
    place: int
    of: int
    arguments: dict
    flush: str

    def __str__(self) -> str:
        a = self.arguments
        rest = [str(a[key]).removeprefix("torch.") if key == "dtype" else f"{key} {a[key]}" for key in a if key not in ("batch", "draft_len", "vocab")]
        return " ".join([f"{self.experiment} {self.place}/{self.of} B={a['batch']} K={a['draft_len']} V={a['vocab']}", *rest, self.flush])

    @property
    def spec(self) -> dict:
        """What the record of a problem made by these arguments says as its spec."""
        bound = inspect.signature(make_problem).bind(**self.arguments, device="cuda")
        bound.apply_defaults()
        return bound.arguments | {"dtype": str(bound.arguments["dtype"]).removeprefix("torch.")}


def cells(name: str, experiment) -> list[Cell]:
    """The cells of the experiment of that name, in the order in which they are timed."""
    listed = [(arguments, flush) for arguments in experiment.problems for flush in experiment.flushes]
    return [Cell(name, place, len(listed), *each) for place, each in enumerate(listed, 1)]


def is_recorded(cell: Cell, samplers, records, gpu: str) -> bool:
    """Does the newest run of this cell on that GPU hold all the samplers, as they are today, or say why one is left out?

    A peer counts in whichever version of its library it was timed, as its records do not go stale with the library installed here.
    """
    same = [r for r in records if (r["experiment"], r["flush"], r["problem"]["spec"], r["environment"]["gpu"])
            == (cell.experiment, cell.flush, cell.spec, gpu)]
    newest = max(same, key=lambda r: r["created"], default={"run_id": None})["run_id"]
    held = {r["sampler"]: r["source_hash"] for r in same if r["run_id"] == newest}
    out = {name for r in same if r["run_id"] == newest for name in r.get("left_out", ())}
    as_today = lambda s: getattr(s, "own_generator", False) or held[s.name] == s.source_hash
    return bool(held) and all(s.name in out or s.name in held and as_today(s) for s in samplers)
