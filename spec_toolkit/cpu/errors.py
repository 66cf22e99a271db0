"""What went wrong in a kernel, in words: which argument, which thread, which line."""
import os
import shutil
import signal
import subprocess

_WORDS = {signal.SIGSEGV: "memory fault", signal.SIGBUS: "memory fault", signal.SIGFPE: "integer division by zero",
          signal.SIGILL: "illegal instruction", signal.SIGABRT: "abort", signal.SIGINT: "interrupted"}


class CpuExecutionError(Exception):
    """A kernel did on the CPU what a GPU would punish: names kernel, block, thread, and the line when it is known."""


def describe(launch, arrays, kernel):
    """The message for a failed SpecLaunch. arrays: the launch's GuardedArrays, to say whose guard was hit."""
    what = _fault(launch, arrays) if launch.failed_signal else launch.message.decode(errors="replace")
    place = source_line(kernel.library, launch.pc)
    if not place and launch.line:
        place = f"{launch.file.decode(errors='replace')}:{launch.line}"
    at = f" at {place}" if place else ""
    return (f"{kernel.name} ({kernel.filename}): {what}{at}, in block {tuple(launch.failed_block)}, "
            f"thread {tuple(launch.failed_thread)}")


def _fault(launch, arrays):
    number, address = signal.Signals(launch.failed_signal), launch.address
    if number not in (signal.SIGSEGV, signal.SIGBUS):
        return _WORDS[number]
    if launch.stack_overflow:
        return "stack overflow: a thread's local variables take more than 512 KiB"
    access = {0: "read", 1: "write"}.get(launch.is_write, "access")
    # guards of two arguments never overlap, so the first that covers the address is the one
    owner = next((a for a in arrays if a.covers(address)), None)
    if owner:
        return f"out-of-bounds {access} {owner.locate(address)}"
    if address < 1 << 16:
        nulls = " (an argument given as None is one)"
        return f"{access} through a null pointer, address {address:#x}{nulls}"
    return f"out-of-bounds {access} at address {address:#x}, far from every argument"


def source_line(library, pc):
    """'kernel.cu:12' for an offset in the library, through addr2line; '' when it or the line is not to be had.

    Inlined calls come innermost first: the first frame outside the executor's own headers is the kernel's.
    """
    tool = shutil.which("addr2line") or shutil.which("llvm-addr2line")
    if not tool or not pc:
        return ""
    result = subprocess.run([tool, "-i", "-e", str(library), hex(pc)], capture_output=True, text=True)
    own = os.path.dirname(os.path.abspath(__file__))
    for frame in result.stdout.splitlines():
        path, _, line = frame.split(" ")[0].rpartition(":")
        if line.isdigit() and int(line) and not path.startswith(own + os.sep):
            return f"{os.path.basename(path)}:{line}"
    return ""
