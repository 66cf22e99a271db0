"""A mutant's kernel: the source of a rung with one planted defect in it (defects.py), as a sampler.

A rung's text is flattened (its headers put in), and a mutant applies where its anchor, a regular expression, is found; so
the mutants follow the ladder, and one whose anchor is nowhere left is an error (`test_mutants.py`).
"""
from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch

from . import contract, machine_code
from .defects import Mutant
from .paths import kernels_dir
from .sampler import list_kernels, load_sampler
from .synthetic import make_problem


def flatten(text: str, folder: Path | None = None) -> str:
    """The text with each quoted include put in at its first place, so that one string is the whole kernel."""
    folder, done = folder or kernels_dir(), set()

    def include(match):
        path = folder / match[1]
        if match[1] in done or not path.is_file():
            return "" if match[1] in done else match[0]
        done.add(match[1])
        return _INCLUDE.sub(include, path.read_text().replace("#pragma once", ""))
    return _INCLUDE.sub(include, text)


_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[^\n]*', re.MULTILINE)


def rung_text(name: str) -> str:
    """The flattened source of a rung."""
    return flatten(next(kernels_dir().glob(f"{name}_*.cu")).read_text())


def applies_to(mutant: Mutant) -> list[str]:
    """The rungs that hold its anchor, in code that they run."""
    found = []
    for name in list_kernels():
        text = rung_text(name)
        if mutant.apply(text) is not None:
            said = contract.parse(text, name, {})
            found += [name] * (mutant.draw in (None, said.draw) and mutant.input in (None, said.input))
    return found


def load_mutant(mutant: Mutant, rung: str):
    """The mutated rung as a sampler, called "v1: inclusive accept". ValueError where the mutant does not apply."""
    text = mutant.apply(rung_text(rung))
    if text is None or rung not in applies_to(mutant):
        raise ValueError(f"{mutant.name}: no anchor in {rung}, accepted: {', '.join(applies_to(mutant))}")
    sampler = load_sampler(source=text)
    sampler.name = f"{rung}: {mutant.name}"
    return sampler


def mark(mutant: Mutant, rung: str) -> str:
    """Of the mutated source: a finding stands as long as it is the same."""
    return hashlib.sha256(mutant.apply(rung_text(rung)).encode()).hexdigest()[:16]


def is_idle(mutant: Mutant, rung: str) -> bool:
    """Is the patched code in no path that the rung runs? Then both compile to the same machine code for the CPU."""
    pair = [load_sampler(source=text) for text in (rung_text(rung), mutant.apply(rung_text(rung)))]
    for dtype in (torch.float32, torch.bfloat16):  # some change nothing for one of them
        problem = make_problem(1, 1, 3, logits=pair[0].input == "logits", dtype=dtype)
        if len({machine_code.mark(sampler.kernels(problem)) for sampler in pair}) > 1:
            return False
    return pair[0].contract == pair[1].contract
