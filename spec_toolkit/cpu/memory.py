"""Argument arrays between guards: a copy of a tensor whose last byte touches memory that cannot be accessed."""
import ctypes
import mmap

import torch

PAGE = 64 << 10         # a multiple of the page size of every Linux we run on
GUARD = 16 << 20        # address space only: an access rows past the end still faults, and not in a neighbour
KEPT_BYTES = 256 << 20  # mappings kept for the next launch
ALIGNMENT = 16          # the copy's address equals the tensor's modulo this, so misaligned stays misaligned

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_NORESERVE, _PROT_NONE = 0x4000, 0
_free = {}  # usable bytes -> start addresses of mappings not in use


def _map(usable):
    """Address of `usable` bytes, a multiple of PAGE, with GUARD bytes that fault on either side."""
    if _free.get(usable):
        return _free[usable].pop()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    start = _libc.mmap(None, usable + 2 * GUARD, _PROT_NONE, flags, -1, 0)
    if start in (None, ctypes.c_void_p(-1).value):
        raise MemoryError(f"no address space for {usable} bytes and their guards")
    if _libc.mprotect(start + GUARD, usable, mmap.PROT_READ | mmap.PROT_WRITE):
        raise MemoryError(f"no memory for {usable} bytes")
    return start + GUARD


def _unmap(start, usable):
    if usable + sum(size * len(starts) for size, starts in _free.items()) <= KEPT_BYTES:
        _free.setdefault(usable, []).append(start)
    else:
        _libc.munmap(start - GUARD, usable + 2 * GUARD)


def extent_bytes(tensor):
    """Bytes from the tensor's first element to the end of its last, gaps between rows included."""
    if tensor.numel() == 0:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return (last + 1) * tensor.element_size()


class GuardedArray:
    """`nbytes` bytes at `.address`, ending (but for alignment, under 16 bytes) at a guard; canaries fill the rest."""

    def __init__(self, name, nbytes, remainder=0):
        """remainder: what the address is modulo 16."""
        self.name, self.nbytes = name, nbytes
        self.usable = -(-max(nbytes + ALIGNMENT, 1) // PAGE) * PAGE
        self.start = _map(self.usable)
        self.stop = self.start + self.usable
        self.address = self.stop - nbytes
        self.address -= (self.address - remainder) % ALIGNMENT
        self._zones = [(self.start, self.address), (self.address + nbytes, self.stop)]
        for begin, end in self._zones:
            ctypes.memset(begin, 0xFF, end - begin)

    @classmethod
    def copy_of(cls, name, tensor):
        if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu":
            raise TypeError(f"argument {name!r}: a CPU tensor or None is needed, not {tensor!r:.80}")
        array = cls(name, extent_bytes(tensor), tensor.data_ptr() % ALIGNMENT)
        ctypes.memmove(array.address, tensor.data_ptr(), array.nbytes)
        return array

    def copy_to(self, tensor):
        ctypes.memmove(tensor.data_ptr(), self.address, self.nbytes)

    def equals(self, tensor):
        """Are the bytes still those of the tensor?"""
        return _libc.memcmp(ctypes.c_void_p(self.address), ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(self.nbytes)) == 0

    def damage(self):
        """None, or where a canary byte was overwritten, in words."""
        for begin, end in self._zones:
            now = ctypes.string_at(begin, end - begin)
            rest = now.lstrip(b"\xff")  # from the first damaged byte on
            if rest:
                return self.locate(end - len(rest))
        return None

    def covers(self, address):
        return self.start - GUARD <= address < self.stop + GUARD

    def locate(self, address):
        """'12 bytes past the end of argument 'x' (400 bytes)'; the byte after the last is 0 bytes past."""
        what = f"{self.name} ({self.nbytes} bytes)"
        if address < self.address:
            return f"{self.address - address} bytes before the start of {what}"
        return f"{address - self.address - self.nbytes} bytes past the end of {what}"

    def close(self):
        if self.start:
            _unmap(self.start, self.usable)
            self.start = None
