"""Runs CUDA C kernels on a CPU: the same source, compiled by the machine's C++ compiler against executor.h.

It checks logic and can be stepped through in a debugger; it says nothing about speed. It catches what a GPU punishes:
accesses outside an argument or a shared array, divergent barriers, shuffles that name a returned lane, misaligned vector
accesses. It refuses inline PTX and cooperative groups. Linux, x86-64 or arm64, g++ or clang++.

Blocks run one after the other. Those that wait for each other in a loop with __nanosleep take turns, up to 256 that have started
and not ended; what no block will ever do is an error. (A loop without __nanosleep waits for good: Ctrl-C names its line.) With
fibre_order("interleaved") all take turns, at barriers and atomics, at random.

    kernel = compile_kernel(text, "scale", "scale.cu", [("const float*", "x"), ("float*", "out"), ("int", "n")], {}, [])
    kernel.launch((1, 1, 1), (256, 1, 1), {"x": x, "out": out, "n": 100})
"""
from .compile import CpuCompileError, compile_kernel
from .launch import MAX_SHARED_BYTES, CpuExecutionError, CpuKernel, fibre_order

__all__ = ["MAX_SHARED_BYTES", "CpuCompileError", "CpuExecutionError", "CpuKernel", "compile_kernel", "fibre_order"]
