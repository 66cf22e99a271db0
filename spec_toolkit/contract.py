"""What a kernel file says about itself: its C signature, and the TOML block at the end of its header comment.

    grid    = "ceil_div(batch, BLOCK)"     or a list of up to three; likewise block
    block   = "BLOCK"
    shared  = "16 * K"                     bytes of dynamic shared memory (default 0)
    cluster = "parts"                      blocks (along x) of a thread block cluster (default 1; at most max_cluster)
    draw    = "cdf" | "race" | "propose"   how the last token is drawn (reference.py)
    input   = "probs" | "logits"           the kind of problem it takes (default probs)
    ulps    = 8                            rounding that `check` allows in a draw, in units of 2^-24 (intervals.py)
    bytes   = "(batch + rejected) * vocab * itemsize"    predicted bytes of the rows read
    tune    = { BLOCK = 128 }              integer macros, with their defaults; load_sampler("v1", BLOCK=64) changes one
    values  = { tiles = "ceil_div(vocab, TILE)" }        further integers, usable as arguments and in expressions
    scratch = { tile_sum = "batch * tiles" }             arrays the kernels share, in elements; zero at the first call
    [[launch]]                             only for several launches: kernel, grid, block, shared, cluster of each, in order

Expressions know batch, vocab, num_draft, max_draft, itemsize, sm_count, max_cluster (16 from Hopper on, else 1), together (how
many blocks may wait for each other, in a loop with __nanosleep: 8 on the CPU executor), shared_bytes (the shared memory that a
block may have), rejected (in `bytes` only), the tune macros and the values before them; + - * // % and ceil_div, min, max. They are evaluated by `evaluate`, never by `eval`.
"""
from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from operator import add, floordiv, mod, mul, sub

DRAWS, INPUTS = ("cdf", "race", "propose"), ("probs", "logits")
KEYS = {"grid": (str, int, list), "block": (str, int, list), "shared": (str, int), "cluster": (str, int), "draw": str, "input": str, "ulps": (int, float),
        "bytes": (str, int), "tune": dict, "values": dict, "scratch": dict, "launch": list}
LAUNCH_KEYS = {"kernel": str, **{key: KEYS[key] for key in ("grid", "block", "shared", "cluster")}}
SYMBOLS = ("batch", "vocab", "num_draft", "max_draft", "itemsize", "sm_count", "max_cluster", "together", "shared_bytes")
_OPERATORS = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.FloorDiv: floordiv, ast.Mod: mod}
_FUNCTIONS = {"ceil_div": lambda a, b: -(-a // b), "min": min, "max": max}
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)')


class ContractError(ValueError):
    """A kernel file's contract or signature cannot be used; the message says where and what is accepted."""


@dataclass(frozen=True)
class Launch:
    """One kernel of the file. parameters: ((C type, name), ...) in order."""
    kernel: str
    parameters: tuple
    grid: tuple
    block: tuple
    shared: str
    cluster: str


@dataclass(frozen=True)
class Contract:
    """Everything that is known of a kernel file without compiling it."""
    filename: str
    launches: tuple
    draw: str
    input: str
    ulps: float
    bytes: str
    tune: dict
    values: dict
    scratch: dict
    notes: str     # the header comment without the contract

    def resolve(self, symbols: dict) -> dict:
        """symbols + the `values`, evaluated in order."""
        known = dict(symbols)
        for name, expression in self.values.items():
            known[name] = self.number(expression, known)
        return known

    def number(self, expression, symbols: dict) -> int:
        """`evaluate`, with the file in its error."""
        try:
            return evaluate(expression, symbols)
        except ContractError as error:
            raise ContractError(f"{self.filename}: {error}") from None


def parse(text: str, filename: str, tune: dict) -> Contract:
    """The Contract of a kernel's text, with `tune` over its defaults. Raises ContractError."""
    comment = re.search(r"/\*(.*?)\*/", text, re.DOTALL)
    notes, mark, block = comment[1].partition("--- contract ---") if comment else ("", "", "")
    if not mark:
        raise ContractError(f"{filename}: no contract: the first comment /* ... */ must end with '--- contract ---' and a TOML block")
    try:
        data = tomllib.loads(block)
    except tomllib.TOMLDecodeError as error:
        raise ContractError(f"{filename}: the contract is not TOML: {error}") from None
    _typed(filename, "key", data, KEYS)
    defaults = data.get("tune", {})
    _known(filename, "tune parameter", tune, defaults)
    for name, value in (defaults | tune).items():
        if type(value) is not int:
            raise ContractError(f"{filename}: tune parameter {name}: got {value!r}, accepted: an integer")
    draw, kind = data.get("draw"), data.get("input", "probs")
    if draw not in DRAWS or kind not in INPUTS:
        raise ContractError(f"{filename}: draw = {draw!r}, input = {kind!r}; accepted: draw of {DRAWS}, input of {INPUTS}")
    return Contract(filename, _launches(text, filename, data), draw, kind, float(data.get("ulps", 1)), data.get("bytes", "0"),
                    defaults | tune, data.get("values", {}), data.get("scratch", {}), notes.strip())


def evaluate(expression, symbols: dict) -> int:
    """The integer value of an expression string (or an int). Raises ContractError naming what it cannot use."""
    def value(node):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name) and node.id in symbols:
            return symbols[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords:
            return _FUNCTIONS[node.func.id](*map(value, node.args))
        raise ContractError(f"expression {expression!r}: {ast.unparse(node)!r} is not accepted; names: {', '.join(symbols)}; "
                            f"operators + - * // %; functions {', '.join(_FUNCTIONS)}")
    try:
        return int(value(ast.parse(str(expression), mode="eval").body))
    except (SyntaxError, ZeroDivisionError, TypeError, RecursionError) as error:
        raise ContractError(f"expression {expression!r}: {error}") from None


def _launches(text, filename, data):
    signatures = dict(_ENTRY.findall(_blank_comments(text)))
    if not signatures:
        raise ContractError(f'{filename}: no kernel found; its entry must read: extern "C" __global__ void name(...)')
    listed = data.get("launch", [{"kernel": next(iter(signatures)), **{k: data[k] for k in ("grid", "block", "shared", "cluster") if k in data}}])
    found = []
    if not listed or not all(isinstance(entry, dict) for entry in listed):
        raise ContractError(f"{filename}: launch: got {listed!r}, accepted: [[launch]] tables, one or more, or no such key")
    for entry in listed:
        _typed(filename, "key of [[launch]]", entry, LAUNCH_KEYS)
        name = entry.get("kernel", "")
        if name not in signatures:
            raise ContractError(f"{filename}: launch of kernel {name!r}; found in the file: {', '.join(signatures)}")
        if missing := [key for key in ("grid", "block") if key not in entry]:
            raise ContractError(f"{filename}: the launch of {name} lacks {' and '.join(missing)}")
        found.append(Launch(name, _parameters(filename, name, signatures[name]), *(_three(filename, key, entry[key]) for key in ("grid", "block")),
                            str(entry.get("shared", "0")), str(entry.get("cluster", "1"))))
    return tuple(found)


def _parameters(filename, kernel, signature):
    found = []
    for piece in filter(None, (part.strip() for part in signature.split(","))):
        plain = " ".join(word for word in re.sub(r"\b__restrict__\b|\b__grid_constant__\b", "", piece).replace("*", " * ").split())
        match = re.fullmatch(r"(.*?)\s*\b(\w+)", plain)
        if not match or not match[1]:
            raise ContractError(f"{filename}: {kernel}: cannot read parameter {piece!r}; accepted: 'type name'")
        found.append((match[1].replace(" *", "*"), match[2]))
    return tuple(found)


def _blank_comments(text):
    return _COMMENT.sub(lambda match: "\n" * match[0].count("\n"), text)


def _three(filename, key, given):
    sizes = given if isinstance(given, list) else [given]
    if not 1 <= len(sizes) <= 3:
        raise ContractError(f"{filename}: {key} = {given!r}: got {len(sizes)} sizes, accepted: one to three")
    return tuple(map(str, [*sizes, 1, 1][:3]))


def _typed(filename, what, given, types):
    _known(filename, what, given, types)
    for name, value in given.items():
        if not isinstance(value, types[name]) or isinstance(value, bool):
            accepted = types[name] if isinstance(types[name], tuple) else (types[name],)
            raise ContractError(f"{filename}: {what} {name}: got {value!r}, accepted: {' or '.join(t.__name__ for t in accepted)}")


def _known(filename, what, given, accepted):
    for name in given:
        if name not in accepted:
            raise ContractError(f"{filename}: unknown {what} {name!r}; accepted: {', '.join(sorted(accepted)) or 'none'}")
