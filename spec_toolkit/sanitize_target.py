"""What runs below compute-sanitizer: every rung on small problems that reach each of its paths, then a kernel that must be found.

    python -m spec_toolkit.sanitize_target TOOL [SAMPLER ...]

Problems are made on the CPU and copied storage by storage, so that hardly a kernel but ours runs below the tool and a row keeps
its address's alignment. Each call is repeated on its own scratch arrays and compared with the reference: a kernel that the
tool kept from running is seen. When they are through, a line of `DONE` and a JSON object of `Ran`s is printed.
"""
from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, fields, replace

import torch

from . import suite
from .mismatch import compare
from .sampler import list_kernels, load_sampler
from .suite_cases import EDITED

DONE, AT = "sanitize_target: done ", "sanitize_target: at "
CALLS = 2
VARIANTS = {"RUSH": 0, "MOST": 1}  # no speculation on rows; no clusters of blocks
HALF = {"dtype": torch.bfloat16}

# (edit of the suite, arguments of make_problem), for both kinds of rows
PATHS = (
    (None, {"batch": 6, "draft_len": [3, 0, 1, 5, 2, 4], "vocab": 1009}),
    (None, {"batch": 4, "draft_len": [2, 0, 1, 3], "vocab": 1025, "draft_probs": False, **HALF}),
    (None, {"batch": 3, "draft_len": [40, 33, 2], "vocab": 33, "acceptance": 0.97}),                       # two ballots
    (None, {"batch": 2, "draft_len": 2, "vocab": 1, "acceptance": 1.0}),
    (None, {"batch": 2, "draft_len": 3, "vocab": 4097, "row_padding": 3, **HALF}),
    ("zero residual", {"batch": 3, "draft_len": [1, 0, 2], "vocab": 17001, "acceptance": 1.0}),            # a second attempt
    ("empty rows", EDITED),
    ("NaN and inf", EDITED),
    ("bad ids", EDITED),
    ("misaligned rows", {"batch": 3, "draft_len": 2, "vocab": 5001, "acceptance": 0.5}),
    ("misaligned rows, even stride", {"batch": 3, "draft_len": 2, "vocab": 5001, "acceptance": 0.5, **HALF}),
    ("aligned rows with an odd end", {"batch": 3, "draft_len": 2, "vocab": 5001, "acceptance": 0.5, **HALF}),
)
# Many blocks for a request; several tiles for each; more requests than blocks fit on a GPU; more bytes than any rung speculates on.
# A tool's instructions take registers, so that fewer blocks fit than a contract reckons with: where blocks wait for each other
# without an order, their number stays well below that.
LARGE = (
    (None, {"batch": 1, "draft_len": 4, "vocab": 128256}),
    (None, {"batch": 12, "draft_len": 1, "vocab": 262144}),
    (None, {"batch": 700, "draft_len": 1, "vocab": 1025}),
    (None, {"batch": 2, "draft_len": 4, "vocab": 151936, **HALF}),
)
ONLY_LOGITS = (
    (None, {"batch": 5, "draft_len": 3, "vocab": 1025, "temperature": [0.0, 1.0, 0.5, 2.0, 0.0]}),
    (None, {"batch": 4, "draft_len": [2, 0, 1, 3], "vocab": 17001, "draft_lse": True, **HALF}),
)

_CONTROL = """/*
--- contract ---
grid  = 1
block = 64
draw  = "cdf"
*/
extern "C" __global__ void control_{tool}(int batch, int* num_accepted, int* status) {{ {body} }}
"""
CONTROLS = {tool: _CONTROL.format(tool=tool, body=body) for tool, body in {
    "memcheck": "status[batch + threadIdx.x] = 0;",
    "racecheck": "__shared__ int word[64]; word[threadIdx.x] = batch + threadIdx.x; num_accepted[0] = word[63 - threadIdx.x];",
    "initcheck": "if (status[0] == 12345) num_accepted[0] = 1;",
    "synccheck": "if (threadIdx.x < 40) __syncthreads(); num_accepted[0] = batch; __syncthreads(); status[0] = batch;",
}.items()}


@dataclass
class Ran:
    """What one sampler did: its problems, the requests equal to the reference, those explained by rounding, and what is wrong."""
    problems: int = 0
    requests: int = 0
    exact: int = 0
    explained: int = 0
    wrong: list[str] = field(default_factory=list)


def problems(kind: str, paths=PATHS + LARGE):
    """The problems of a kind of rows, on the CPU. Those of logits have temperatures and log-normalisers besides."""
    for place, (edit, arguments) in enumerate(paths + (ONLY_LOGITS if kind == "logits" else ())):
        yield suite.made(edit, **{"seed": place, "logits": kind == "logits", **arguments})


def moved(problem, device):
    """The problem on a device, with the strides and the alignment it has: each storage is copied whole."""
    def copy(tensor):
        storage = tensor.untyped_storage()
        there = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device)
        there.copy_(torch.empty(0, dtype=torch.uint8).set_(storage))
        return torch.empty(0, dtype=tensor.dtype, device=device).set_(
            there.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return replace(problem, **{f.name: copy(value) for f in fields(problem) if isinstance(value := getattr(problem, f.name), torch.Tensor)})


def variants(name: str) -> list:
    """The sampler, and again with each of VARIANTS that its contract has, so that small problems take its other paths."""
    first = load_sampler(name)
    return [first, *(load_sampler(name, **{macro: value}) for macro, value in VARIANTS.items() if macro in getattr(first, "tune", {}))]


def run(sampler, given, there, done: Ran) -> None:
    """Call the bound sampler on `there` CALLS times, each compared with the reference on `given`."""
    call = sampler.bind(there)
    for _ in range(CALLS):
        outputs = [tensor.cpu().numpy() for tensor in call()]
        exact, explained, wrong = compare(sampler, given, outputs)
        done.requests, done.exact, done.explained = done.requests + given.batch, done.exact + exact, done.explained + len(explained)
        done.wrong += [f"{sampler.name}, {given!r}: {failure}" for failure in wrong]
    done.problems += 1


def run_all(names, device="cuda", paths=PATHS + LARGE) -> dict[str, Ran]:
    """name -> Ran of every sampler and its variants."""
    loaded = {name: variants(name) for name in names}
    found = {name: Ran() for name in names}
    for kind in sorted({sampler.input for samplers in loaded.values() for sampler in samplers}):
        for given in problems(kind, paths):
            there = moved(given, device)
            for name, samplers in loaded.items():
                for sampler in (s for s in samplers if s.input == kind):
                    print(f"{AT}{sampler.name}, {given!r}", flush=True)  # where it was, if it never comes back
                    run(sampler, given, there, found[name])
    return found


def main(arguments=None) -> int:
    tool, *names = sys.argv[1:] if arguments is None else arguments
    found = run_all(names or list_kernels())
    print(DONE + json.dumps({name: asdict(ran) for name, ran in found.items()}), flush=True)
    if tool in CONTROLS:
        print(f"{AT}the kernel that must be found", flush=True)
        load_sampler(source=CONTROLS[tool])(moved(next(problems("probs")), "cuda"))
        torch.cuda.synchronize()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
