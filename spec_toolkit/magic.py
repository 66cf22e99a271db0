"""`%load_ext spec_toolkit.magic`: CUDA C in a notebook cell, and tables where samplers and times are shown.

    %%cuda_sampler mine              the cell is a kernel file, contract and all; `mine` is then a sampler
    %%cuda_sampler mine BLOCK=64     with a macro of its contract set
    %cuda_sampler mine v7            a rung, or the path of a .cu file, that is compiled again whenever it has changed

The kernel is compiled at once, for the GPU or the CPU executor, so that an error names its line in the cell.
"""
from __future__ import annotations

import html

import torch
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class

from . import load_sampler, make_problem
from .contract import ContractError
from .cpu import CpuCompileError
from .gpu import KernelCompileError
from .live import live_sampler

USAGE = "%%cuda_sampler NAME [MACRO=NUMBER ...] with CUDA C below it, or %cuda_sampler NAME FILE.cu-or-rung [MACRO=NUMBER ...]"


def define(name: str, source: str, **tune):
    """The sampler of a kernel's text, called `name` and compiled for the device at hand. UsageError with the compiler's words."""
    def load():
        sampler = load_sampler(source=source, **tune)
        sampler.name, sampler.filename = name + "".join(f"-{key}{tune[key]}" for key in sorted(tune)), f"{name}.cu"
        return sampler
    return _compiled(name, load)


def follow(name: str, path: str, **tune):
    """The LiveSampler of a rung or a .cu file, compiled once to begin with. UsageError as `define`."""
    return _compiled(name, lambda: live_sampler(path, **tune))


def _compiled(name: str, load):
    try:
        sampler = load()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        sampler.kernels(make_problem(batch=1, draft_len=1, vocab=33, logits=sampler.input == "logits", device=device))
    except (ContractError, CpuCompileError, KernelCompileError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from None
    return sampler


@magics_class
class CudaMagics(Magics):
    @line_cell_magic
    def cuda_sampler(self, line, cell=None):
        """%%cuda_sampler NAME [MACRO=NUMBER ...]: a sampler from the CUDA C of this cell; %cuda_sampler NAME FILE: from a file, followed."""
        words = line.split()
        tune = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        if len(plain) != (1 if cell is not None else 2) or not plain[0].isidentifier():
            raise UsageError(f"got {line!r}, accepted: {USAGE}")
        if wrong := [value for value in tune.values() if not value.lstrip("-").isdigit()]:
            raise UsageError(f"got {wrong[0]!r}, accepted: a whole number for a macro")
        tune = {key: int(value) for key, value in tune.items()}
        self.shell.user_ns[plain[0]] = sampler = define(plain[0], cell, **tune) if cell is not None else follow(*plain, **tune)
        return sampler


# ---- how samplers and times are shown ----------------------------------------------------------------------------------

def _table(rows, head=()) -> str:
    body = "".join("<tr>" + "".join(f"<td style='text-align:{'left' if i == 0 else 'right'}'>{html.escape(str(cell))}</td>" for i, cell in enumerate(row)) + "</tr>"
                   for row in rows)
    return "<table>" + ("<tr>" + "".join(f"<th>{html.escape(text)}</th>" for text in head) + "</tr>" if head else "") + body + "</table>"


def sampler_html(sampler) -> str:
    """Name, notes, launch, tune macros and, where there is a compiler for it, registers of a KernelSampler."""
    rows = [(launch.kernel, f"grid {' x '.join(launch.grid)}", f"block {' x '.join(launch.block)}") for launch in sampler.contract.launches]
    tune = ", ".join(f"{key} = {value}" for key, value in sampler.tune.items())
    return (f"<b>{html.escape(sampler.name)}</b> ({html.escape(sampler.filename)}, takes {sampler.input}, {sampler.draw} draw{', ' + tune if tune else ''})"
            f"{_table(rows)}<details><summary>{html.escape(sampler.contract.notes.strip().splitlines()[0] if sampler.contract.notes.strip() else 'no notes')}"
            f"</summary><pre>{html.escape(sampler.contract.notes)}</pre></details>")


def live_html(sampler) -> str:
    """The file that a LiveSampler follows, and its sampler as it is now."""
    return f"follows <code>{html.escape(str(sampler.path))}</code><br>{sampler_html(sampler.current())}"


def timing_html(timing) -> str:
    """The medians of a Timing with p10 and p90, beside the limits of the same run."""
    from .reading import FLUSHED, number
    from .results import spread
    rows = []
    for name, samples in (("GPU", timing.gpu_us), ("whole call", timing.call_us), ("host", timing.host_us), ("plain read of the bytes", timing.limits.get("stream_read_us")),
                          ("empty launch", timing.limits.get("empty_launch_us"))):
        found = spread(samples) if samples else None
        rows.append((name, *(number(found[key]) for key in ("median", "p10", "p90"))) if found else (name, timing.gpu_us_missing if name == "GPU" else "–", "", ""))
    flush = html.escape(FLUSHED.get(timing.flush, timing.flush))
    return f"<b>{html.escape(timing.sampler)}</b>, {timing.bytes / 1e6:.1f} MB touched, L2 flushed by {flush}{_table(rows, ('µs', 'median', 'p10', 'p90'))}"


SHOWN = {("spec_toolkit.sampler", "KernelSampler"): sampler_html, ("spec_toolkit.live", "LiveSampler"): live_html,
         ("spec_toolkit.bench", "Timing"): timing_html}


def load_ipython_extension(shell) -> None:
    shell.register_magics(CudaMagics)
    for (module, name), shown in SHOWN.items():
        shell.display_formatter.formatters["text/html"].for_type_by_name(module, name, shown)
