"""Run a notebook with parameters. papermill is reached through `run_notebook` only.

The kernel is always the interpreter that runs this (no kernelspec is looked up), and its folder is the run's own
output folder, so a notebook that writes `figure.svg` writes it there.
"""
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from . import paths
from .notebooks import RESERVED, RunError, check_parameters, find_notebook, read_parameters

SHOWN = 700  # characters of an exception's message that an error shows: one screen


@dataclass(frozen=True)
class RunResult:
    notebook: Path
    html: Path
    figures: tuple[Path, ...]

    def __str__(self) -> str:
        rows = [("notebook", self.notebook), ("page", self.html), *(("figure", path) for path in self.figures)]
        return "\n".join(f"{label:<9}{path}" for label, path in rows)


def _new_folder(out: str | Path, name: str, parameters: Mapping[str, Any]) -> Path:
    """outputs/<name>/<time>-<parameters>, never one that is there already."""
    slug = re.sub(r"[^\w.]+", "-", "-".join(f"{key}{value}" for key, value in parameters.items())).strip("-")[:60]
    stem = "-".join(filter(None, (datetime.now().strftime("%Y%m%d-%H%M%S"), slug)))
    parent = Path(out).resolve() / name
    parent.mkdir(parents=True, exist_ok=True)
    for count in range(1000):
        folder = parent / (f"{stem}-{count}" if count else stem)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise RunError(f"no free folder name like {parent / stem}", code=1)


def _kernel_class():
    """A kernel manager whose kernel is sys.executable, whatever kernelspecs this machine has or lacks."""
    import zmq
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    env = {}
    if root := paths.checkout():  # run from a source tree that may not be installed: the kernel must find it too
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    described = get_kernel_dict()
    described["argv"] = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = KernelSpec(**described, env=env, name="python3")

    class ThisInterpreter(AsyncKernelManager):
        kernel_spec = spec
        transport_encryption = "auto" if zmq.has("curve") else "disabled"  # else ipykernel 7 warns in every run

    return ThisInterpreter


def _failure(error: Exception, source: Path, partial: Path) -> RunError:
    """One screen: which cell, its first line, the exception, and where the partial notebook is."""
    cells = json.loads(partial.read_text(encoding="utf-8"))["cells"]
    ours = [cell for cell in cells if not {"injected-parameters", "papermill-error-cell-tag"} & {*cell["metadata"].get("tags", [])}]
    started = [number for number, cell in enumerate(ours, 1)
               if cell["cell_type"] == "code" and cell["metadata"].get("papermill", {}).get("start_time")]
    where, at = f"{source.name} failed before its first cell", ""
    if started:
        code = "".join(ours[started[-1] - 1]["source"])
        where = f"cell {started[-1]} of {source.name} failed, the one that begins\n    {code.strip().splitlines()[0][:100]}"
    kind = getattr(error, "ename", None) or type(error).__name__
    text = str(getattr(error, "evalue", None) or error).strip()
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
    trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(getattr(error, "traceback", None) or []))
    if line := re.search(r"^-+>\s*(\d+) (.*)$", trace, re.MULTILINE):
        at = f"\n  at line {line[1]}: {line[2].strip()[:100]}"
    return RunError(f"{where}{at}\n  {kind}: {text}\nthe notebook up to there: {partial}", code=1, notebook=partial)


def _write_page(notebook: Path) -> Path:
    """The executed notebook as one HTML file, code and images inside."""
    import nbconvert

    body, _ = nbconvert.HTMLExporter(embed_images=True).from_filename(str(notebook))
    page = notebook.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
    return page


def needed() -> None:
    """RunError if a package that runs notebooks is missing: better said before a run than after it."""
    try:
        import ipykernel  # noqa: F401
        import nbconvert  # noqa: F401
        import papermill  # noqa: F401
    except ImportError as error:
        raise RunError(f"{error.name} is missing; it comes with: pip install 'spec-toolkit[notebooks]'") from error


def run_notebook(name: str | Path, parameters: Mapping[str, Any] | None = None, out: str | Path = "outputs",
                 timeout: float | None = None, progress: bool = True) -> RunResult:
    """Execute a notebook (a name such as "quick_demo", or a path) in a new folder under `out`.

    Writes the executed notebook, an HTML page and what the notebook itself writes; `figures` are its .png and .svg files.
    `timeout`: seconds per cell. Raises RunError: unknown notebook or parameter, wrong type (code 2), failed cell (code 1).
    """
    needed()
    source = find_notebook(name)
    values = check_parameters(source, parameters or {})
    folder = _new_folder(out, re.sub(r"^\d+_", "", source.stem), values)
    target = execute(source, values, folder, timeout, progress)
    figures = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".svg"))
    return RunResult(target, _write_page(target), tuple(figures))


def execute(source: Path, values: Mapping[str, Any], folder: Path, timeout: float | None = None, progress: bool = True) -> Path:
    """The notebook with these checked values, executed in `folder`: its path there. RunError (code 1) for a failed cell."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    values, target = dict(values), folder / source.name
    if RESERVED in read_parameters(source):
        values[RESERVED] = str(folder)
    try:
        papermill.execute_notebook(
            str(source), str(target), values, kernel_name="python3", language="python", cwd=str(folder), progress_bar=progress,
            execution_timeout=timeout, kernel_manager_class=_kernel_class())
    except (papermill.PapermillExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise _failure(error, source, target) from error
    return target
