"""A function that is compiled where that works; where it fails, training goes on with the function as it stands."""
from __future__ import annotations

import torch


class Compiled:
    """`function`, compiled if `compile` (on a GPU: fewer launches, and arrays are read fewer times). `how` says which it is."""

    def __init__(self, function, compile: bool):
        self.plain, self.function, self.how = function, function, "eager"
        if compile:
            self.function, self.how = torch.compile(function, dynamic=False), "compiled"

    def __call__(self, *given):
        try:
            return self.function(*given)
        except Exception as error:  # the compiler's errors are of many kinds, and its absence is no reason not to train
            if self.function is self.plain:
                raise
            self.give_up(error)
            return self.plain(*given)

    def give_up(self, error: Exception) -> None:
        self.function, self.how = self.plain, f"eager, for compiling failed: {type(error).__name__}"
