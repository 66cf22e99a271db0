"""The exactness suite run: `check` of every case of a level (suite_cases.py), used by `examine`, the tests and `spec-toolkit gpu`."""
from __future__ import annotations

import torch

from .check import CheckResult, check
from .problem import Problem
from .suite_cases import LEVELS, Case, listed, made  # noqa: F401  (a suite's levels, cases and problems are found where it is)

LARGE_BYTES = 24 << 30  # GPU memory that the case of more than 2^31 elements asks for


def level_for(sampler, level: str) -> str:
    """The level asked for, but "few" for a sampler that compiles anew for every shape (seconds for each case)."""
    return "few" if "torch_compile" in sampler.name else level


def cases(level: str = "quick", device="cpu", kind: str = "probs", seed: int = 0) -> list[tuple[str, Problem]]:
    """(name, problem) of every case of a level that fits, made on `device`."""
    return [(case.name, case.make(device, seed)) for case in listed(level, kind) if unfit(case, device) is None]


def run_suite(sampler, level: str = "quick", device="cpu", kind: str = "probs") -> list[tuple[str, CheckResult]]:
    """`check` of every case, in order; one problem is held at a time. A case that raises is a failed one.

    A sampler with a generator of its own (a peer) may refuse a problem by ValueError or TypeError: that case is left out.
    """
    found = [(case.name, run_case(sampler, case, device)) for case in listed(level, kind) if unfit(case, device) is None]
    return [(name, result) for name, result in found if isinstance(result, CheckResult)]


def run_case(sampler, case: Case, device="cpu", seed: int = 0, **words) -> CheckResult | str:
    """`check` of one case; where a peer refuses the problem, its words. words: further arguments of `check`."""
    problem = case.make(device, seed)
    try:
        return check(sampler, problem, strict=sampler.draw in case.strict, **words)
    except Exception as error:  # noqa: BLE001 (a suite goes on, and says so)
        if getattr(sampler, "own_generator", False) and isinstance(error, (ValueError, TypeError)):
            return str(error)
        return _raised(sampler, problem, error)


def unfit(case: Case, device) -> str | None:
    """Why a case cannot run on `device`, or None."""
    if not case.large:
        return None
    if torch.device(device).type != "cuda":
        return "needs a GPU"
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return None if free >= LARGE_BYTES else f"needs {LARGE_BYTES >> 30} GiB of free GPU memory, here are {free >> 30}"


def check_each(samplers, problem) -> list[CheckResult]:
    """One `check` for each sampler on the same problem; of one that raises, a failed result that says why."""
    found = []
    for sampler in samplers:
        try:
            found.append(check(sampler, problem))
        except Exception as error:  # noqa: BLE001 (likewise)
            found.append(_raised(sampler, problem, error))
    return found


def table(checks) -> str:
    """A Markdown table of CheckResults, one row each."""
    rows = [f"| {c.sampler} | {'PASS' if c else 'FAIL'} | {c.exact} of {c.requests} | {len(c.explained)} | "
            f"{str(c.failures[0]).splitlines()[0][:200] if c.failures else ''} |" for c in checks]
    return "\n".join(["| sampler | check | requests exact | explained by rounding | first failure |", "|---|---|---:|---:|---|", *rows])


def _raised(sampler, problem, error) -> CheckResult:
    return CheckResult(sampler.name, repr(problem), problem.batch, 0, failures=[f"{type(error).__name__}: {error}"],
                       poison="not checked", inputs="not checked", status_compared=bool(sampler.reports_status))
