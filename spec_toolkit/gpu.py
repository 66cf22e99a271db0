"""Compiling kernel text with CuPy (NVRTC) and launching it with little host time.

`compile_module` compiles for the GPU at hand; `compile_offline` for any architecture, with no GPU, and reports registers.
A bound launch is one driver call with prepared arguments: no array is wrapped, checked or allocated in it.
"""
from __future__ import annotations

import ctypes
import functools
import hashlib
import io
import os
import re
import threading
from pathlib import Path

import torch

ARCHITECTURES = (75, 80, 89, 90, 100)
STATIC_SHARED = 48 << 10  # shared memory of a block above this must be asked for, as dynamic
_PTXAS = re.compile(r"Compiling entry function '(\w+)' for '[^']*'(.*?)(?=Compiling entry function|\Z)", re.DOTALL)


class KernelCompileError(RuntimeError):
    """The CUDA compiler refused a kernel; the message holds its log, with lines of the .cu file."""


def headers(text: str, folders) -> dict[Path, str]:
    """{path: text} of the quoted includes of a kernel's text that are in one of `folders`, the first that has it, and of theirs."""
    found: dict[Path, str] = {}
    waiting = [(text, folders)]
    while waiting:
        including, where = waiting.pop()
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', including, re.MULTILINE):
            path = next((folder / name for folder in where if (folder / name).is_file()), None)
            if path and path not in found:
                found[path] = path.read_text()
                waiting.append((found[path], (path.parent, *folders)))  # a header looks beside itself first
    return found


def _source(text, filename, folders):
    """The text with its own line numbers, and a mark of its headers, which CuPy's cache does not look into."""
    mark = hashlib.sha256("".join(headers(text, folders).values()).encode()).hexdigest()[:16]
    return f'// headers {mark}\n#line 1 "{filename}"\n{text}'


def _options(defines, folders):
    return (*(f"-I{folder}" for folder in folders), "-lineinfo", *(f"-D{name}={value}" for name, value in defines.items()))


def compile_module(text, filename, folders, defines, device):
    """A CuPy RawModule compiled for the GPU of `device`. Raises KernelCompileError."""
    import cupy
    from cupy.cuda.compiler import CompileException
    module = cupy.RawModule(code=_source(text, filename, folders), options=_options(defines, folders))
    try:
        with cupy.cuda.Device(device.index):
            module.compile()
    except CompileException as error:
        raise _refused(filename, f"the GPU of {device}", str(error)) from None
    return module


def compile_offline(text, filename, folders, defines, arch: int) -> dict[str, dict]:
    """{kernel: {"registers", "spill_bytes", "shared_bytes"}} compiled for sm_<arch>; needs NVRTC but no GPU."""
    from cupy._core.core import assemble_cupy_compiler_options
    from cupy.cuda import compiler
    log = io.StringIO()
    options = (*_options(defines, folders), f"-arch=sm_{arch}", "--ptxas-options=-v")
    try:
        compiler._NVRTCProgram(_source(text, filename, folders), filename, method="cubin").compile(assemble_cupy_compiler_options(options), log)
    except compiler.CompileException as error:
        raise _refused(filename, f"sm_{arch}", str(error)) from None
    return {name: {"registers": _number(r"Used (\d+) registers", report), "shared_bytes": _number(r"(\d+) bytes smem", report),
                   "spill_bytes": _number(r"(\d+) bytes spill stores", report) + _number(r"(\d+) bytes spill loads", report)}
            for name, report in _PTXAS.findall(log.getvalue())}


def _number(pattern, text):
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def _refused(filename, target, log):
    return KernelCompileError(f"{filename} does not compile for {target}:\n{log.strip()}")


@functools.cache
def room(device) -> dict[str, int]:
    """What a contract may know of a CUDA device: sm_count, max_cluster, together, shared_bytes (see contract.py)."""
    properties = torch.cuda.get_device_properties(device)
    return {"sm_count": properties.multi_processor_count, "max_cluster": {9: 16, 10: 16}.get(properties.major, 8 if properties.major > 10 else 1),
            "together": 1 << 20, "shared_bytes": getattr(properties, "shared_memory_per_block_optin", STATIC_SHARED)}


class GpuCall:
    """Launches of one bound problem, in order, on PyTorch's current stream of `device`. Can be captured in a CUDA graph."""

    def __init__(self, device, launches):
        """launches: [(RawKernel, grid, block, shared bytes, blocks per cluster, [ctypes values])]"""
        self._index, self._prepared, self._keep = device.index, [], []
        for kernel, grid, block, shared, cluster, values in launches:
            if shared + kernel.shared_size_bytes > STATIC_SHARED:
                kernel.max_dynamic_shared_size_bytes = shared
            pointers = (ctypes.c_void_p * max(1, len(values)))(*[ctypes.addressof(value) for value in values])
            self._keep.append((kernel, values, pointers))
            make = _plain_launch if cluster == 1 else _cluster_launch
            self._prepared.append(make(kernel.kernel.ptr, grid, block, shared, cluster, ctypes.addressof(pointers)))
        self._stream = getattr(torch._C, "_cuda_getCurrentRawStream", lambda index: torch.cuda.current_stream(index).cuda_stream)
        self._current = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
        self._thread = threading.get_ident()

    def __call__(self):
        if self._current() != self._index or threading.get_ident() != self._thread:
            return self._elsewhere()
        stream = self._stream(self._index)
        for launch in self._prepared:
            launch(stream)

    def _elsewhere(self):
        """From another device, or from a thread that may have no CUDA context yet."""
        import cupy
        with torch.cuda.device(self._index), cupy.cuda.Device(self._index):
            cupy.cuda.runtime.free(0)  # makes the context current
            for launch in self._prepared:
                launch(self._stream(self._index))


def _plain_launch(function, grid, block, shared, cluster, pointers):
    from cupy.cuda import driver
    launch, shape = driver.launchKernel, (function, *grid, *block, shared)
    return lambda stream: launch(*shape, stream, pointers, 0)


class _Attribute(ctypes.Structure):  # CUlaunchAttribute
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("cluster", ctypes.c_uint * 3), ("rest", ctypes.c_char * 52)]


class _Config(ctypes.Structure):  # CUlaunchConfig
    _fields_ = [("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared_bytes", ctypes.c_uint), ("stream", ctypes.c_void_p),
                ("attributes", ctypes.POINTER(_Attribute)), ("count", ctypes.c_uint)]


CLUSTER_DIMENSION = 4          # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
NON_PORTABLE_CLUSTER_SIZE = 14  # CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED: clusters of more than 8 blocks


def _cluster_launch(function, grid, block, shared, cluster, pointers):
    """CuPy has no launch with a cluster: the driver's own, by ctypes."""
    from cupy.cuda import driver
    if cluster > 8:
        driver.funcSetAttribute(function, NON_PORTABLE_CLUSTER_SIZE, 1)
    attribute = _Attribute(CLUSTER_DIMENSION, 0, (ctypes.c_uint * 3)(cluster, 1, 1))
    config = _Config((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), shared, None, ctypes.pointer(attribute), 1)
    place, name, arguments, run = ctypes.byref(config), ctypes.c_void_p(function), ctypes.c_void_p(pointers), _driver().cuLaunchKernelEx

    def launch(stream):
        config.stream = stream
        if code := run(place, name, arguments, None):
            raise RuntimeError(f"cuLaunchKernelEx: CUDA error {code} for grid {grid}, block {block}, clusters of {cluster}, {shared} bytes of shared memory")
    return launch


@functools.cache
def _driver():
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
