"""One call taken apart, by differences of recorded medians: the launch, the draw, the accept test, the rows.

The experiment `profile` times three problems of the same batch: no drafts and 32 ids (a launch and a draw), K drafts and 32
ids (the accept test as well), K drafts and the whole vocabulary (the rows as well). Nothing inside a kernel is touched for
it, so a part that one kernel hides behind another shows as less, or as zero. The three are timed one after the other, in
runs of their own: a difference under half a microsecond says nothing.
"""
from __future__ import annotations

from dataclasses import dataclass

from .reading import kernels_first, label, number, sizes, value
from .tables import NONE, markdown

SMALL_VOCAB = 1000  # up to here the rows cost nothing worth telling
NAMES = {"launch": "launch (an empty kernel)", "draw": "draw, without rows", "accept": "accept test", "rows": "rows"}


@dataclass(frozen=True)
class Parts:
    """GPU time in µs of the parts of one call; `draw` None: the sampler refused the problem without drafts, so that
    `accept` holds its draw too. limit: a plain read of the rows' bytes, launch included, in the run of the whole call."""
    label: str
    size: str
    whole: float
    launch: float
    draw: float | None
    accept: float
    rows: float
    limit: float

    @property
    def stack(self) -> dict[str, float]:
        """name -> µs of what is known, from the launch on; their sum is `whole`."""
        return {name: us for name in NAMES if (us := getattr(self, name)) is not None}


def take_apart(records) -> list[Parts]:
    """One Parts for each batch and sampler of the newest runs of `profile`; whoever lacks a problem but the first is left out."""
    timed = [r for r in records if value(r)]
    found = []
    for batch in sorted({r["problem"]["batch"] for r in timed}):
        for name in kernels_first(timed):
            mine = [r for r in timed if r["sampler"] == name and r["problem"]["batch"] == batch]
            none, small, full = (next((r for r in mine if fits(r["problem"])), None) for fits in (
                lambda p: p["draft_len"] == 0, lambda p: p["draft_len"] and p["vocab"] <= SMALL_VOCAB, lambda p: p["draft_len"] and p["vocab"] > SMALL_VOCAB))
            if small and full:
                found.append(_parts(none, small, full))
    return found


def _parts(none, small, full) -> Parts:
    launch, start = value(small, "empty_launch_us"), value(none or small) - value(small, "empty_launch_us")
    accept = value(small) - value(none) if none else start
    return Parts(label(full), sizes(full), value(full), launch, start if none else None, accept, value(full) - value(small),
                 value(full, "stream_read_us"))


def table(parts) -> str:
    """A Markdown table of Parts, a row each."""
    shown = lambda us: NONE if us is None else number(us)
    return markdown(["problem", "sampler", *NAMES.values(), "whole call on the GPU, µs", "plain read, µs"],
                    [[p.size, p.label, *(shown(getattr(p, name)) for name in NAMES), shown(p.whole), shown(p.limit)] for p in parts], texts=2)
