"""`spec-toolkit doctor`: what is installed here, what of it works, and for each failure the command that mends it.

A probe is a function that says what it found, or raises Broken with the mending command, or Absent for what this machine can
do without. PROBES lists them in the order in which one rests on another. Nothing is installed and nothing is changed.
"""
from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable

from . import ailments, doctor_cuda
from .ailments import ABSENT, FAILED, OK, Absent, Broken, Finding, run, version

RUN_NOTEBOOKS = ("papermill", "ipykernel", "matplotlib", "ipywidgets")
OPEN_NOTEBOOKS = {"jupyterlab": "opens notebooks", "nbconvert": "makes pages of them"}
EXTRA = "pip install 'spec-toolkit[notebooks]'   (in a checkout: pip install -e '.[notebooks]')"


def asked(name: str, probe: Callable[[], str]) -> Finding:
    """What a probe found, or why not."""
    try:
        return Finding(name, OK, probe())
    except Broken as error:
        return Finding(name, ABSENT if isinstance(error, Absent) else FAILED, str(error), error.mend)
    except Exception as error:  # noqa: BLE001 (a broken machine may raise anything; it must be said, and the rest looked at)
        text = " ".join(str(error).split())
        return Finding(name, FAILED, f"{type(error).__name__}: {text[:300]}", MENDS.get(name, "read the message above"))


def python() -> str:
    return f"{platform.python_version()} at {sys.executable}, {platform.platform()}"


def package() -> str:
    from . import __version__, paths
    from .sampler import list_kernels
    if not (rungs := list_kernels()):
        raise Broken(f"no kernels in {paths.kernels_dir()}", "pip install --force-reinstall --no-deps .   (in the checkout)")
    return f"spec-toolkit {__version__} at {paths.PACKAGE}, kernels {rungs[0]} to {rungs[-1]}" + (", a checkout" if paths.checkout() else "")


def torch() -> str:
    import numpy
    import torch
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    if ailments.has_gpu() and not torch.version.cuda:
        raise Broken(f"torch {torch.__version__} is {built}, but there is a GPU", "pip install --force-reinstall torch   (without --index-url .../cpu)")
    return f"torch {torch.__version__} {built}, numpy {numpy.__version__}"


def notebooks() -> str:
    """What runs a notebook from the command line must be there; what opens one by hand may be on another machine."""
    if missing := [name for name in RUN_NOTEBOOKS if version(name) is None]:
        raise Broken(f"missing: {', '.join(missing)}: `spec-toolkit run` and `sweep` need it", EXTRA)
    if by_hand := [f"{name}, which {does}," for name, does in OPEN_NOTEBOOKS.items() if version(name) is None]:
        raise Absent(f"run and sweep work ({version(*RUN_NOTEBOOKS)}); {' and '.join(by_hand)} is not installed", EXTRA)
    return version(*RUN_NOTEBOOKS, *OPEN_NOTEBOOKS)


def compiler() -> str:
    given = os.environ.get("CXX")
    found = next((path for name in ([given] if given else ["g++", "clang++"]) if (path := shutil.which(name))), None)
    if found is None:
        raise Broken(f"CXX={given}: no such program" if given else "no g++ and no clang++: kernels cannot run on the CPU",
                     "unset CXX" if given else "apt-get install g++   (conda: conda install -c conda-forge cxx-compiler)")
    return f"{found}: {(run(found, '--version') or 'does not say its version').splitlines()[0]}"


def cpu_executor() -> str:
    return doctor_cuda.first_rung("cpu")


def tools() -> str:
    found = {name: path for name in ("nvcc", "ncu", "nsys", "compute-sanitizer", "make", "git") if (path := shutil.which(name))}
    if not found:
        raise Absent("none of nvcc, ncu, nsys, compute-sanitizer, make, git is on PATH", "a CUDA toolkit, for FlashInfer and for profiles")
    return ", ".join(f"{name} ({path})" for name, path in found.items())


def peers() -> str:
    from .peers import INSTALL
    found = version("flashinfer-python", "transformers", "triton")
    if not found:
        raise Absent("no other library to compare with", INSTALL)
    return found


PROBES: dict[str, Callable[[], str]] = {
    "Python": python, "spec-toolkit": package, "torch": torch, "notebooks": notebooks, "C++ compiler": compiler, "CPU executor": cpu_executor,
    "GPU and driver": doctor_cuda.driver, "torch on GPU": doctor_cuda.torch_gpu, "CuPy": doctor_cuda.cupy, "NVRTC": doctor_cuda.nvrtc,
    "CUDA headers": doctor_cuda.headers, "offline compile": doctor_cuda.offline_compile,
    "launch": doctor_cuda.launch, "DLPack": doctor_cuda.dlpack, "tools": tools, "peers": peers}
_AGAIN = "pip install --force-reinstall 'spec-toolkit[cuda12]'   (or cuda13)"
MENDS = {  # what mends a probe that raised something of its own
    "torch": "pip install --force-reinstall torch", "CuPy": _AGAIN, "NVRTC": _AGAIN, "offline compile": _AGAIN,
    "CUDA headers": doctor_cuda.HEADERS,
    "CPU executor": "rm -r ~/.cache/spec_toolkit/cpu, then again; if the compiler is older than g++ 9: apt-get install g++",
    "launch": f"spec-toolkit doctor after: {_AGAIN}; out of memory: nvidia-smi shows who holds it", "DLPack": _AGAIN,
    "torch on GPU": "nvidia-smi shows who holds the GPU and its memory"}


def summary(findings) -> str:
    failed = [f.name for f in findings if f.state == FAILED]
    return f"{len(failed)} of {len(findings)} failed: {', '.join(failed)}" if failed else "nothing that should work here fails"
