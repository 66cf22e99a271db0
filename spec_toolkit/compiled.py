"""What the compiler makes of each rung, for every architecture, with no GPU: registers, spills, shared memory; kept as a record.

`python -m spec_toolkit.compiled` compiles the rungs whose source is not that of the record and rewrites
results/compiled/registers.json; tables are made from the record, so that a page can be rewritten where there is no compiler.
"""
from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import torch

from . import gpu, results
from .sampler import list_kernels, load_sampler
from .tables import NONE, markdown

FORMAT = "spec_toolkit compiled 1"
DTYPES = (torch.float32, torch.bfloat16)


def load(folder) -> dict:
    """name -> {"source_hash", "used": {dtype: {"sm_90": {kernel: {registers, spill_bytes, shared_bytes}}}}}, {} if none is below folder."""
    path = Path(folder) / "compiled" / "registers.json"
    made = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return made["samplers"] if made.get("format") == FORMAT else {}


def record(folder, names=None) -> list[str]:
    """Compile what is not in the record as it is today, write the record; the names compiled. ImportError without CuPy.

    A rung that does not compile is left out, and its KernelCompileError raised when the others are written.
    """
    samplers = {name: load_sampler(name) for name in names or list_kernels()}
    found = {name: one for name, one in load(folder).items() if name in samplers and one["source_hash"] == samplers[name].source_hash}
    fresh, refused = [name for name in samplers if name not in found], []
    for name in fresh:
        try:
            used = {str(dtype).removeprefix("torch."): {f"sm_{arch}": samplers[name].registers(arch, dtype) for arch in gpu.ARCHITECTURES} for dtype in DTYPES}
        except gpu.KernelCompileError as error:
            refused.append(error)
        else:
            found[name] = {"source_hash": samplers[name].source_hash, "used": used}
    if fresh:
        path = Path(folder) / "compiled" / "registers.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        results.write_atomically(path, results.to_text({
            "format": FORMAT, "created": datetime.now(UTC).isoformat(timespec="seconds"), "environment": results.environment(),
            "samplers": {name: found[name] for name in samplers if name in found}}))
    for error in refused:
        raise error
    return fresh


def table(found: dict, hashes: dict | None = None) -> str:
    """A Markdown table of `load`: registers of a thread for each architecture, with the bytes spilled where there are any."""
    archs = list(dict.fromkeys(arch for one in found.values() for used in one["used"].values() for arch in used))
    rows = [[name + (" (stale)" if hashes is not None and hashes.get(name) != one["source_hash"] else ""), dtype,
             *(_used(used[arch]) if arch in used else NONE for arch in archs)] for name, one in found.items() for dtype, used in one["used"].items()]
    return markdown(["registers per thread", "rows", *archs], rows, texts=2)


def _used(kernels: dict) -> str:
    most, spilled = max(k["registers"] for k in kernels.values()), sum(k["spill_bytes"] for k in kernels.values())
    return str(most) + (f" ({spilled} bytes spilled)" if spilled else "")


if __name__ == "__main__":
    from .paths import results_dir
    print("compiled:", ", ".join(record(results_dir())) or "nothing, the record is today's")
