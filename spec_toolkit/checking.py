"""`spec-toolkit check` and `fuzz`: samplers by name or from a file, through the whole report or random problems; an exit code, and JSON."""
from __future__ import annotations

from pathlib import Path

import torch

from . import results
from .composed import PREFIX, load_composed
from .contract import ContractError
from .examine import examine
from .fuzz import NeedsHypothesis, fuzz
from .peers import PEERS, PeerMissing, list_peers
from .sampler import list_samplers, load_sampler
from .synthetic import make_problem
from .verdict import Report


class WrongRequest(ValueError):
    """What was asked for cannot be done: exit code 2."""


def run(names=(), source=None, peers=(), level="quick", device=None, seed=0, draws=None, rebatchings=None, kind=None, json=None) -> int:
    """The exit code: 0 if all pass, 1 if one fails; prints a report for each. Raises WrongRequest.

    names: rungs, baselines, composites and peers. source: the path of a kernel. peers: names, with or without what follows
    an underscore (`flashinfer`). json: a file that receives the environment and all reports.
    """
    device, loaded = _device(device), _all(names, source, peers)
    if json and not Path(json).absolute().parent.is_dir():
        raise WrongRequest(f"--json {json}: its folder does not exist")
    reports, faults = [], 0
    for sampler in loaded:
        if fault := _fault(sampler, device, kind):
            print(f"FAIL {sampler.name}: {fault}", flush=True)
            faults += 1
            continue
        reports.append(examine(sampler, level, device, seed, draws, rebatchings, kind))
        print(reports[-1], flush=True)
        if json:  # after each: a long run that is cut off leaves what it has found
            results.write_atomically(Path(json), results.to_text(record(reports, device)))
    return 0 if reports and all(reports) and not faults else 1


def run_fuzz(names=(), source=None, peers=(), examples=200, minutes=None, device=None, seed=0, kind=None) -> int:
    """The exit code of `spec-toolkit fuzz`, likewise. Raises WrongRequest."""
    device, passed = _device(device), True
    for sampler in _all(names, source, peers):
        try:
            found = fuzz(sampler, examples, minutes, device, seed, kind)
        except NeedsHypothesis as error:
            raise WrongRequest(str(error)) from error
        print(found, flush=True)
        passed &= bool(found)
    return 0 if passed else 1


def record(reports: list[Report], device) -> dict:
    """What --json writes."""
    return {"format": "spec_toolkit check 1", "environment": results.environment(str(device)),
            "reports": [report.to_dict() for report in reports]}


def _all(names, source, peers):
    loaded = [_loaded(name) for name in (*names, *map(_peer, peers))] + ([_from_file(source)] if source else [])
    if not loaded:
        raise WrongRequest(f"nothing to check: give a name, --source FILE or --peer NAME; names: {', '.join(_names())}")
    return loaded


def _device(device):
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise WrongRequest(f"--device {device}: {str(error).splitlines()[0]}; accepted here: cpu"
                           + (", cuda" if torch.cuda.is_available() else "")) from error
    return device


def _names():
    return [*list_samplers(), *list_peers(), f"{PREFIX}NAME"]


def _loaded(name):
    try:
        return load_composed(name) if name.startswith(PREFIX) else load_sampler(name)
    except (ValueError, PeerMissing) as error:
        raise WrongRequest(str(error)) from error


def _from_file(source):
    try:
        return load_sampler(source=Path(source))
    except (OSError, UnicodeDecodeError, ContractError) as error:
        raise WrongRequest(f"--source {source}: {error}") from error


def _peer(name):
    found = [full for full in PEERS if full == name] or [full for full in PEERS if full.split("_")[0] == name]
    if not found:
        raise WrongRequest(f"--peer: got {name!r}, accepted: {', '.join(PEERS)}")
    return found[0]


def _fault(sampler, device, kind) -> str | None:
    """Why a kernel does not run at all: said once, and not for every case."""
    if getattr(sampler, "kind", None) != "kernel":
        return None
    try:
        sampler.bind(make_problem(1, 1, 3, logits=(kind or sampler.input) == "logits", device=device))
    except Exception as error:  # noqa: BLE001 (the compiler's words, or the binder's)
        return f"{type(error).__name__}: {error}"
    return None
