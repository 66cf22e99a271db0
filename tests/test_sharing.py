"""PyTorch and CuPy (or NumPy) on the same memory: nothing is copied, and what cannot be shared is refused."""
import gc
import subprocess
import sys

import numpy as np
import pytest
import torch

from spec_toolkit import sharing
from spec_toolkit.sharing import NotShared, to_cupy, to_torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.uint8)


# ---- NumPy, on any machine

@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int32, np.int64, np.uint16, np.uint64])
def test_a_numpy_array_is_shared_both_ways(dtype):
    array = np.arange(12, dtype=dtype).reshape(3, 4)
    tensor = to_torch(array)
    assert tensor.data_ptr() == array.ctypes.data and tensor.shape == (3, 4) and str(tensor.dtype)[6:] == array.dtype.name
    array[1, 2] = 77
    assert tensor[1, 2] == 77
    tensor[2, 0] = 55
    assert array[2, 0] == 55


@pytest.mark.parametrize("cut", [np.s_[:, :3], np.s_[1:, ::2], np.s_[:, 2], np.s_[..., None]])
def test_strides_are_kept(cut):
    array = np.arange(20, dtype=np.float32).reshape(4, 5)[cut]
    tensor = to_torch(array)
    assert tensor.data_ptr() == array.ctypes.data and [4 * step for step in tensor.stride()] == list(array.strides)
    assert np.array_equal(tensor.numpy(), array)


def test_bfloat16_comes_as_uint16():
    wanted = torch.tensor([[1.0, -2.5], [0.0, 3e38]], dtype=torch.bfloat16)
    array = wanted.view(torch.uint16).numpy().copy()
    tensor = to_torch(array, torch.bfloat16)
    assert tensor.dtype == torch.bfloat16 and tensor.data_ptr() == array.ctypes.data and torch.equal(tensor, wanted)
    tensor[0, 0] = 2.0
    assert array[0, 0] == 0x4000


def test_the_tensor_keeps_the_array_alive():
    tensor = to_torch(np.full(1 << 16, 7, dtype=np.int32))
    gc.collect()
    np.full(1 << 16, 9, dtype=np.int32)  # would take the memory, had it been freed
    assert (tensor == 7).all()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_an_empty_array(shape):
    assert to_torch(np.zeros(shape, dtype=np.float32)).shape == shape


@pytest.mark.parametrize("given", [[1, 2], 3.0, None, torch.zeros(2)], ids=["list", "float", "None", "tensor"])
def test_what_is_no_array_is_refused(given):
    with pytest.raises(ValueError, match=f"array: got {type(given).__name__} .*accepted: a CuPy or NumPy array"):
        to_torch(given)


def test_a_negative_stride_is_refused():
    """In a process of its own: torch.from_dlpack ends the process at one."""
    code = "import numpy as np; from spec_toolkit.sharing import to_torch\ntry: to_torch(np.zeros(4)[::-1])\nexcept ValueError as error: print(error)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-500:]
    assert "strides (-8,), accepted: a CuPy or NumPy array without negative ones" in ran.stdout


def test_a_copy_is_not_taken_for_shared_memory(monkeypatch):
    monkeypatch.setattr(sharing.torch, "from_dlpack", lambda array: torch.tensor(array.tolist()))
    with pytest.raises(NotShared, match=r"a copy was made of ndarray \(2, 3\)"):
        to_torch(np.zeros((2, 3)))


def test_a_cpu_tensor_is_not_for_cupy():
    with pytest.raises(ValueError, match="tensor: got one on cpu, accepted: a CUDA tensor"):
        to_cupy(torch.zeros(2))


# ---- CuPy, on a GPU

def gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")(test))


@gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_cuda_memory_is_shared_both_ways(dtype):
    tensor = torch.arange(12, device="cuda").reshape(3, 4).to(dtype)
    array = to_cupy(tensor)
    assert array.data.ptr == tensor.data_ptr() and array.shape == (3, 4) and array.nbytes == tensor.nbytes
    assert array.dtype == ("uint16" if dtype == torch.bfloat16 else str(dtype)[6:])
    back = to_torch(array, dtype)
    assert back.data_ptr() == tensor.data_ptr() and back.dtype == dtype and torch.equal(back, tensor)
    back[1, 1] = 99
    assert tensor[1, 1] == 99
    tensor.zero_()
    torch.cuda.synchronize()
    assert not array.any()


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_cuda_rows_with_padding_and_an_offset(dtype):
    tensor = torch.zeros(3 * 8 + 1, dtype=dtype, device="cuda")[1:].view(3, 8)[:, :5]
    array = to_cupy(tensor)
    assert array.data.ptr == tensor.data_ptr() and list(array.strides) == [step * tensor.element_size() for step in tensor.stride()]
    assert to_torch(array, dtype).stride() == tensor.stride()


@gpu
def test_an_array_made_by_cupy():
    cupy = pytest.importorskip("cupy")
    array = cupy.arange(6, dtype=cupy.uint16)
    tensor = to_torch(array, torch.bfloat16)
    assert tensor.data_ptr() == array.data.ptr and tensor.device.type == "cuda" and tensor.view(torch.uint16).tolist() == list(range(6))
    cupy.cuda.Device().synchronize()
    with pytest.raises(ValueError, match="without negative ones"):
        to_torch(array[::-1])


@gpu
def test_an_array_keeps_the_tensors_memory():
    array = to_cupy(torch.full((1 << 20,), 7, dtype=torch.int32, device="cuda"))
    gc.collect()
    torch.full((1 << 20,), 9, dtype=torch.int32, device="cuda")  # would take the memory, had it been freed
    torch.cuda.synchronize()
    assert (array == 7).all()


@gpu
def test_cupy_works_on_the_current_stream():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), sharing.torch_stream(torch.device("cuda", torch.cuda.current_device())) as ours:
        assert ours.ptr == stream.cuda_stream
        tensor = torch.zeros(1 << 20, device="cuda")
        array = to_cupy(tensor)
        torch.cuda._sleep(100_000_000)
        tensor.fill_(1.0)
        total = array.sum()  # waits for fill_, if on its stream
    stream.synchronize()
    assert float(total) == 1 << 20
