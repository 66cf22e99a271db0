"""PyTorch and CuPy on the same memory: DLPack both ways, without a copy, on PyTorch's current stream.

CuPy knows no bfloat16: such a tensor travels as uint16, bit for bit. An array made here keeps the tensor's memory alive,
and a tensor the array's. Both sides must use one stream, or wait for each other: work inside `torch_stream`.
"""
from __future__ import annotations

import torch

_CARRIED_AS = {torch.bfloat16: torch.uint16}


class NotShared(RuntimeError):
    """The other library made a copy where the same memory was asked for."""


def to_cupy(tensor):
    """A CuPy array over the memory of a CUDA tensor (any strides; bfloat16 as uint16). Raises ValueError off the GPU."""
    if tensor.device.type != "cuda":
        raise ValueError(f"tensor: got one on {tensor.device}, accepted: a CUDA tensor")
    import cupy
    with cupy.cuda.Device(tensor.device.index), torch_stream(tensor.device):
        carried = tensor.detach().view(_CARRIED_AS.get(tensor.dtype, tensor.dtype))
        return _same(cupy.from_dlpack(carried), tensor, lambda array: array.data.ptr, tensor.data_ptr())


def to_torch(array, dtype=None):
    """A tensor over the memory of a CuPy (or NumPy) array. dtype torch.bfloat16 reads uint16 as bfloat16.

    Raises ValueError for a negative stride: torch.from_dlpack ends the whole process at one.
    """
    strides = getattr(array, "strides", None)
    if not hasattr(array, "__dlpack__") or strides is None or min(strides, default=0) < 0:
        raise ValueError(f"array: got {type(array).__name__} with strides {strides}, accepted: a CuPy or NumPy array without negative ones")
    tensor = torch.from_dlpack(array)
    pointer = array.data.ptr if hasattr(array.data, "ptr") else array.ctypes.data
    return _same(tensor if dtype is None else tensor.view(dtype), array, lambda t: t.data_ptr(), pointer)


def torch_stream(device):
    """A context in which CuPy works on PyTorch's current stream of that CUDA device."""
    import cupy
    stream = torch.cuda.current_stream(device)
    make = cupy.cuda.Stream.from_external if hasattr(stream, "__cuda_stream__") else lambda s: cupy.cuda.ExternalStream(s.cuda_stream)
    return make(stream)


def _same(shared, given, pointer_of, expected):
    if pointer_of(shared) != expected and given.size != 0 and 0 not in tuple(given.shape):
        raise NotShared(f"shared memory was asked for and a copy was made of {type(given).__name__} {tuple(given.shape)}")
    return shared
