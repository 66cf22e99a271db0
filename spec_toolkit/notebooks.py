"""The notebooks: found by name, and their parameters, read and checked against the types of their defaults."""
from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import paths

RESERVED = "out"  # a notebook that declares it is given the run's folder


class RunError(Exception):
    """Says what to do, in one screen. `code` is the exit code: 1 a cell failed, 2 the request was wrong.
    `notebook` is the partial notebook, where there is one."""

    def __init__(self, message: str, code: int = 2, notebook: Path | None = None):
        super().__init__(message)
        self.code, self.notebook = code, notebook


def list_notebooks() -> dict[str, Path]:
    """Name (numeric prefix stripped) -> path, in the order of the prefixes."""
    return {re.sub(r"^\d+_", "", path.stem): path for path in sorted(paths.notebooks_dir().glob("*.ipynb"))}


def find_notebook(name: str | Path) -> Path:
    """A notebook by name, by full file stem, or by path. RunError lists the names otherwise."""
    notebooks = list_notebooks()
    if str(name) in notebooks:
        return notebooks[str(name)]
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    for found in notebooks.values():
        if found.stem == path.stem:
            return found
    raise RunError(f"no notebook {str(name)!r}; the notebooks are: {', '.join(notebooks) or 'none'}")


def read_parameters(notebook: Path) -> dict[str, Any]:
    """Name -> default, from the literals of the cell tagged `parameters`; {} without one.

    Read with ast: papermill's own reader works line by line and misses a name whose comment holds `=`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if not tagged:
        return {}
    found = {}
    for node in ast.parse("".join(tagged[0]["source"])).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and node.value is not None:
            found[target.id] = ast.literal_eval(node.value)
    return found


def describe_notebooks() -> str:
    """One line per notebook with its parameters and their defaults."""
    lines = []
    for name, path in list_notebooks().items():
        defaults = {key: value for key, value in read_parameters(path).items() if key != RESERVED}
        lines.append(f"{name}: " + ", ".join(f"{key} = {value!r}" for key, value in defaults.items()))
    return "\n".join(lines) or f"no notebooks in {paths.notebooks_dir()}"


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_value(name: str, value: Any, default: Any) -> Any:
    """`value` (text is read as a Python literal) as the type of `default`. A None default takes anything."""
    if isinstance(value, str):
        literal = _literal(value)
        if not isinstance(default, str) or isinstance(literal, str):
            value = literal
    if default is None or type(value) is type(default):
        fits = not isinstance(default, (list, tuple)) or not default or {*map(type, value)} <= {*map(type, default)}
    elif type(default) is float and type(value) is int:
        return float(value)
    elif {type(default), type(value)} == {list, tuple}:
        return parse_value(name, type(default)(value), default)
    else:
        fits = False
    if not fits:
        raise RunError(f"parameter {name}: {value!r} is a {type(value).__name__}, "
                       f"wanted a {type(default).__name__} such as {default!r}")
    return value


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as typed values. RunError for an unknown name (with the right ones) or a wrong type."""
    defaults = read_parameters(notebook)
    defaults.pop(RESERVED, None)
    for name in parameters:
        if name == RESERVED:
            raise RunError("the folder of a run is chosen with --out (out= from Python), not with a parameter")
        if name not in defaults:
            right = ", ".join(f"{key} (default {value!r})" for key, value in defaults.items())
            raise RunError(f"{notebook.name} has no parameter {name!r}; it has: {right or 'none'}")
    return {name: parse_value(name, value, defaults[name]) for name, value in parameters.items()}
