"""The mutants apply, compile and are refused: here each on one rung, until the first part of the report that refuses it."""
import re

import pytest
import torch

from spec_toolkit import load_sampler, make_problem, mutant_findings, mutant_kernels, mutants
from spec_toolkit.defects import MUTANTS, Mutant
from spec_toolkit.mutant_findings import PARTS, findings
from spec_toolkit.mutant_kernels import applies_to, flatten, is_idle, load_mutant, rung_text
from spec_toolkit.mutants import judged, kill, table
from spec_toolkit.sampler import list_kernels

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
RUNGS = {mutant.name: applies_to(mutant) for mutant in MUTANTS}
# Rungs from probabilities with the fewest threads: a process is quick to run them.
EASY = ("v1", "v2", "v5", "v6", "v3", "v4")


def test_there_are_enough_and_each_is_found_somewhere():
    assert len(MUTANTS) >= 20 and len(BY_NAME) == len(MUTANTS)
    assert not [name for name, rungs in RUNGS.items() if not rungs], "an anchor is in no rung any more"
    assert {rung for rungs in RUNGS.values() for rung in rungs} == {*list_kernels()}, "a rung without mutants"


@pytest.mark.parametrize("rung", list_kernels())
def test_each_rung_has_a_score_of_mutants(rung):
    assert sum(rung in rungs for rungs in RUNGS.values()) >= 20


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_anchor_is_in_use(mutant):
    """Every alternative of a mutant that has several changes some rung."""
    texts = [rung_text(name) for name in list_kernels()]
    for anchor, _ in mutant.patches:
        assert any(re.search(anchor, text) for text in texts), anchor


def test_flattened_text_is_the_rung():
    problem = make_problem(5, [2, 0, 1, 3, 2], 700, seed=2)
    for name in ("v2", "v5"):
        text = rung_text(name)
        assert not re.search(r'#\s*include\s*"', text) and "#pragma once" not in text
        assert all(torch.equal(a, b) for a, b in zip(load_sampler(source=text)(problem), load_sampler(name)(problem)))


def test_flatten_puts_a_header_in_once_and_leaves_others(tmp_path):
    (tmp_path / "a.cuh").write_text('#pragma once\n#include "b.cuh"\nint a;\n')
    (tmp_path / "b.cuh").write_text("int b;\n")
    text = flatten('#include <cuda_fp16.h>\n#include "a.cuh"\n#include "b.cuh"\n#include "none.cuh"\n', tmp_path)
    assert text.count("int b;") == 1 and "<cuda_fp16.h>" in text and '"none.cuh"' in text and text.index("int b;") < text.index("int a;")


def test_every_mutant_is_refused_on_a_rung():
    pairs = [(mutant, next(name for name in (*EASY, *RUNGS[mutant.name]) if name in RUNGS[mutant.name])) for mutant in MUTANTS]
    found = judged(pairs, say=lambda text: None, jobs=2, first=True)
    assert [entry["mutant"] for entry in found] == [mutant.name for mutant in MUTANTS]
    assert not [f"{entry['mutant']} ({entry['rung']})" for entry in found if entry["idle"] or not entry["caught_by"]]


def test_no_rung_is_refused_by_the_same_search(monkeypatch):
    """What refuses the mutants lets the rung itself pass, with a patch that changes what runs but not what it does."""
    same = Mutant("nothing", "tests the other way round", ((r"return x > 0\.0f && x < CUDART_INF_F;", "return !(x <= 0.0f) && x == x && x != CUDART_INF_F;"),))
    for rung in ("v1", "v2"):
        assert not findings(same, rung)


def test_code_that_a_rung_does_not_run_is_idle():
    unused = Mutant("unused", "a stream nobody draws from", ((r"STREAM_SYNTHETIC \}", "STREAM_SYNTHETIC = 77 }"),))
    half = Mutant("half", "matters to half precision only", ((r"out\.total \+= weight;", "out.total = to_float(ROW((float)out.total + weight));"),))
    assert is_idle(unused, "v1") and findings(unused, "v1") is None
    assert not is_idle(half, "v1") and not is_idle(BY_NAME["no residual"], "v2")
    launch = Mutant("launch", "another block", ((r"tune  = \{ BLOCK = 32 \}", "tune  = { BLOCK = 64 }"),))
    assert not is_idle(launch, "v1"), "the contract is part of what runs"
    (found,) = judged([(unused, "v1")], say=lambda text: None)
    assert found["idle"] and found["caught_by"] == [] and mutants.running([found]) == []


def test_what_is_held_is_not_run_again(monkeypatch):
    runs = []
    monkeypatch.setattr(mutants, "judged", lambda pairs, *words, **more: runs.append(len(pairs)) or [
        {"mutant": mutant.name, "rung": rung, "source": mutant_kernels.mark(mutant, rung), "idle": False, "caught_by": ["law"]}
        for mutant, rung in pairs])
    first = kill(MUTANTS[:3], ["v1", "v2"])
    assert kill(MUTANTS[:4], ["v1", "v2"], held=first)[:6] == first and runs == [6, 2]
    for other in ({"source": "another"}, {"caught_by": []}):  # the rung is another one, or the mutant was missed
        kill(MUTANTS[:3], ["v1", "v2"], held=[entry | other for entry in first])
        assert runs[-1] == 6


def test_where_a_mutant_does_not_apply():
    with pytest.raises(ValueError, match="race noise clamped: no anchor in v1, accepted: v2"):
        load_mutant(BY_NAME["race noise clamped"], "v1")
    assert load_mutant(BY_NAME["no residual"], "v1").name == "v1: no residual"


def test_one_that_does_not_compile_is_no_catch():
    broken = Mutant("broken", "not C", ((r"// Bits of status\.", "this is not C;"),))
    with pytest.raises(Exception, match="broken|error"):
        findings(broken, "v1")
    with pytest.raises(RuntimeError, match=r"broken \(v1\)"):
        judged([(broken, "v1")], say=lambda text: None)


def test_one_that_kills_its_process_or_never_ends_is_caught(monkeypatch):
    fatal = Mutant("fatal", "traps", ((r"\nextern \"C\" __global__", '\nextern "C" void _exit(int);\nextern "C" __global__'),
                                      (r"    int accepted = 0, bits = 0;", "    int accepted = 0, bits = 0; _exit(7);")))
    (found,) = kill([fatal], ["v1"], say=lambda text: None)
    assert found["caught_by"] == ["poison"] and "exit code 7" in found["findings"]["poison"]
    endless = Mutant("endless", "loops", ((r"    int accepted = 0, bits = 0;", "    int accepted = 0, bits = 0; for (volatile int x = 1; x;) {}"),))
    monkeypatch.setattr(mutant_findings, "TIMEOUT_S", 8)
    (found,) = kill([endless], ["v1"], say=lambda text: None)
    assert found["findings"] == {"poison": "no answer within 8 s"}


def test_table_and_command(tmp_path, capsys, monkeypatch):
    entry = {"what": "w", "findings": {}, "source": "s", "idle": False}
    found = [{"mutant": "a", "rung": "v1", "caught_by": ["tokens", "law"], **entry}, {"mutant": "a", "rung": "v2", "caught_by": ["law"], **entry},
             {"mutant": "b", "rung": "v1", "caught_by": [], **entry}, {"mutant": "c", "rung": "v1", "caught_by": [], **entry, "idle": True}]
    lines = table(found).splitlines()
    assert lines[0] == "| mutant | tokens | law | edges | poison | missed |" and len({line.count("|") for line in lines}) == 1
    assert len(lines) == 4 and "v1 v2" in lines[2] and lines[3].rstrip(" |").endswith("v1")
    monkeypatch.setattr(mutants, "kill", lambda *a, **k: found)
    assert mutants.main(["--out", str(tmp_path)]) == 1, "one was missed"
    assert "2 mutants on 2 rungs: 2 of 3 refused (1 times the rung does not run what is patched)" in capsys.readouterr().out
    assert (tmp_path / "mutants.md").read_text() == table(found) and '"refused": 2' in (tmp_path / "mutants.json").read_text()
    monkeypatch.setattr(mutants, "kill", lambda *a, **k: found[:2])
    assert mutants.main([]) == 0


def test_parts_are_those_of_the_report():
    from spec_toolkit import examine
    assert tuple(part.name for part in examine(load_sampler("v1"), "few", device="cpu").parts) == PARTS


