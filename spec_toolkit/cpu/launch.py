"""Launching a compiled kernel: arguments in, guards round them, errors out in the kernel's own terms."""
import contextlib
import contextvars
import ctypes
import math
import random
import signal
import threading

from .errors import CpuExecutionError, describe
from .memory import GuardedArray

MAX_THREADS, MAX_SHARED_BYTES = 1024, 227 << 10  # of a block, on an H100
_C_TYPES = {
    "bool": ctypes.c_bool, "char": ctypes.c_char, "float": ctypes.c_float, "double": ctypes.c_double,
    "int": ctypes.c_int32, "unsigned": ctypes.c_uint32, "unsigned int": ctypes.c_uint32,
    "short": ctypes.c_int16, "unsigned short": ctypes.c_uint16, "unsigned char": ctypes.c_uint8,
    "long": ctypes.c_long, "unsigned long": ctypes.c_ulong, "size_t": ctypes.c_size_t,
    "long long": ctypes.c_int64, "unsigned long long": ctypes.c_uint64,
    "int8_t": ctypes.c_int8, "int16_t": ctypes.c_int16, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64,
    "uint8_t": ctypes.c_uint8, "uint16_t": ctypes.c_uint16, "uint32_t": ctypes.c_uint32, "uint64_t": ctypes.c_uint64,
}
_lock = threading.RLock()  # the executor's state is per library, signal handlers are per process
ORDERS = ("forward", "reversed", "shuffled", "interleaved")
_order = contextvars.ContextVar("fibre_order", default=("forward", 0))


class SpecLaunch(ctypes.Structure):
    """SpecLaunch of executor.h, field by field."""
    _fields_ = [
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("args", ctypes.POINTER(ctypes.c_void_p)),
        ("dynamic_shared", ctypes.c_void_p), ("dynamic_bytes", ctypes.c_ulonglong),
        ("block_order", ctypes.POINTER(ctypes.c_longlong)), ("warp_order", ctypes.POINTER(ctypes.c_int)),
        ("lane_order", ctypes.POINTER(ctypes.c_int)), ("catch_interrupt", ctypes.c_int), ("turns", ctypes.c_ulonglong),
        ("failed_signal", ctypes.c_int), ("is_write", ctypes.c_int),
        ("failed_block", ctypes.c_uint * 3), ("failed_thread", ctypes.c_uint * 3),
        ("address", ctypes.c_ulonglong), ("pc", ctypes.c_ulonglong), ("line", ctypes.c_int),
        ("stack_overflow", ctypes.c_int), ("file", ctypes.c_char * 256), ("message", ctypes.c_char * 2048)]


@contextlib.contextmanager
def fibre_order(order="forward", seed=0):
    """Run blocks, and the threads in a block, "forward", "reversed" or "shuffled" (by `seed`) inside the `with`.

    A kernel whose result depends on the order lacks a barrier or an atomic. Warps are ordered, and lanes in a warp. "interleaved":
    forward, but blocks take turns at their barriers and atomics, at random by `seed`, as if they were on the GPU together.
    """
    if order not in ORDERS:
        raise ValueError(f"order: {', '.join(map(repr, ORDERS))}, not {order!r}")
    token = _order.set((order, seed))
    try:
        yield
    finally:
        _order.reset(token)


def _permutation(ctype, count, order, seed):
    ids = list(range(count))
    if order == "reversed":
        ids.reverse()
    elif order == "shuffled":
        random.Random(seed).shuffle(ids)
    return (ctype * count)(*ids)


class CpuKernel:
    """A kernel compiled for the CPU. Made by compile_kernel. `.library` is the shared object, for a debugger."""

    def __init__(self, name, filename, params, library):
        self.name, self.filename, self.params, self.library = name, filename, params, library
        self._types = {p: _argument_type(ctype, p) for ctype, p in params}  # None: a pointer
        self._entry = ctypes.CDLL(str(library)).spec_launch
        self._entry.argtypes, self._entry.restype = [ctypes.POINTER(SpecLaunch)], ctypes.c_int

    def __repr__(self):
        return f"CpuKernel({self.name} of {self.filename})"

    def launch(self, grid, block, args, shared_bytes=0):
        """Run the kernel and wait for it. `args`: {parameter: CPU tensor, None (null pointer), or number}.

        Tensors that the kernel may write (no `const` on what they point to) hold its results afterwards; after an error
        they are as they were. Raises CpuExecutionError for what a GPU would punish, ValueError or TypeError for a launch
        that cannot start.
        """
        grid, block = _check_shape(grid, block, shared_bytes)
        with _lock, contextlib.ExitStack() as stack:
            arrays, values = self._bind(args, stack)
            shared = GuardedArray("dynamic shared memory", shared_bytes)
            stack.callback(shared.close)
            launch = self._prepare(grid, block, values, shared)
            if self._entry(ctypes.byref(launch)):
                self._fail(launch, [*arrays.values(), shared])
            for array in [*arrays.values(), shared]:
                if array.damage():
                    raise CpuExecutionError(f"{self.name} ({self.filename}): a thread wrote {array.damage()}")
            for ctype, name in self.params:
                if name in arrays and not _points_to_const(ctype):
                    arrays[name].copy_to(args[name])
                elif name in arrays and not arrays[name].equals(args[name]):
                    raise CpuExecutionError(f"{self.name} ({self.filename}): a thread wrote into argument '{name}', which is const")

    def _bind(self, args, stack):
        """{pointer name: GuardedArray}, [C value of each parameter, in order]."""
        if set(args) != set(self._types):
            raise TypeError(f"{self.name} takes {list(self._types)}; missing {sorted(set(self._types) - set(args))}, "
                            f"unknown {sorted(set(args) - set(self._types))}")
        arrays, values = {}, []
        for name, ctype in self._types.items():
            value = args[name]
            if ctype is not None:
                values.append(_scalar(name, ctype, value))
                continue
            if value is not None:
                arrays[name] = GuardedArray.copy_of(f"argument '{name}'", value)
                stack.callback(arrays[name].close)
            values.append(ctypes.c_void_p(arrays[name].address if value is not None else None))
        return arrays, values

    def _prepare(self, grid, block, values, shared):
        order, threads = _order.get(), math.prod(block)
        pointers = (ctypes.c_void_p * max(len(values), 1))(*[ctypes.addressof(v) for v in values])
        main = threading.current_thread() is threading.main_thread()  # only there does Python expect Ctrl-C
        launch = SpecLaunch(
            grid, block, pointers, shared.address, shared.nbytes,
            _permutation(ctypes.c_longlong, math.prod(grid), *order),
            _permutation(ctypes.c_int, -(-threads // 32), *order), _permutation(ctypes.c_int, 32, *order), main,
            1 + order[1] if order[0] == "interleaved" else 0)
        launch.keep = (values, pointers)  # the structure holds bare addresses
        return launch

    def _fail(self, launch, arrays):
        text = describe(launch, arrays, self)
        raise KeyboardInterrupt(text) if launch.failed_signal == signal.SIGINT else CpuExecutionError(text)


def _argument_type(ctype, name):
    """None for a pointer, else the ctypes type of a scalar."""
    if "*" in ctype:
        return None
    plain = " ".join(w for w in ctype.split() if w not in ("const", "volatile"))
    if plain not in _C_TYPES:
        raise TypeError(f"parameter {name!r}: a pointer or one of {', '.join(_C_TYPES)} is needed, not {ctype!r}")
    return _C_TYPES[plain]


def _points_to_const(ctype):
    return "const" in ctype.split("*")[0].split()


def _scalar(name, ctype, value):
    """`value` as a C scalar; a number the type cannot hold is an error, not a wrapped number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, (int, float)):
        raise TypeError(f"argument {name!r}: a number is needed, not {value!r:.80}")
    if ctype in (ctypes.c_float, ctypes.c_double):
        return ctype(float(value))
    if ctype(int(value)).value != value:
        raise ValueError(f"argument {name!r}: {value} does not fit its C type ({ctypes.sizeof(ctype)} bytes)")
    return ctype(int(value))


def _check_shape(grid, block, shared_bytes):
    """(grid, block) as tuples of three ints; ValueError for what a GPU refuses to launch."""
    grid, block = tuple(map(int, grid)), tuple(map(int, block))
    if len(grid) != 3 or len(block) != 3 or min(grid + block) < 1 or max(grid[1:]) > 65535 or grid[0] >= 2**31:
        raise ValueError(f"grid and block are three sizes of at least 1, not grid {grid}, block {block}")
    if math.prod(block) > MAX_THREADS or block[2] > 64:
        raise ValueError(f"a block has at most {MAX_THREADS} threads (z at most 64), not {block}")
    if not 0 <= shared_bytes <= MAX_SHARED_BYTES:
        raise ValueError(f"shared_bytes: 0 to {MAX_SHARED_BYTES}, not {shared_bytes}")
    return grid, block
