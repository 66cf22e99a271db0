"""A kernel file that is read anew at each call, for writing one in an editor: save the file, call again, and it has changed.

    sampler = live_sampler("v7")              # a rung by name, or the path of a .cu file; BLOCK=64 sets a tune macro
    sampler(problem)                          # compiled again if the file, or a header that it includes, has changed
    save_kernel(mine, examine(mine, "few"), "kernels/v99_mine.cu")
"""
from __future__ import annotations

import re
from pathlib import Path

from . import paths, results
from .sampler import list_kernels, load_sampler

IN_COURSE = re.compile(r"v\d+_\w+\.cu")  # what a file in kernels/ is called


class LiveSampler:
    """A KernelSampler that follows its file. What it has compiled is kept for as long as the source is the same.

    `bind` gives a call of the source as it is then: a bound call does not follow the file. `path`: the file.
    """

    def __init__(self, path: Path, tune: dict):
        self.path, self._tune, self._loaded = Path(path).resolve(), tune, None
        self.current()

    def current(self):
        """The sampler of the file as it is now. Raises what `load_sampler` does for a file that cannot be used."""
        fresh = load_sampler(source=self.path, **self._tune)
        if self._loaded is None or fresh.source_hash != self._loaded.source_hash:
            self._loaded = fresh
        return self._loaded

    def bind(self, problem):
        return self.current().bind(problem)

    def __call__(self, problem):
        return self.current()(problem)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.current(), name)

    def __repr__(self):
        return f"LiveSampler({str(self.path)!r}, {self.current()!r})"


def live_sampler(name_or_path, **tune) -> LiveSampler:
    """A rung by its name ("v7", "v7_hidden_latency") or a .cu file by its path, read anew at each call. ValueError if there is none."""
    path = Path(name_or_path)
    if path.suffix != ".cu":
        found = [file for file in sorted(paths.kernels_dir().glob("v*.cu")) if str(name_or_path) in (file.stem, file.stem.split("_")[0])]
        if not found:
            raise ValueError(f"live_sampler: got {str(name_or_path)!r}, accepted: {', '.join(list_kernels())}, or the path of a .cu file")
        path = found[0]
    if not path.is_file():
        raise ValueError(f"live_sampler: {path}: no such file")
    return LiveSampler(path, tune)


def save_kernel(sampler, report, path, overwrite: bool = False) -> Path:
    """Write the text of a kernel that has passed to a .cu file; its path. In kernels/ it joins the course.

    report: what `examine` said of this very source. ValueError if it has not passed, is of another source, or if the name
    cannot be taken: in kernels/ a file is called v<number>_<word>.cu with a number of its own, and another text is overwritten only where
    `overwrite` says so.
    """
    path = Path(path)
    if getattr(sampler, "kind", None) != "kernel":
        raise ValueError(f"save_kernel: got {sampler!r}, accepted: a kernel (load_sampler(source=...), %%cuda_sampler)")
    if not report or report.source_hash != sampler.source_hash:
        raise ValueError(f"save_kernel: got {str(report).splitlines()[0]!r}, accepted: a report of `examine` that has passed, of {sampler.name} as it is now")
    if path.suffix != ".cu":
        raise ValueError(f"save_kernel: got {path.name!r}, accepted: a file name that ends in .cu")
    if path.resolve().parent == paths.kernels_dir():
        number = path.name.split("_")[0]
        if not IN_COURSE.fullmatch(path.name) or any(file.name != path.name and file.stem.split("_")[0] == number for file in path.parent.glob("*.cu")):
            raise ValueError(f"save_kernel: got {path.name!r}, accepted in kernels/: v<number>_<word>.cu, the number none of {', '.join(list_kernels())}")
    if not overwrite and path.exists() and path.read_text(encoding="utf-8") != sampler.text:
        raise ValueError(f"save_kernel: {path} is there already and holds another text: give another name, or overwrite=True")
    path.parent.mkdir(parents=True, exist_ok=True)
    results.write_atomically(path, sampler.text)
    return path
