"""The findings against a mutant: in each part of the report, the first thing that refuses it on one rung."""
from __future__ import annotations

import multiprocessing

import torch

from . import suite
from .defects import Mutant
from .examine import REBATCHINGS, examine_laws
from .mutant_kernels import is_idle, load_mutant
from .probes import is_move, probe
from .synthetic import make_problem
from .verdict import is_poison

PARTS = ("tokens", "law", "edges", "poison")
TIMEOUT_S = 600  # for one mutant on one rung


def findings(mutant: Mutant, rung: str, level="quick", device="cpu", seed=0, first=False) -> dict[str, str] | None:
    """{part of the report: the first thing in it that refuses the mutant}; {} if nothing does. first: stop at the first part.
    None where the rung does not run what is patched.

    Raises if the mutant does not compile: that would be no catch. A kernel that faults in a law counts under poison.
    """
    sampler = load_mutant(mutant, rung)
    kind, found = sampler.input, {}
    sampler.kernels(make_problem(1, 1, 3, logits=kind == "logits", device=device))
    for part, words in _searched(sampler, level, device, seed, kind, found):
        found.setdefault(part, words)
        if first:
            break
    return found if found or not is_idle(mutant, rung) else None


def _searched(sampler, level, device, seed, kind, found):
    """(part, words) of each finding; a case is left out once its part has one."""
    single = lambda case: case.arguments.get("dtype", torch.float32) is torch.float32  # first: they share one compilation
    for case in sorted(suite.listed(level, kind), key=lambda case: (not single(case), case.part)):
        if case.part not in found and suite.unfit(case, device) is None:
            for failure in suite.run_case(sampler, case, device, seed).failures:
                yield "poison" if is_poison(failure) else case.part, f"{case.name}: {failure}"
    if "poison" not in found or "edges" not in found:
        for name, differences in probe(sampler, device, seed, REBATCHINGS[level]).items():
            yield from (("edges" if is_move(name) else "poison", f"{name}: {text}") for text in differences[:1])
    if "law" not in found:
        for law in examine_laws(sampler, level, device, seed, kind=kind)[0]:
            if not law:
                yield "law" if law.draws else "poison", str(law)


def findings_apart(mutant, rung, *words) -> dict[str, str] | None:
    """`findings` in a process of its own. Raises what it raised."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(send, mutant, rung, *words), daemon=True)
    process.start()
    send.close()
    try:
        if not receive.poll(TIMEOUT_S):
            return {"poison": f"no answer within {TIMEOUT_S} s"}
        outcome = receive.recv()
    except EOFError:
        process.join()
        return {"poison": f"it took its process with it (exit code {process.exitcode})"}
    finally:
        process.kill()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _report(send, *task) -> None:
    torch.set_num_threads(1)
    try:
        send.send(findings(*task))
    except Exception as error:  # noqa: BLE001 (raised again by whoever asked)
        send.send(RuntimeError(f"{task[0].name} ({task[1]}): {type(error).__name__}: {error}"))
