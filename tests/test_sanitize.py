"""sanitize.py with a program that plays compute-sanitizer, and sanitize_target.py on the CPU executor."""
import json
import re
import sys

import pytest
import torch

from spec_toolkit import bench, cli, results, sanitize, sanitize_target
from spec_toolkit.sampler import list_kernels, load_sampler

ENTRY = load_sampler("v3").contract.launches[0].kernel
FOUND = {  # as the tools word it
    "memcheck": "Invalid __global__ read of size 4 bytes\n    at {}+0x160 in v3.cu:24\n    by thread (1,0,0) in block (0,0,0)\n    Address 0x40 is out of bounds",
    "racecheck": "Error: Race reported between Write access at {}+0x70 in v3.cu:10\n    and Read access at {}+0x90 in v3.cu:11 [4 hazards]\n",
    "initcheck": "Uninitialized __global__ memory read of size 4 bytes\n    at load(float*)+0x1 in tile.cuh:3\n        Device Frame: {}+0x88 in v3.cu:9",
    "synccheck": "Barrier error detected. Divergent thread(s) in block.\n    at {}+0x2c8 in v3.cu:30"}
SUMMARY = {tool: "RACECHECK SUMMARY: {0} hazards displayed ({0} errors, 0 warnings)" if tool == "racecheck" else "ERROR SUMMARY: {} errors" for tool in FOUND}
RAN = {"problems": 14, "requests": 90, "exact": 90, "explained": 0, "wrong": []}
FAKE = """#!{python}
import sys
tool = sys.argv[sys.argv.index("--tool") + 1]
names = sys.argv[sys.argv.index("spec_toolkit.sanitize_target") + 2:]
exec(open({script!r}).read())
"""


def said(tool, *entries):
    """The log of a tool that found something at each of these entry functions."""
    lines = ["COMPUTE-SANITIZER", "Warning: nothing to worry about"]
    for entry in entries:
        lines += FOUND[tool].replace("{}", entry).splitlines()
    return "\n".join(f"========= {line}" for line in [*lines, SUMMARY[tool].format(len(entries))])


def control(tool):
    return said(tool, f"control_{tool}")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a GPU called Paper and compute-sanitizer on PATH; gives a function that says what it prints for each tool."""
    monkeypatch.setattr(bench, "gpu_of", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(results, "environment", lambda *_: {"gpu": "NVIDIA Paper", "git": "0" * 40})
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent))

    def prints(logs, ran=RAN, code=0):
        script = tmp_path / "script.py"
        script.write_text(f"import json\nprint('a line of the program')\nprint({sanitize_target.DONE!r} + json.dumps(dict.fromkeys(names, {ran!r})))\n"
                          f"print({logs!r}[tool])\nsys.exit({code})\n")
        program.write_text(FAKE.format(python=sys.executable, script=str(script)))
        program.chmod(0o755)
    return prints


def recorded(tmp_path):
    return json.loads((tmp_path / "results/paper/sanitizers/sanitizers.json").read_text())


def run(tmp_path, *names):
    return cli.main(["sanitize", "--out", str(tmp_path / "results"), *(["--samplers", *names] if names else [])])


def test_clean(machine, tmp_path, capsys):
    machine({tool: control(tool) for tool in FOUND})
    assert run(tmp_path) == 0
    made, printed = recorded(tmp_path), capsys.readouterr().out
    assert made["passed"] and set(made["samplers"]) == set(list_kernels()) and set(made["tools"]) == set(FOUND)
    assert "| v3 | 0 | 0 | 0 | 0 | 14 | 90 of 90 |" in printed and printed.count("| found ") == 4
    assert made["samplers"]["v3"]["source_hash"] == load_sampler("v3").source_hash
    assert sanitize.load(tmp_path / "results") == made and sanitize.load(tmp_path / "nothing") is None
    assert "| v3 (stale) | 0 |" in sanitize.table(made, {name: "other" for name in list_kernels()})


def test_a_run_of_some_rungs_keeps_the_others(machine, tmp_path, capsys):
    machine({tool: said(tool, ENTRY, f"control_{tool}") for tool in FOUND})
    assert run(tmp_path, "v3", "v10") == 1
    machine({tool: control(tool) for tool in FOUND})
    assert run(tmp_path, "v2", "v10") == 0
    made = recorded(tmp_path)
    assert list(made["samplers"]) == ["v2", "v3", "v10"] and not made["passed"], "v3 is still what it was"
    assert made["samplers"]["v3"]["tools"]["memcheck"]["errors"] == 1 and made["samplers"]["v10"]["tools"]["memcheck"]["errors"] == 0
    machine({tool: said(tool) for tool in FOUND})  # blind
    assert run(tmp_path, "v3") == 1 and "is left as it was" in capsys.readouterr().out and recorded(tmp_path) == made
    machine({tool: control(tool) for tool in FOUND})
    assert run(tmp_path, "v3") == 0 and recorded(tmp_path)["passed"]


@pytest.mark.parametrize("tool", FOUND)
def test_a_finding_belongs_to_its_rung(machine, tmp_path, capsys, tool):
    machine({t: said(t, *[ENTRY] * 2 * (t == tool), f"control_{t}") for t in FOUND})
    assert run(tmp_path) == 1
    one, printed = recorded(tmp_path)["samplers"]["v3"]["tools"], capsys.readouterr().out
    assert {t: one[t]["errors"] for t in one} == {t: 2 * (t == tool) for t in FOUND}
    assert f"FAIL v3, {tool}: 2 findings" in printed and FOUND[tool].splitlines()[0].format(ENTRY) in one[tool]["excerpt"]
    assert not recorded(tmp_path)["samplers"]["v4"]["tools"][tool]["errors"]


def test_a_function_of_a_header_belongs_to_the_rung_that_ran(machine, tmp_path, capsys):
    at = [f"{sanitize_target.AT}{name}, Problem(batch=3)\n" for name in ("v3", "v5")]
    found = "".join(f"========= {line}\n" for line in FOUND["racecheck"].replace("{}", "store_to<double>(int, T1 *, T1)").splitlines())
    machine({tool: control(tool) for tool in FOUND} | {"racecheck": at[0] + at[1] + found + control("racecheck").replace("(1 errors", "(2 errors").replace(
        "SUMMARY: 1", "SUMMARY: 2")})
    assert run(tmp_path, "v3", "v5") == 1
    made = recorded(tmp_path)
    assert {name: one["tools"]["racecheck"]["errors"] for name, one in made["samplers"].items()} == {"v3": 0, "v5": 1}
    assert not made["tools"]["racecheck"]["faults"] and "store_to" in capsys.readouterr().out


@pytest.mark.parametrize("what, logs, words", [
    ("blind", {}, "did not find the kernel that it must find"),
    ("elsewhere", {"memcheck": said("memcheck", "control_memcheck", "unheard_of")}, "1 findings belong to no kernel of ours: Invalid __global__ read"),
    ("hidden", {"memcheck": control("memcheck").replace("SUMMARY: 1", "SUMMARY: 7")}, "6 more findings are counted than printed"),
    ("broken", {"memcheck": "========= Internal Sanitizer Error"}, "did not finish (exit 0)")])
def test_a_run_that_says_nothing_fails(machine, tmp_path, capsys, what, logs, words):
    machine({tool: said(tool) if what == "blind" else control(tool) for tool in FOUND} | logs)
    assert run(tmp_path, "v3") == 1
    assert words in capsys.readouterr().out and not recorded(tmp_path)["passed"]


def test_wrong_tokens_fail_and_foreign_kernels_do_not(machine, tmp_path, capsys):
    logs = {tool: said(tool, f"control_{tool}", "void at::native::elementwise_kernel<4>(int)") for tool in FOUND}
    machine(logs)
    assert run(tmp_path, "v3") == 0
    assert {tool: one["foreign"] for tool, one in recorded(tmp_path)["tools"].items()} == dict.fromkeys(FOUND, 1)
    machine(logs, RAN | {"exact": 89, "wrong": ["v3, request 3: token 5, expected 4"]})
    assert run(tmp_path, "v3") == 1 and "FAIL v3: v3, request 3: token 5, expected 4" in capsys.readouterr().out


def test_a_tool_that_hangs_is_stopped(machine, tmp_path, capsys, monkeypatch):
    machine({tool: control(tool) for tool in FOUND})
    (tmp_path / "script.py").write_text(f"import time\nprint({sanitize_target.AT!r} + 'v3, Problem(batch=2)', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setattr(sanitize, "LIMIT_S", 1.5)
    assert run(tmp_path, "v3") == 1 and re.search(r"memcheck: stopped after \d+ s, at v3, Problem\(batch=2\)", capsys.readouterr().out)


def test_where_it_is_looked_for(machine, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sanitize.site, "getsitepackages", lambda: [str(tmp_path / "site")])
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert run(tmp_path) == 1
    assert "compute-sanitizer is not on PATH" in (said := capsys.readouterr().err) and f"{tmp_path}/cuda/bin" in said and "pip install nvidia-cuda-sanitizer-api" in said
    for folder in ("cuda/bin", "site/nvidia/cu13/bin"):  # the second is preferred
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "compute-sanitizer").write_text("#!/bin/sh\n")
        (tmp_path / folder / "compute-sanitizer").chmod(0o755)
        assert sanitize.find_sanitizer() == str(tmp_path / folder / "compute-sanitizer")


def test_without_a_gpu_it_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(tmp_path) == 1 and "times need a CUDA GPU" in capsys.readouterr().err


# ---- what runs below the tools

def test_the_target_reaches_every_rung_and_keeps_addresses():
    kinds = {name: load_sampler(name).input for name in list_kernels()}
    found = sanitize_target.run_all(list_kernels(), "cpu", sanitize_target.PATHS[:4])
    for name, ran in found.items():
        each = 4 + len(sanitize_target.ONLY_LOGITS) * (kinds[name] == "logits")
        assert ran.problems == each * len(sanitize_target.variants(name)) and not ran.wrong and ran.exact + ran.explained == ran.requests > 0
    odd = [p for p in sanitize_target.problems("probs", sanitize_target.PATHS) if p.target.data_ptr() % 16]
    assert len(odd) == 2
    for given in odd:
        there = sanitize_target.moved(given, "cpu")
        assert there.target.stride() == given.target.stride() and there.target.data_ptr() % 16 == given.target.data_ptr() % 16
        assert torch.equal(there.target, given.target) and there.target.data_ptr() != given.target.data_ptr()


def test_the_target_sees_wrong_tokens():
    wrong = load_sampler(source=load_sampler("v1").text.replace("recover_uniform(seed, position, accepted)", "recover_uniform(seed, position, accepted + 1)"))
    given, done = next(sanitize_target.problems("probs")), sanitize_target.Ran()
    sanitize_target.run(wrong, given, given, done)
    assert done.problems == 1 and done.wrong and done.exact < done.requests == sanitize_target.CALLS * given.batch


@pytest.mark.parametrize("tool", sanitize.TOOLS)
def test_the_controls_are_kernels(tool):
    one = load_sampler(source=sanitize_target.CONTROLS[tool])
    assert one.contract.launches[0].kernel == f"control_{tool}"
    pytest.importorskip("cupy")
    assert one.registers(90)[f"control_{tool}"]["registers"] > 0
