"""The doctor's probes of a GPU and of what reaches it: driver, torch, CuPy, NVRTC, headers, a compilation, a launch, shared memory."""
from __future__ import annotations

import os
from pathlib import Path

from . import ailments
from .ailments import Absent, Broken, run, version

OFFLINE_ARCH = 90
ASKED = ("name", "driver_version", "memory.total", "memory.used", "compute_cap")  # of nvidia-smi
CUPY = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
NEEDS_GPU = "needs a GPU", ""
HEADERS = "pip install nvidia-cuda-runtime-cu12   (CUDA 13: nvidia-cuda-runtime), or set CUDA_PATH to a toolkit"


def _cuda() -> str:
    """The CUDA that the CuPy to install should have: 13 for a driver that knows it, else 12."""
    import torch
    return "13" if (torch.version.cuda or "12").startswith("13") else "12"


def driver() -> str:
    if not ailments.has_gpu():
        raise Absent("no NVIDIA GPU here: kernels run on the CPU executor, and nothing is timed", "a machine with a GPU and its driver; nothing else is needed")
    if not (found := run("nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits")):
        raise Broken("there is a GPU, but nvidia-smi does not answer: the driver is not loaded, or is not passed into this container",
                     "modprobe nvidia; in a container: docker run --gpus all ...; after a driver update: reboot")
    return gpus_in_words(found)


def gpus_in_words(csv: str) -> str:
    """nvidia-smi's lines of ASKED, without units, as a line: equal GPUs together, with their number; the driver, which is one, once."""
    rows = [[field.strip() for field in line.split(",")] for line in csv.splitlines()]
    if any(len(row) != len(ASKED) for row in rows):
        return "; ".join(csv.splitlines())  # a name with a comma in it: as nvidia-smi has it
    kinds: dict[tuple, list] = {}
    for name, _, total, used, capability in rows:
        kinds.setdefault((name, total, capability), []).append(used)
    said = [(f"{len(used)} x " if len(used) > 1 else "") + f"{name} (compute capability {capability}, {_gib(total)}" + (" each" if len(used) > 1 else "")
            + f", in use {' and '.join(map(_gib, used))})" for (name, total, capability), used in kinds.items()]
    return f"{', '.join(said)}, driver {', '.join(dict.fromkeys(row[1] for row in rows))}"


def _gib(mebibytes: str) -> str:
    return f"{int(mebibytes) / 1024:.1f} GiB" if mebibytes.isdigit() else mebibytes  # "[N/A]" of a GPU that shares its memory


def torch_gpu() -> str:
    import torch
    if not ailments.has_gpu():
        raise Absent(*NEEDS_GPU)
    if not torch.cuda.is_available():
        raise Broken(f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU; CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}",
                     "unset CUDA_VISIBLE_DEVICES; if nvidia-smi shows an older CUDA than torch's: a newer driver, or pip install torch for that CUDA")
    free, total = torch.cuda.mem_get_info()
    torch.zeros(1, device="cuda").add_(1).item()
    return f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, torch's CUDA {torch.version.cuda}"


def cupy() -> str:
    installed = [name for name in CUPY if version(name)]
    lacking = Broken if ailments.has_gpu() else Absent
    if not installed:
        raise lacking("not installed; it compiles and launches kernels on a GPU, and compiles them for one offline", f"pip install 'spec-toolkit[cuda{_cuda()}]'")
    module = _import_cupy()
    if len(installed) > 1:
        raise Broken(f"{' and '.join(installed)} are both installed and overwrite each other's files",
                     f"pip uninstall -y {' '.join(installed)} && pip install 'spec-toolkit[cuda{_cuda()}]'")
    return f"{installed[0]} {module.__version__}, runtime {_cuda_version(module.cuda.runtime.runtimeGetVersion())}"


def nvrtc() -> str:
    needs_cupy()
    module = _import_cupy()
    found = ".".join(map(str, module.cuda.nvrtc.getVersion()))
    driver_cuda = module.cuda.runtime.driverGetVersion()
    if driver_cuda and driver_cuda // 1000 < int(found.split(".")[0]):
        raise Broken(f"NVRTC {found} is newer than the driver, which knows CUDA {_cuda_version(driver_cuda)}",
                     "pip uninstall -y cupy-cuda13x nvidia-cuda-nvrtc && pip install 'spec-toolkit[cuda12]', or a newer driver")
    return f"NVRTC {found} ({version('nvidia-cuda-nvrtc-cu12', 'nvidia-cuda-nvrtc-cu13', 'nvidia-cuda-nvrtc') or 'of a CUDA toolkit'})" + (
        f", the driver knows CUDA {_cuda_version(driver_cuda)}" if driver_cuda else "")


def headers() -> str:
    needs_cupy()
    from cupy._core.core import assemble_cupy_compiler_options
    folders = [Path(option[2:]) for option in assemble_cupy_compiler_options(()) if option.startswith("-I")]
    if os.environ.get("CUDA_PATH"):
        folders.append(Path(os.environ["CUDA_PATH"]) / "include")
    holders = [folder for folder in folders if (folder / "cuda_bf16.h").is_file()]
    if not holders:
        raise Broken(f"cuda_bf16.h is in none of {', '.join(map(str, folders)) or 'the include folders of CuPy'}", HEADERS)
    return f"cuda_bf16.h in {holders[0]}"


def offline_compile() -> str:
    needs_cupy()
    from .sampler import list_kernels, load_sampler
    name = list_kernels()[0]
    used = load_sampler(name).registers(OFFLINE_ARCH)
    return f"{name} for sm_{OFFLINE_ARCH}: " + ", ".join(f"{kernel} {one['registers']} registers" for kernel, one in used.items())


def launch() -> str:
    _needs_working_gpu()
    return first_rung("cuda")


def dlpack() -> str:
    import numpy
    import torch

    from . import sharing
    if not ailments.has_gpu():
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


def _import_cupy():
    import cupy
    return cupy


def needs_cupy() -> None:
    """Absent, or Broken beside a GPU, where there is no CuPy."""
    if not version(*CUPY):
        raise (Broken("not tried: there is no CuPy", "the failure above first") if ailments.has_gpu() else Absent("needs CuPy", ""))


def _needs_working_gpu() -> None:
    import torch
    if not ailments.has_gpu():
        raise Absent(*NEEDS_GPU)
    if not torch.cuda.is_available() or not version(*CUPY):
        raise Broken("not tried: torch sees no GPU, or there is no CuPy", "the failures above first")


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def first_rung(device: str) -> str:
    """V1 compiled, run and compared on a device."""
    from . import check, load_sampler, make_problem
    sampler = load_sampler("v1")
    result = check(sampler, make_problem(batch=3, draft_len=2, vocab=65, device=device))
    if not result:
        raise Broken(f"v1 is not exact here: {result}", "spec-toolkit run ladder shows more; this should not happen, please report it")
    return f"{sampler.filename} compiled and run on {device}: the reference's tokens for {result.requests} requests"
