"""`spec-toolkit doctor`: what is installed here, what of it works, and for each failure the command that mends it.

A probe is a function that says what it found, or raises Broken with the mending command, or Absent for what this machine can
do without. PROBES lists them in the order in which one rests on another. Nothing is installed and nothing is changed.
"""
from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OK, FAILED, ABSENT = "ok", "FAILED", "absent"
MARKS = {OK: "ok  ", FAILED: "FAIL", ABSENT: "-   "}
NOTEBOOKS = ("jupyterlab", "papermill", "matplotlib", "ipykernel", "nbconvert", "ipywidgets")
OFFLINE_ARCH = 90
CUPY = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
NEEDS_GPU = "needs a GPU", ""


class Broken(Exception):
    """Something that should work here does not. mend: the command or the setting that mends it."""

    def __init__(self, found: str, mend: str):
        super().__init__(found)
        self.mend = mend


class Absent(Broken):
    """Something that this machine does without; mend: how to get it."""


@dataclass(frozen=True)
class Finding:
    name: str
    state: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        lines = [f"{MARKS[self.state]} {self.name:<14} {self.found}"]
        return "\n".join(lines + [f"     {'mend' if self.state == FAILED else 'get it'}: {self.mend}"] * bool(self.mend))


def asked(name: str, probe: Callable[[], str]) -> Finding:
    """What a probe found, or why not."""
    try:
        return Finding(name, OK, probe())
    except Broken as error:
        return Finding(name, ABSENT if isinstance(error, Absent) else FAILED, str(error), error.mend)
    except Exception as error:  # noqa: BLE001 (a broken machine may raise anything; it must be said, and the rest looked at)
        text = " ".join(str(error).split())
        return Finding(name, FAILED, f"{type(error).__name__}: {text[:300]}", MENDS.get(name, "read the message above"))


def _version(*packages: str) -> str | None:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found) or None


def has_gpu() -> bool:
    """Does the machine show an NVIDIA GPU, whatever the state of its driver?"""
    return Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/gpus").is_dir() or bool(_run("nvidia-smi", "-L"))


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


def _cuda() -> str:
    """The CUDA that the CuPy to install should have: 13 for a driver that knows it, else 12."""
    import torch
    return "13" if (torch.version.cuda or "12").startswith("13") else "12"


# ---- the probes: each returns what it found ----------------------------------------------------------------------------

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
    if has_gpu() and not torch.version.cuda:
        raise Broken(f"torch {torch.__version__} is {built}, but there is a GPU", "pip install --force-reinstall torch   (without --index-url .../cpu)")
    return f"torch {torch.__version__} {built}, numpy {numpy.__version__}"


def notebooks() -> str:
    missing = [name for name in NOTEBOOKS if _version(name) is None]
    if missing:
        raise Broken(f"missing: {', '.join(missing)}", "pip install 'spec-toolkit[notebooks]'   (in a checkout: pip install -e '.[notebooks]')")
    return _version(*NOTEBOOKS)


def compiler() -> str:
    given = os.environ.get("CXX")
    found = next((path for name in ([given] if given else ["g++", "clang++"]) if (path := shutil.which(name))), None)
    if found is None:
        raise Broken(f"CXX={given}: no such program" if given else "no g++ and no clang++: kernels cannot run on the CPU",
                     "unset CXX" if given else "apt-get install g++   (conda: conda install -c conda-forge cxx-compiler)")
    return f"{found}: {(_run(found, '--version') or 'does not say its version').splitlines()[0]}"


def cpu_executor() -> str:
    return _first_rung("cpu")


def driver() -> str:
    if not has_gpu():
        raise Absent("no NVIDIA GPU here: kernels run on the CPU executor, and nothing is timed", "a machine with a GPU and its driver; nothing else is needed")
    if not (found := _run("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used,compute_cap", "--format=csv,noheader")):
        raise Broken("there is a GPU, but nvidia-smi does not answer: the driver is not loaded, or is not passed into this container",
                     "modprobe nvidia; in a container: docker run --gpus all ...; after a driver update: reboot")
    return "; ".join(line for line in found.splitlines())


def torch_gpu() -> str:
    import torch
    if not has_gpu():
        raise Absent(*NEEDS_GPU)
    if not torch.cuda.is_available():
        raise Broken(f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU; CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}",
                     "unset CUDA_VISIBLE_DEVICES; if nvidia-smi shows an older CUDA than torch's: a newer driver, or pip install torch for that CUDA")
    free, total = torch.cuda.mem_get_info()
    torch.zeros(1, device="cuda").add_(1).item()
    return f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, torch's CUDA {torch.version.cuda}"


def cupy() -> str:
    installed = [name for name in CUPY if _version(name)]
    lacking = Broken if has_gpu() else Absent
    if not installed:
        raise lacking("not installed; it compiles and launches kernels on a GPU, and compiles them for one offline", f"pip install 'spec-toolkit[cuda{_cuda()}]'")
    module = _import_cupy()
    if len(installed) > 1:
        raise Broken(f"{' and '.join(installed)} are both installed and overwrite each other's files",
                     f"pip uninstall -y {' '.join(installed)} && pip install 'spec-toolkit[cuda{_cuda()}]'")
    return f"{installed[0]} {module.__version__}, runtime {_cuda_version(module.cuda.runtime.runtimeGetVersion())}"


def nvrtc() -> str:
    _needs_cupy()
    module = _import_cupy()
    version = ".".join(map(str, module.cuda.nvrtc.getVersion()))
    driver_cuda = module.cuda.runtime.driverGetVersion()
    if driver_cuda and driver_cuda // 1000 < int(version.split(".")[0]):
        raise Broken(f"NVRTC {version} is newer than the driver, which knows CUDA {_cuda_version(driver_cuda)}",
                     "pip uninstall -y cupy-cuda13x nvidia-cuda-nvrtc && pip install 'spec-toolkit[cuda12]', or a newer driver")
    return f"NVRTC {version} ({_version('nvidia-cuda-nvrtc-cu12', 'nvidia-cuda-nvrtc-cu13', 'nvidia-cuda-nvrtc') or 'of a CUDA toolkit'})" + (
        f", the driver knows CUDA {_cuda_version(driver_cuda)}" if driver_cuda else "")


def headers() -> str:
    _needs_cupy()
    from cupy._core.core import assemble_cupy_compiler_options
    folders = [Path(option[2:]) for option in assemble_cupy_compiler_options(()) if option.startswith("-I")]
    if os.environ.get("CUDA_PATH"):
        folders.append(Path(os.environ["CUDA_PATH"]) / "include")
    holders = [folder for folder in folders if (folder / "cuda_bf16.h").is_file()]
    if not holders:
        raise Broken(f"cuda_bf16.h is in none of {', '.join(map(str, folders)) or 'the include folders of CuPy'}", MENDS["CUDA headers"])
    return f"cuda_bf16.h in {holders[0]}"


def offline_compile() -> str:
    _needs_cupy()
    from .sampler import list_kernels, load_sampler
    name = list_kernels()[0]
    used = load_sampler(name).registers(OFFLINE_ARCH)
    return f"{name} for sm_{OFFLINE_ARCH}: " + ", ".join(f"{kernel} {one['registers']} registers" for kernel, one in used.items())


def launch() -> str:
    _needs_working_gpu()
    return _first_rung("cuda")


def dlpack() -> str:
    import numpy
    import torch

    from . import sharing
    if not has_gpu():
        array = numpy.arange(8.0)
        sharing.to_torch(array)[0] = 42
        _same(array[0] == 42, "NumPy array")
        return "NumPy to torch on the same memory (torch and CuPy: on a GPU)"
    _needs_working_gpu()
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.arange(8, device="cuda").to(dtype)
        back = sharing.to_torch(sharing.to_cupy(tensor), dtype)
        back[0] = 42
        _same(float(tensor[0]) == 42, f"{dtype} tensor")
    return "torch to CuPy and back, float32 and bfloat16, on the same memory"


def _same(shared: bool, what: str) -> None:
    if not shared:
        raise Broken(f"a {what} was copied, not shared", f"pip install --upgrade torch 'spec-toolkit[cuda{_cuda()}]'")


def tools() -> str:
    found = {name: path for name in ("nvcc", "ncu", "nsys", "compute-sanitizer", "make", "git") if (path := shutil.which(name))}
    if not found:
        raise Absent("none of nvcc, ncu, nsys, compute-sanitizer, make, git is on PATH", "a CUDA toolkit, for FlashInfer and for profiles")
    return ", ".join(f"{name} ({path})" for name, path in found.items())


def peers() -> str:
    from .peers import INSTALL
    found = _version("flashinfer-python", "transformers", "triton")
    if not found:
        raise Absent("no other library to compare with", INSTALL)
    return found


def _import_cupy():
    import cupy
    return cupy


def _needs_cupy() -> None:
    if not _version(*CUPY):
        raise (Broken("not tried: there is no CuPy", "the failure above first") if has_gpu() else Absent("needs CuPy", ""))


def _needs_working_gpu() -> None:
    import torch
    if not has_gpu():
        raise Absent(*NEEDS_GPU)
    if not torch.cuda.is_available() or not _version(*CUPY):
        raise Broken("not tried: torch sees no GPU, or there is no CuPy", "the failures above first")


def _first_rung(device: str) -> str:
    from . import check, load_sampler, make_problem
    sampler = load_sampler("v1")
    result = check(sampler, make_problem(batch=3, draft_len=2, vocab=65, device=device))
    if not result:
        raise Broken(f"v1 is not exact here: {result}", "spec-toolkit run ladder shows more; this should not happen, please report it")
    return f"{sampler.filename} compiled and run on {device}: the reference's tokens for {result.requests} requests"


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


PROBES: dict[str, Callable[[], str]] = {
    "Python": python, "spec-toolkit": package, "torch": torch, "notebooks": notebooks, "C++ compiler": compiler, "CPU executor": cpu_executor,
    "GPU and driver": driver, "torch on GPU": torch_gpu, "CuPy": cupy, "NVRTC": nvrtc, "CUDA headers": headers, "offline compile": offline_compile,
    "launch": launch, "DLPack": dlpack, "tools": tools, "peers": peers}
_AGAIN = "pip install --force-reinstall 'spec-toolkit[cuda12]'   (or cuda13)"
MENDS = {  # what mends a probe that raised something of its own
    "torch": "pip install --force-reinstall torch", "CuPy": _AGAIN, "NVRTC": _AGAIN, "offline compile": _AGAIN,
    "CUDA headers": "pip install nvidia-cuda-runtime-cu12   (CUDA 13: nvidia-cuda-runtime), or set CUDA_PATH to a toolkit",
    "CPU executor": "rm -r ~/.cache/spec_toolkit/cpu, then again; if the compiler is older than g++ 9: apt-get install g++",
    "launch": f"spec-toolkit doctor after: {_AGAIN}; out of memory: nvidia-smi shows who holds it", "DLPack": _AGAIN,
    "torch on GPU": "nvidia-smi shows who holds the GPU and its memory"}


def summary(findings) -> str:
    failed = [f.name for f in findings if f.state == FAILED]
    return f"{len(failed)} of {len(findings)} failed: {', '.join(failed)}" if failed else "nothing that should work here fails"
