"""The cases of the exactness suite: small problems at the edges where samplers go wrong, and a few large ones. Nothing is run here.

Levels, each holding the one before: "few" (for a sampler that compiles anew for every shape), "quick" (seconds on the
CPU executor), "thorough" (128256 ids, every dtype with every acceptance, more than 2^31 elements; for a GPU).

A case is data: a name, the arguments of `make_problem`, and the name of an edit (edges.py) that puts something awkward
into the problem. `made(edit, **arguments)` makes one; a problem that fails is printed so, to be pasted.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import torch

from .edges import EDIT_ACCEPTANCE, EDITS, LOGITS_ONLY
from .problem import MAX_DRAFT, ROW_DTYPES, Problem
from .reference import DRAWS
from .synthetic import make_problem

LEVELS = ("few", "quick", "thorough")
RAGGED = [3, 0, 1, 5]
VOCABS = (1, 2, 31, 32, 33, 127, 129, 131, 1009, 1023, 1024, 1025)  # round a warp, a block, a tile; primes
EDITED = {"batch": 9, "draft_len": [2, 1, 3, 2, 2, 0, 4, 2, 1], "vocab": 65}
ENDS = {"batch": 8, "draft_len": 1, "vocab": 33}  # what the edits of ends.py are put into
FEW_EDGES = ("bad ids", "NaN and inf", "zero residual")
SEED_STEP = 1000        # between the seeds of two runs of the same case


@dataclass(frozen=True)
class Case:
    """One problem of the suite, not made yet."""
    level: str                  # the lowest that holds it
    name: str
    edit: str | None = None     # a key of EDITS
    arguments: dict = field(default_factory=dict)
    part: str = "tokens"        # "tokens": the grid of shapes; "edges": something awkward
    strict: tuple = ()          # the draws for which no difference is explained by rounding
    large: bool = False         # needs a GPU with suite.LARGE_BYTES free

    def make(self, device="cpu", seed: int = 0) -> Problem:
        return made(self.edit, device=device, **self.arguments | {"seed": self.arguments["seed"] + SEED_STEP * seed})

    def rectangular(self) -> Case:
        """The same with one draft length for all requests, the mean; itself if that is so already. (What peers take.)"""
        lengths = self.arguments["draft_len"]
        if isinstance(lengths, int):
            return self
        mean = max(1, round(sum(lengths) / max(1, len(lengths))))
        return replace(self, name=f"{self.name}, {mean} drafts each", arguments={**self.arguments, "draft_len": mean})

    def source(self, seed: int = 0) -> str:
        """The line that makes the problem again."""
        return reproduction(self.edit, self.arguments | {"seed": self.arguments["seed"] + SEED_STEP * seed})


def made(edit: str | None = None, **arguments) -> Problem:
    """make_problem(**arguments), then EDITS[edit]."""
    problem = make_problem(**arguments)
    return EDITS[edit](problem) if edit else problem


def reproduction(edit, arguments) -> str:
    """`made(...)` as Python source."""
    words = [repr(edit)] * bool(edit) + [f"{name}={value!r}" for name, value in arguments.items()]
    return f"made({', '.join(words)})"


def listed(level: str = "quick", kind: str = "probs") -> list[Case]:
    """The cases of a level; kind: "probs" or "logits". ValueError otherwise."""
    if level not in LEVELS or kind not in ("probs", "logits"):
        raise ValueError(f"level={level!r}, kind={kind!r}: accepted are levels {', '.join(LEVELS)} and kinds probs, logits")
    return [case for case in _listed(kind) if LEVELS.index(case.level) <= LEVELS.index(level)]


def _listed(kind: str) -> Iterator[Case]:
    for case in (*_grid(kind), *_edges(kind), *_thorough(kind)):
        arguments = {"batch": 4, "draft_len": RAGGED, "vocab": 33, "seed": len(case.name), **case.arguments}
        arguments |= {"logits": True} if kind == "logits" else {}
        yield Case(case.level, case.name, case.edit, arguments, case.part, case.strict if kind == "probs" else (), case.large)


def _grid(kind: str) -> Iterator[Case]:
    yield Case("few", "vocab 33, ragged")
    yield Case("few", "all rejected, bfloat16", None, {"acceptance": 0.0, "dtype": torch.bfloat16})
    yield Case("few", "one-hot drafts", None, {"draft_probs": False})
    if kind == "logits":
        heat = {"batch": 5, "draft_len": 3, "vocab": 129, "temperature": [0.0, 1.0, 0.5, 2.0, 0.0]}
        yield Case("few", "temperatures 0 to 2", None, heat)
        for dtype in (torch.float16, torch.bfloat16):
            yield Case("quick", f"temperatures 0 to 2, {str(dtype)[6:]}", None, heat | {"dtype": dtype})
        yield Case("quick", "temperatures 0 to 2, draft_lse", None, heat | {"draft_lse": True})
        yield Case("quick", "temperatures 0.01 to 50", None, heat | {"temperature": [0.01, 50.0, 0.1, 8.0, 0.02]})
    for vocab in VOCABS:
        yield Case("quick", f"vocab {vocab}", None, {"vocab": vocab})
        yield Case("quick", f"vocab {vocab}, one-hot drafts", None, {"vocab": vocab, "draft_probs": False, "acceptance": 0.4})
    yield Case("quick", "vocab 32000", None, {"batch": 2, "draft_len": 2, "vocab": 32000})
    for dtype, acceptance in product(ROW_DTYPES, (0.0, 1.0)):
        name = f"{'all accepted' if acceptance else 'all rejected'}, {str(dtype)[6:]}, padded"
        yield Case("quick", name, None, {"batch": 3, "draft_len": 4, "vocab": 127, "acceptance": acceptance, "dtype": dtype,
                                         "row_padding": 5})
    for shape in ("peaked", "flat"):
        yield Case("quick", f"shape {shape}", None, {"batch": 8, "draft_len": 4, "vocab": 129, "shape": shape})
    for batch in (0, 1, 67):
        yield Case("quick", f"batch {batch}", None, {"batch": batch, "draft_len": 3})
    yield Case("quick", "batch 1023", None, {"batch": 1023, "draft_len": 1, "vocab": 5})


def _edges(kind: str) -> Iterator[Case]:
    """Each pitfall of the field that has a case, and others."""
    edge = {"part": "edges"}
    yield Case("quick", "no drafts at all", None, {"batch": 3, "draft_len": 0}, **edge)
    yield Case("quick", f"K {MAX_DRAFT}", None, {"batch": 2, "draft_len": MAX_DRAFT, "vocab": 17, "acceptance": 0.99}, **edge)
    lengths = [MAX_DRAFT, MAX_DRAFT - 1]
    yield Case("quick", f"K {MAX_DRAFT}, all accepted", None, {"batch": 2, "draft_len": lengths, "vocab": 17, "acceptance": 1.0}, **edge)
    for dtype in (torch.float16, torch.bfloat16):  # sums kept in half precision stop growing
        flat = {"batch": 2, "draft_len": 0, "vocab": 32000, "shape": "flat", "dtype": dtype}
        yield Case("quick", f"flat row, {str(dtype)[6:]}, vocab 32000", None, flat, **edge)
    for name in (name for name in EDITS if name not in LOGITS_ONLY or kind == "logits"):
        if name in ENDED:
            continue
        for dtype in ROW_DTYPES:
            lowest = "thorough" if dtype is not torch.float32 else "few" if name in FEW_EDGES else "quick"
            arguments = {**EDITED, "acceptance": EDIT_ACCEPTANCE.get(name, 0.9), "dtype": dtype}
            yield Case(lowest, name + ("" if dtype is torch.float32 else f", {str(dtype)[6:]}"), name, arguments, **edge)
    for name in ("bad ids", "misaligned rows", "subnormal entries", "NaN and inf", "odd probabilities"):
        yield Case("quick", f"{name}, one-hot drafts", name, {**EDITED, "draft_probs": False}, **edge)
    for name in ("bad ids", "NaN and inf", "empty rows", "zero residual") if kind == "logits" else ():
        heat = {"acceptance": EDIT_ACCEPTANCE.get(name, 0.9), "temperature": [0.0, 1.0, 0.0] * 3}
        yield Case("quick", f"{name}, greedy", name, EDITED | heat, **edge)
    for name in ("NaN and inf", "empty rows", "draft row not as its draft_lse") if kind == "logits" else ():  # of a row whose normaliser was given, too
        yield Case("quick", f"{name}, draft_lse", name, EDITED | {"acceptance": EDIT_ACCEPTANCE.get(name, 0.9), "draft_lse": True}, **edge)
    for name, (strict, variants) in ENDED.items():
        for suffix, arguments in variants.items():
            yield Case("quick", name + suffix, name, {**ENDS, **arguments}, strict=DRAWS if strict is None else strict, **edge)


# The edits of ends.py: (the draws that have no room, None = all; {suffix of the name: arguments})
_LONG = {"draft_len": [0, 1, 1, 0, 0, 1, 1, 0], "vocab": 2100}
ENDED = {
    "accept uniform at its ends": (None, {"": {}, ", one-hot drafts": {"draft_probs": False}}),
    "u * draft = target exactly": (None, {"": {}}),
    "draw uniform at its ends": (("cdf",), {"": _LONG | {"vocab": 33}, ", many tiles": _LONG,
                                            ", one-hot drafts": _LONG | {"draft_probs": False}}),
    "race noise at its ends": (("race",), {"": {"vocab": 150, "draft_len": 0}, ", after a rejection": {"vocab": 150}}),
    "tied scores": (("race",), {"": {"vocab": 1000, "draft_len": 0}, ", after a rejection": {"vocab": 1000}}),
}


def _thorough(kind: str) -> Iterator[Case]:
    for vocab, dtype, acceptance in product((*VOCABS, 4096), ROW_DTYPES, (0.0, 0.7, 1.0)):
        name = f"vocab {vocab}, {str(dtype)[6:]}, acceptance {acceptance}"
        yield Case("thorough", name, None, {"vocab": vocab, "dtype": dtype, "acceptance": acceptance, "row_padding": 3})
    for vocab, dtype in product((32000, 32003, 128256), ROW_DTYPES):
        for extra in ({}, {"draft_probs": False}, {"shape": "flat"}, {"row_padding": 1}):
            name = f"vocab {vocab}, {str(dtype)[6:]}" + "".join(f", {key} {value}" for key, value in extra.items())
            yield Case("thorough", name, None, {"vocab": vocab, "dtype": dtype, **extra})
    yield Case("thorough", "batch 300", None, {"batch": 300, "draft_len": 5, "vocab": 1000})
    # 16,384 target rows of 151,936 ids: offsets pass 2^31 in both, and the last 16 requests lie behind it
    # (of logits the reference takes a softmax for each test, so there few rows of a request are tested)
    yield Case("thorough", "more than 2^31 elements", None, {"batch": 128, "draft_len": 127, "vocab": 151936, "dtype": torch.float16,
                                                             "acceptance": 0.999 if kind == "probs" else 0.8}, part="edges", large=True)
