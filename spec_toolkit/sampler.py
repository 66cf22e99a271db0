"""A kernel file as a sampler: read its contract, compile it, bind a problem's tensors to its arguments by name, launch.

    sampler = load_sampler("v1")                 # or "v1_one_thread", a baseline, a peer; BLOCK=64 sets a tune macro
    sampler = load_sampler(source=text_or_path)  # a kernel of your own
    outputs = sampler(problem)                   # fresh tensors
    call = sampler.bind(problem)                 # once: check, share, allocate; then call() launches and nothing else

CUDA problems run on the GPU, CPU problems on the CPU executor: the same source, the same arguments. No file is registered:
a new kernels/v9_name.cu is the sampler "v9".
"""
from __future__ import annotations

import ctypes
import hashlib
import re
from pathlib import Path

import torch

from . import baselines, contract, cpu, gpu, peers, sharing
from .baselines import empty_outputs
from .paths import kernels_dir

ROW_TYPES = {torch.float32: "float", torch.float16: "__half", torch.bfloat16: "__nv_bfloat16"}
POINTERS = {
    "target_probs": "const ROW*", "draft_probs": "const ROW*", "target_logits": "const ROW*", "draft_logits": "const ROW*",
    "draft_tokens": "const int*", "draft_start": "const int*", "temperature": "const float*", "draft_lse": "const float*",
    "seeds": "const unsigned long long*", "positions": "const long long*",
    "out_tokens": "int*", "num_accepted": "int*", "status": "int*"}
OUTPUTS = ("out_tokens", "num_accepted", "status")
SCALARS = (*contract.SYMBOLS, "target_stride", "draft_stride")
SCALAR_TYPES = {"int": ctypes.c_int32, "unsigned": ctypes.c_uint32, "unsigned int": ctypes.c_uint32,
                "long long": ctypes.c_int64, "unsigned long long": ctypes.c_uint64}
SCRATCH_TYPES = {"float": torch.float32, "double": torch.float64, "int": torch.int32, "unsigned": torch.int32,
                 "unsigned int": torch.int32, "long long": torch.int64, "unsigned long long": torch.int64}
CPU_SM_COUNT, CPU_TOGETHER = 4, 8  # sm_count and together, as told to a kernel on the CPU executor (which runs 256 blocks together)


def list_kernels() -> list[str]:
    """Names of the rungs: v1, v2, ... (the files kernels/v*.cu)."""
    return sorted(_files(), key=lambda name: (int(re.sub(r"\D", "", name) or 0), name))


def list_samplers() -> list[str]:
    """Everything `load_sampler` knows by name, but for the peers (`peers.list_peers()`)."""
    return [*list_kernels(), *baselines.BASELINES]


def load_sampler(name=None, *, source=None, **tune):
    """A sampler by name, or from `source`: the text of a kernel, or a Path to it. `tune`: macros of its contract.

    Raises ValueError for an unknown name, contract.ContractError for a file that cannot be used.
    """
    if (name is None) == (source is None):
        raise ValueError("load_sampler: give a name or source=, not both; names: " + ", ".join(list_samplers()))
    if source is not None:
        path = source if isinstance(source, Path) else None
        return KernelSampler(path.stem if path else None, path.read_text() if path else source, path.name if path else "source.cu",
                             [path.absolute().parent, kernels_dir()] if path else [kernels_dir()], tune)
    files = _files()
    if path := files.get(name) or next((path for path in files.values() if path.stem == name), None):
        return KernelSampler(path.stem.split("_")[0], path.read_text(), path.name, [path.parent], tune)
    if tune and name in (*baselines.BASELINES, *peers.PEERS):
        raise ValueError(f"{name}: got {', '.join(tune)}, accepted: no tune parameters (it is not a kernel)")
    if name in baselines.BASELINES:
        return baselines.load_baseline(name)
    if name in peers.PEERS:
        return peers.load_peer(name)
    raise ValueError(f"sampler: got {name!r}, accepted: {', '.join([*list_samplers(), *peers.PEERS])}")


def _files():
    return {path.stem.split("_")[0]: path for path in sorted(kernels_dir().glob("v*.cu"))}


class KernelSampler:
    """One kernel file with its tune macros. draw, ulps, input: from the contract."""
    kind, reports_status = "kernel", True

    def __init__(self, name, text, filename, folders, tune):
        self.text, self.filename, self.folders, self._compiled = text, filename, list(dict.fromkeys(folders)), {}
        self.contract = contract.parse(text, filename, tune)
        self.draw, self.ulps, self.input, self.tune = self.contract.draw, self.contract.ulps, self.contract.input, self.contract.tune
        self.name = (name or self.contract.launches[0].kernel) + "".join(f"-{key}{tune[key]}" for key in sorted(tune))
        for launch in self.contract.launches:
            for ctype, parameter in launch.parameters:
                self._check_parameter(ctype, parameter)
        mark = [text, *gpu.headers(text, self.folders).values(), repr(sorted(self.tune.items()))]
        self.source_hash = hashlib.sha256("\0".join(mark).encode()).hexdigest()

    def _check_parameter(self, ctype, name):
        known, values, scratch = POINTERS.get(name), self.contract.values, self.contract.scratch
        if name in scratch:
            accepted = [f"{const}{plain}*" for const in ("", "const ") for plain in SCRATCH_TYPES]
        elif name in values or name in SCALARS:
            accepted, ctype = list(SCALAR_TYPES), ctype.removeprefix("const ")
        elif known:
            accepted = [known]
        else:
            raise contract.ContractError(f"{self.filename}: unknown parameter {name!r}; accepted: "
                                         f"{', '.join([*POINTERS, *SCALARS, *values, *scratch])}")
        if ctype not in accepted:
            raise contract.ContractError(f"{self.filename}: parameter {name!r}: got type {ctype!r}, accepted: {', '.join(accepted)}"
                                         + (" (inputs are const: they are never written)" if known else ""))

    def defines(self, dtype=torch.float32):
        """{macro: value} with which the kernel is compiled for rows of `dtype`."""
        return {"ROW": ROW_TYPES[dtype], **self.tune}

    def registers(self, arch=90, dtype=torch.float32):
        """{kernel: registers, spill_bytes, shared_bytes} compiled for sm_<arch>; needs no GPU, but CuPy and NVRTC."""
        return gpu.compile_offline(self.text, self.filename, self.folders, self.defines(dtype), arch)

    def bind(self, problem) -> Call:
        """Check, compile, share and allocate once. The Call's outputs are overwritten by its next call."""
        if problem.kind != self.input:
            hint = "; problem.probs() gives its probabilities" if self.input == "probs" else ""
            raise ValueError(f"{self.name}: got a problem of {problem.kind}, accepted: {self.input}{hint}")
        return Call(self, problem)

    def __call__(self, problem):
        return self.bind(problem)()

    def predicted_bytes(self, problem, rejected: int) -> int:
        """The contract's `bytes`: bytes of rows that the kernel reads when `rejected` requests end in a rejection."""
        return self.contract.number(self.contract.bytes, self.contract.resolve(self.symbols(problem)) | {"rejected": rejected})

    def symbols(self, problem):
        """The integers that the contract's expressions may use."""
        machine = gpu.room(problem.device) if problem.device.type == "cuda" else {
            "sm_count": CPU_SM_COUNT, "max_cluster": 1, "together": CPU_TOGETHER, "shared_bytes": cpu.MAX_SHARED_BYTES}
        return {"batch": problem.batch, "vocab": problem.vocab, "num_draft": problem.num_draft, "max_draft": problem.max_draft,
                "itemsize": problem.target.element_size(), **machine, **self.tune}

    def kernels(self, problem):
        """{kernel name: compiled kernel} for the problem's row type and device; compiled at first use."""
        key = problem.dtype, problem.device
        if key not in self._compiled:
            defines, launches = self.defines(problem.dtype), self.contract.launches
            if problem.device.type == "cuda":
                module = gpu.compile_module(self.text, self.filename, self.folders, defines, problem.device)
                self._compiled[key] = {launch.kernel: module.get_function(launch.kernel) for launch in launches}
            else:
                self._compiled[key] = {launch.kernel: cpu.compile_kernel(
                    self.text, launch.kernel, self.filename, launch.parameters, defines, self.folders) for launch in launches}
        return self._compiled[key]

    def show(self, problem=None, arch=90):
        """Print the notes, the launch, the registers and, for a problem, the bytes predicted."""
        lines = [f"{self.name}  ({self.filename}, {self.draw} draw)", "", self.contract.notes, ""]
        lines += [f"launch    {launch.kernel}  grid {launch.grid}  block {launch.block}" for launch in self.contract.launches]
        lines += [f"tune      {', '.join(f'{name} = {value}' for name, value in self.tune.items()) or 'none'}"]
        try:
            lines += [f"sm_{arch}     {name}: {used['registers']} registers, {used['spill_bytes']} bytes spilled, "
                      f"{used['shared_bytes']} bytes shared" for name, used in self.registers(arch).items()]
        except ImportError as error:
            lines += [f"sm_{arch}     not compiled: {error}"]
        if problem is not None:
            lines += [f"bytes     {self.predicted_bytes(problem, 0)} (all accepted) to {self.predicted_bytes(problem, problem.batch)} (all rejected)"]
        print("\n".join(lines))

    def __repr__(self):
        return f"KernelSampler({self.name!r}, draw={self.draw!r}, ulps={self.ulps:g}, {self.filename})"


class Call:
    """One problem bound to one kernel file. `call()` launches; `call.outputs` are its tensors."""

    def __init__(self, sampler, problem):
        self.problem, self.outputs = problem, empty_outputs(problem)
        known = sampler.contract.resolve(sampler.symbols(problem))
        strides = {"target_stride": problem.target_stride, "draft_stride": problem.draft_stride}
        self.scratch = {name: torch.zeros(sampler.contract.number(count, known), dtype=_scratch_dtype(sampler, name), device=problem.device)
                        for name, count in sampler.contract.scratch.items()}
        arrays = {name: getattr(problem, name, None) for name in POINTERS} | dict(zip(OUTPUTS, self.outputs)) | self.scratch
        size = lambda text: sampler.contract.number(text, known)
        shapes = [(launch, tuple(map(size, launch.grid)), tuple(map(size, launch.block)), size(launch.shared), size(launch.cluster))
                  for launch in sampler.contract.launches] if problem.batch else []
        kernels = sampler.kernels(problem) if shapes else {}
        if problem.device.type == "cuda":
            self._shared = {name: sharing.to_cupy(tensor) for name, tensor in arrays.items() if tensor is not None and tensor.numel()}
            pointers = {name: self._shared[name].data.ptr if name in self._shared else 0 for name in arrays}
            self._run = gpu.GpuCall(problem.device, [
                (kernels[launch.kernel], grid, block, shared, cluster,
                 [_value(ctype, name, pointers, known | strides) for ctype, name in launch.parameters])
                for launch, grid, block, shared, cluster in shapes])
        else:
            self._run = lambda: [kernels[launch.kernel].launch(
                grid, block, {name: (arrays if name in arrays else known | strides)[name] for _, name in launch.parameters}, shared)
                for launch, grid, block, shared, _ in shapes]

    def __call__(self):
        self._run()
        return self.outputs


def _value(ctype, name, pointers, numbers):
    if name in pointers:
        return ctypes.c_void_p(pointers[name])
    kind, number = SCALAR_TYPES[ctype.removeprefix("const ")], numbers[name]
    if kind(number).value != number:
        raise ValueError(f"{name}: {number} does not fit {ctype}; use long long in the kernel's signature")
    return kind(number)


def _scratch_dtype(sampler, name):
    for launch in sampler.contract.launches:
        for ctype, parameter in launch.parameters:
            if parameter == name:
                return SCRATCH_TYPES[ctype.removeprefix("const ").removesuffix("*")]
    raise contract.ContractError(f"{sampler.filename}: scratch {name!r} is no kernel's parameter")
