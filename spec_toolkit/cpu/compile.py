"""Kernel text -> shared library, kept in a cache folder under a hash of everything that went into it."""
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from .launch import CpuKernel

HERE = Path(__file__).resolve().parent
HEADER_SUFFIXES = {".h", ".cuh", ".hpp", ".inc", ".inl"}
# -ffp-contract=off: no fused multiply-add that the source does not ask for, on any machine.
# -U_FORTIFY_SOURCE: its longjmp check takes a jump between stacks for an attack.
FLAGS = ["-std=c++17", "-O2", "-g", "-fPIC", "-w", "-fvisibility=hidden", "-fno-strict-aliasing", "-fno-math-errno", "-ffp-contract=off", "-fno-omit-frame-pointer", "-fno-threadsafe-statics", "-U_FORTIFY_SOURCE", "-fno-sanitize-recover=all"]
CHECKS = "alignment,integer-divide-by-zero,shift-exponent"

_ALIGN = r"(?:(?:__align__|alignas)\s*\([^()]*(?:\([^()]*\)[^()]*)*\)\s*)?"
EXTERN_SHARED = re.compile(rf"\bextern\s+{_ALIGN}__shared__\s+{_ALIGN}([\w:<>\s]+?)\s*\b(\w+)\s*\[\s*\]\s*;")
# Standard headers only: those that are always there. (No __has_include: after one, g++ 12 lets a missing header pass.)
SYSTEM_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<([a-z_]+|(?:ctype|errno|inttypes|stddef|stdbool|time)\.h)>", re.MULTILINE)


class CpuCompileError(Exception):
    """The C++ compiler refused a kernel, or there is no C++ compiler."""


def compile_kernel(text, name, filename, params, defines=None, include_dirs=()):
    """Compile the CUDA source `text` for the CPU and return its kernel `name` as a CpuKernel.

    params: [(C type, parameter name), ...] as in the kernel's signature, e.g. ("const ROW*", "target_probs").
    defines: {macro: value}. include_dirs: folders of the headers that `text` includes. filename: what error messages call
    the text. Raises CpuCompileError with the kernel's name and the lines the compiler objects to.
    The library is kept under $SPEC_TOOLKIT_CACHE/cpu, else ~/.cache/spec_toolkit/cpu.
    """
    defines, include_dirs = dict(defines or {}), [Path(d).resolve() for d in include_dirs]
    compiler, version = _compiler(os.environ.get("CXX"))
    headers = [h for folder in include_dirs for h in _headers(folder)]
    source = _wrap(text, name, filename, params, defines, headers)
    key = _hash([source, version, platform.machine(), FLAGS, CHECKS, [str(d) for d in include_dirs]],
                [*headers, *_headers(HERE)])
    library = _cache_dir() / f"{name}-{key}.so"
    if not library.exists():
        _build(compiler, version, source, name, filename, include_dirs, library)
    return CpuKernel(name, filename, [tuple(p) for p in params], library)


def _wrap(text, name, filename, params, defines, headers):
    """The translation unit: standard includes, executor.h, the macros, the text in an unnamed namespace, spec_call().

    The standard includes go first because the text stands inside a namespace; their guards make the second meeting empty.
    The macros come after every header, so that a short name such as V cannot break one.
    """
    quoted = json.dumps(filename, ensure_ascii=False)
    hoisted = sorted({h for t in [text, *map(_read, headers)] for h in SYSTEM_INCLUDE.findall(t)})
    lines = [f"#include <{h}>" for h in hoisted]
    lines += [f'#include "{HERE / "executor.h"}"']
    lines += [f"#define {macro} {value}" for macro, value in sorted(defines.items())]
    values = ", ".join(f"*({ctype.replace('__restrict__', '')}*)args[{i}]" for i, (ctype, _) in enumerate(params))
    lines += ["namespace {", f"#line 1 {quoted}", _rewrite(text), "}", f'#line 1 "the call of {name}"',
              f"static void spec_call(void** args) {{ (void)args; {name}({values}); }}", ""]
    return "\n".join(lines)


def _rewrite(text):
    """`extern __shared__ T a[];` becomes a reference to the launch's dynamic buffer; line numbers stay."""
    def reference(match):
        ctype, array = match[1], match[2]
        return f"static {ctype} *&{array} = *({ctype} **)&spec_dynamic;" + "\n" * match[0].count("\n")
    text = EXTERN_SHARED.sub(reference, text)
    return re.sub(r"\bstatic(\s+)__shared__\b", r"\1__shared__", text)  # the macro says static itself


def _build(compiler, version, source, name, filename, include_dirs, library):
    """Compile and link into a scratch folder beside the library, then rename: a second process never sees half a file."""
    library.parent.mkdir(parents=True, exist_ok=True)
    clang = "clang" in version
    bounds = "array-bounds" if clang else "bounds,bounds-strict"
    # g++ would name executor.h, where the macro that refuses `asm` is written, and not the kernel's line
    extra = [] if clang else ["-ftrack-macro-expansion=0"]
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as scratch:
        unit, built = Path(scratch, "unit.cpp"), Path(scratch, "kernel.so")
        unit.write_text(source)
        includes = [f"-I{d}" for d in (HERE / "include", *include_dirs)]
        compiled = _run([*compiler, *FLAGS, *extra, f"-fsanitize={bounds},{CHECKS}", *includes, "-c", str(unit), "-o", f"{unit}.o"], cwd=scratch)
        # linked apart and without -fsanitize: executor.h is the checks' runtime, so libubsan need not be installed
        result = compiled if compiled.returncode else _run(
            [*compiler, "-shared", f"{unit}.o", "-o", str(built), "-lm", "-ldl", "-lpthread"])
        if result.returncode:
            raise CpuCompileError(_explain(result.stderr, name, filename, scratch))
        os.replace(built, library)


def _explain(stderr, name, filename, scratch):
    """The first few complaints of the compiler, without its chatter about where it is."""
    lines = [line.replace(f"{scratch}/", "") for line in stderr.splitlines()]
    errors = [i for i, line in enumerate(lines) if re.search(r"\berror:|undefined reference", line)] or [0]
    shown = []
    for i in errors[:3]:
        shown += lines[i:i + 3]  # the message, the source line, the caret
    hint = ""
    missing = re.search(r"fatal error: '?([\w./+-]+)'?(?:: No such file| file not found)", stderr)
    if missing:
        hint = (f"\nThe CPU executor has no {missing[1]}: it runs plain CUDA C. Put the include under #ifdef __CUDA_ARCH__ "
                "with a portable path beside it.")
    more = f"\n... and {len(errors) - 3} more errors" if len(errors) > 3 else ""
    return f"kernel {name} ({filename}) does not compile for the CPU:\n" + "\n".join(shown) + more + hint


def _run(command, cwd=None):
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "LC_ALL": "C"})


@cache
def _compiler(cxx):
    """(command words, version line) of $CXX, else g++, else clang++."""
    found = [cxx.split()] if cxx else [[c] for c in ("g++", "clang++") if shutil.which(c)]
    if not found or not shutil.which(found[0][0]):
        raise CpuCompileError("the CPU executor needs a C++ compiler: install g++ (or clang++), or set CXX"
                              + (f"; CXX={cxx} is not a program" if cxx else ""))
    return found[0], " ".join(found[0]) + " " + _run([*found[0], "--version"]).stdout.splitlines()[0]


def _headers(folder):
    return sorted(p for p in Path(folder).rglob("*") if p.suffix in HEADER_SUFFIXES and p.is_file())


def _read(path):
    return path.read_text(errors="replace")


def _hash(parts, files):
    digest = hashlib.sha256(json.dumps(parts, default=str).encode())
    for path in files:
        digest.update(f"\0{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def _cache_dir():
    return Path(os.environ.get("SPEC_TOOLKIT_CACHE") or Path.home() / ".cache" / "spec_toolkit") / "cpu"
