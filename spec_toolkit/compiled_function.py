"""A function that is compiled where that works; where it fails, the function goes on as it stands."""
from __future__ import annotations

import torch

SHAPES = 64  # compiled for so many shapes at most; from there on it is called as it stands


class Compiled:
    """`function`, compiled if `compile` (on a GPU: fewer launches, and arrays are read fewer times). `how` says which it is."""

    def __init__(self, function, compile: bool):
        self.plain, self.function, self.failed = function, None if compile else function, False  # None: not yet, for that takes a second
        self.how = "compiled" if compile else "eager"

    def __call__(self, *given):
        if self.function is self.plain:
            return self.plain(*given)
        try:
            self.function = self.function or torch.compile(self.plain, dynamic=False)
            with torch._dynamo.config.patch(recompile_limit=SHAPES):
                return self.function(*given)
        except Exception as error:  # the compiler's errors are of many kinds, and its absence is no reason not to go on
            self.give_up(error)
            return self.plain(*given)

    def give_up(self, error: Exception) -> None:
        self.function, self.how, self.failed = self.plain, f"eager, for compiling failed: {type(error).__name__}", True
