"""A research toolkit for the rejection-sampling step of speculative decoding.

The words, used with these meanings everywhere:

target      the model whose distribution must be followed exactly; its rows are target_probs or target_logits
draft       the cheap proposal: draft tokens, and the rows (draft_probs, draft_logits) they were drawn from
accepted    draft tokens kept, from the first on, until one is rejected
recovered   the token drawn from the residual max(target - draft, 0) after the first rejection
bonus       the token drawn from the last target row when all drafts are accepted
emitted     the accepted tokens plus the one recovered or bonus token
sampler     anything that takes a Problem and returns Outputs: a kernel, a baseline, another library
rung        one version of the kernel; the rungs are read in order

    from spec_toolkit import check, load_sampler, make_problem
    problem = make_problem(batch=4, vocab=32000, acceptance=0.7)
    print(check(load_sampler("v1"), problem))
"""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

# Name -> the module that holds it. Loaded at first use: importing the package needs neither CuPy nor a compiler.
_HOMES = {
    "Problem": "problem", "Outputs": "problem", "from_torch": "problem", "make_problem": "synthetic",
    "reference": "reference", "output_law": "exact_law",
    "load_sampler": "sampler", "list_samplers": "sampler", "live_sampler": "live", "save_kernel": "live",
    "check": "check", "CheckResult": "check", "examine": "examine", "benchmark": "bench", "Timing": "bench", "limits": "bench",
    "Decoder": "llm", "GraphDecoder": "graph_decoder", "NgramDrafter": "drafting",
    "record": "results", "load_records": "results",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `spec_toolkit.check` and `.reference` the functions: importing a submodule would put the module there."""

    def __setattr__(self, name, value):
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
