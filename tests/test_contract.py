"""A kernel file's contract: what is read from it, and that an error names the file, what was given and what is accepted."""
import ast

import pytest

from spec_toolkit import contract
from spec_toolkit.contract import ContractError, evaluate, parse

GRID = 'grid = "ceil_div(batch, BLOCK)"\nblock = "BLOCK"\n'
PLAIN = GRID + 'draw = "cdf"\ntune = { BLOCK = 32 }'
KERNEL = 'extern "C" __global__ void k(const float* target_probs, int batch) {}'


def text(toml=PLAIN, kernel=KERNEL, notes="K - a test\nIdea  none"):
    return f"/*\n{notes}\n--- contract ---\n{toml}\n*/\n{kernel}\n"


def read(toml=PLAIN, kernel=KERNEL, **tune):
    return parse(text(toml, kernel), "k.cu", tune)


def refused(toml=PLAIN, kernel=KERNEL, **tune):
    with pytest.raises(ContractError) as caught:
        read(toml, kernel, **tune)
    assert str(caught.value).startswith("k.cu: ")
    return str(caught.value)


# ---- reading

def test_defaults_and_notes():
    found = read()
    assert found.notes == "K - a test\nIdea  none" and (found.draw, found.input, found.ulps, found.bytes) == ("cdf", "probs", 1.0, "0")
    assert found.tune == {"BLOCK": 32} and not found.values and not found.scratch
    (launch,) = found.launches
    assert (launch.kernel, launch.grid, launch.block, launch.shared) == ("k", ("ceil_div(batch, BLOCK)", "1", "1"), ("BLOCK", "1", "1"), "0")


def test_every_key_is_read():
    found = read('grid = ["batch", 2]\nblock = [32, "2", 1]\nshared = "4 * vocab"\ndraw = "race"\ninput = "logits"\nulps = 8\n'
                 'bytes = "vocab"\ntune = { A = 1, B = 2 }\nvalues = { n = "A + 1" }\nscratch = { s = "n * batch" }', A=5)
    assert (found.draw, found.input, found.ulps, found.bytes) == ("race", "logits", 8.0, "vocab")
    assert (found.tune, found.values, found.scratch) == ({"A": 5, "B": 2}, {"n": "A + 1"}, {"s": "n * batch"})
    assert (found.launches[0].grid, found.launches[0].block, found.launches[0].shared) == (("batch", "2", "1"), ("32", "2", "1"), "4 * vocab")


def test_parameters_are_read_through_comments_qualifiers_and_lines():
    (launch,) = read(kernel="""
// extern "C" __global__ void gone(int a) {}
/* extern "C" __global__ void gone_too(int a) {} */
extern "C" __global__ void __launch_bounds__(BLOCK * 2) k(
    const ROW * __restrict__ target_probs, /* int hidden, */ const  unsigned long long *seeds,  // the seeds
    const __grid_constant__ int vocab, unsigned int batch, float*__restrict__ out) {}""").launches
    assert launch.kernel == "k" and launch.parameters == (
        ("const ROW*", "target_probs"), ("const unsigned long long*", "seeds"), ("const int", "vocab"), ("unsigned int", "batch"), ("float*", "out"))


def test_a_kernel_without_parameters():
    assert read(kernel='extern "C" __global__ void k() {}').launches[0].parameters == ()


TWO = '\nextern "C" __global__ void a(int batch) {}\nextern "C" __global__ void b(int vocab, float* s) {}'
LAUNCHES = 'draw = "cdf"\nscratch = { s = "2" }\n[[launch]]\nkernel = "%s"\ngrid = "batch"\nblock = 32\nshared = "8"\n[[launch]]\nkernel = "%s"\ngrid = 1\nblock = "7"\n'


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a"), ("b", "b")])
def test_several_launches_keep_their_order(order):
    first, second = read(LAUNCHES % order, TWO).launches
    assert (first.kernel, second.kernel) == order and (first.grid[0], second.grid[0], second.block[0]) == ("batch", "1", "7")
    assert (first.shared, second.shared) == ("8", "0")
    names = {"a": ("batch",), "b": ("vocab", "s")}
    assert [tuple(name for _, name in launch.parameters) for launch in (first, second)] == [names[kernel] for kernel in order]


def test_values_are_resolved_in_order():
    found = read(PLAIN + '\nvalues = { tiles = "ceil_div(vocab, BLOCK)", cells = "tiles * batch" }')
    given = {"vocab": 65, "batch": 3, "BLOCK": 32}
    assert found.resolve(given) == {**given, "tiles": 3, "cells": 9} and given == {"vocab": 65, "batch": 3, "BLOCK": 32}
    backwards = read(PLAIN + '\nvalues = { cells = "tiles * batch", tiles = "2" }')
    with pytest.raises(ContractError, match=r"k\.cu: expression 'tiles \* batch': 'tiles' is not accepted; names: vocab, batch, BLOCK;"):
        backwards.resolve(given)


def test_a_number_out_of_the_contract_names_the_file():
    with pytest.raises(ContractError, match=r"k\.cu: expression 'btach': 'btach' is not accepted; names: batch"):
        read().number("btach", {"batch": 1})
    assert read().number("batch + 1", {"batch": 1}) == 2


# ---- refusing

@pytest.mark.parametrize("source", ["", KERNEL, "// --- contract ---\n" + KERNEL, "/* a */ /* --- contract ---\n" + PLAIN + " */" + KERNEL])
def test_no_contract(source):
    with pytest.raises(ContractError, match=r"k\.cu: no contract: the first comment .* must end with '--- contract ---'"):
        parse(source, "k.cu", {})


@pytest.mark.parametrize("toml, words", [
    ("grid = ", "the contract is not TOML: "),
    (PLAIN + "\nwarps = 3", "unknown key 'warps'; accepted: block, bytes, cluster, draw, grid, input, launch, scratch, shared, tune, ulps, values"),
    (GRID + "tune = { BLOCK = 32 }", "draw = None, input = 'probs'; accepted: draw of ('cdf', 'race', 'propose')"),
    (GRID + 'draw = "gumbel"', "draw = 'gumbel'"),
    (PLAIN + '\ninput = "tokens"', "input = 'tokens'; accepted: draw of ('cdf', 'race', 'propose'), input of ('probs', 'logits')"),
    (GRID + 'draw = "cdf"\ntune = { BLOCK = 1.5 }', "tune parameter BLOCK: got 1.5, accepted: an integer"),
    (GRID + 'draw = "cdf"\ntune = 3', "key tune: got 3, accepted: dict"),
    (PLAIN + '\nvalues = ["n"]', "key values: got ['n'], accepted: dict"),
    (PLAIN + '\nscratch = "n"', "key scratch: got 'n', accepted: dict"),
    (PLAIN + '\nulps = "few"', "key ulps: got 'few', accepted: int or float"),
    (PLAIN + "\nulps = true", "key ulps: got True"),
    ('block = "1"\ndraw = "cdf"', "the launch of k lacks grid"),
    ('draw = "cdf"', "the launch of k lacks grid and block"),
    ('grid = ["1", "1", "1", "1"]\nblock = "1"\ndraw = "cdf"', "grid = ['1', '1', '1', '1']: got 4 sizes, accepted: one to three"),
    ('grid = "1"\nblock = []\ndraw = "cdf"', "block = []: got 0 sizes, accepted: one to three"),
    ("grid = 1.5\nblock = 1\ndraw = 'cdf'", "key grid: got 1.5, accepted: str or int or list"),
    ('draw = "cdf"\nlaunch = []', "launch: got [], accepted: [[launch]] tables"),
    ('draw = "cdf"\nlaunch = ["k"]', "launch: got ['k'], accepted: [[launch]] tables"),
    ('draw = "cdf"\n[[launch]]\ngrid = 1\nblock = 1', "launch of kernel ''; found in the file: k"),
    ('draw = "cdf"\n[[launch]]\nkernel = "kk"\ngrid = 1\nblock = 1', "launch of kernel 'kk'; found in the file: k"),
    ('draw = "cdf"\n[[launch]]\nkernel = "k"\ngrid = 1\nblock = 1\nshred = 4', "unknown key of [[launch]] 'shred'; accepted: block, cluster, grid, kernel, shared"),
    ('draw = "cdf"\n[[launch]]\nkernel = "k"\ngrid = 1', "the launch of k lacks block"),
])
def test_a_contract_that_cannot_be_used(toml, words):
    assert words in refused(toml)


@pytest.mark.parametrize("kernel", ["", "__global__ void k(int batch) {}", 'extern "C" void k(int batch) {}', '// extern "C" __global__ void k() {}'])
def test_no_kernel(kernel):
    assert 'no kernel found; its entry must read: extern "C" __global__ void name(...)' in refused(kernel=kernel)


def test_an_unreadable_parameter():
    assert "k: cannot read parameter 'int'; accepted: 'type name'" in refused(kernel='extern "C" __global__ void k(int) {}')


def test_tune_parameters():
    assert read(BLOCK=64).tune == {"BLOCK": 64}
    assert "unknown tune parameter 'BLOKC'; accepted: BLOCK" in refused(BLOKC=64)
    assert "unknown tune parameter 'BLOCK'; accepted: none" in refused('grid = 1\nblock = 1\ndraw = "cdf"', BLOCK=64)
    for wrong in ("64", 64.0, True, None):
        assert f"tune parameter BLOCK: got {wrong!r}, accepted: an integer" in refused(BLOCK=wrong)


# ---- the evaluator

KNOWN = {"batch": 7, "vocab": 32000, "BLOCK": 32}


@pytest.mark.parametrize("expression, value", [
    ("batch", 7), (12, 12), ("2 + 3 * 4 - 1", 13), ("vocab // BLOCK % 7", 1000 % 7), ("ceil_div(batch, BLOCK)", 1), ("ceil_div(64, BLOCK)", 2),
    ("ceil_div(65, BLOCK)", 3), ("ceil_div(0, BLOCK)", 0), ("min(batch, BLOCK, 3)", 3), ("max(batch, BLOCK)", 32), ("(batch + 1)\t", 8),
    ("batch * 1000000000000", 7_000_000_000_000), ("0 - batch", -7)])
def test_accepted(expression, value):
    assert evaluate(expression, KNOWN) == value


@pytest.mark.parametrize("expression", [
    "nothing", "__import__('os').system('true')", "open('/etc/passwd')", "().__class__", "batch.real", "(lambda: 1)()", "[batch][0]", "{1: 2}[1]",
    "batch ** 2", "vocab / 2", "-batch", "not batch", "batch < 3", "batch and 3", "1 if batch else 2", "1.5", "True", "None", "'a'", "f'{batch}'",
    "max(*batch)", "max(1, key=batch)", "abs(1)", "batch(1)", "(n := 3)", "[i for i in batch]", "batch << 2", "batch | 1", "sum(1, 2)"])
def test_not_accepted(expression):
    with pytest.raises(ContractError) as caught:
        evaluate(expression, KNOWN)
    said = str(caught.value)
    assert f"expression {expression!r}" in said and "is not accepted; names: batch, vocab, BLOCK; operators + - * // %; functions ceil_div, min, max" in said


@pytest.mark.parametrize("expression", ["", "batch +", "batch; batch", "import os", "batch = 3", "batch // 0", "batch % (vocab - vocab)",
                                        "ceil_div(1, 0)", "ceil_div(1)", "min()", "min(batch)", "1" + " + 1" * 20000, "9" * 5000])
def test_not_computable(expression):
    with pytest.raises(ContractError, match="^expression "):
        evaluate(expression, KNOWN)


def test_nothing_is_ever_executed(tmp_path):
    """Neither loading nor evaluating runs text from a kernel file: no call that could, and no trace of an attempt."""
    trace = tmp_path / "trace"
    attempt = f"open({str(trace)!r}, 'w').write('x')"
    found = read(f'grid = "{attempt}"\nblock = 1\ndraw = "cdf"\nbytes = "{attempt}"\nvalues = {{ a = "{attempt}" }}')
    for run in (lambda: found.resolve(KNOWN), lambda: found.number(found.bytes, KNOWN), lambda: evaluate(found.launches[0].grid[0], KNOWN)):
        with pytest.raises(ContractError):
            run()
    assert not trace.exists()
    with open(contract.__file__) as source:
        called = {node.func.id for node in ast.walk(ast.parse(source.read())) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "evaluate" in called and not called & {"eval", "exec", "compile", "__import__"}
