"""docs/exactness.md names what there is: its cases, laws, mutants and tests exist, and its tables are what the records say."""
import json
import re
from pathlib import Path

import pytest

from spec_toolkit import exactness, suite
from spec_toolkit.defects import MUTANTS
from spec_toolkit.examine import laws
from spec_toolkit.readme import names

PAGE = exactness.PAGE.read_text()
NAMED = re.findall(r"\b(case|law|mutant|test) `([^`]+)`", PAGE)
THERE = {"case": {case.name for kind in ("probs", "logits") for case in suite.listed("thorough", kind)}, "law": {*laws("thorough")},
         "mutant": {mutant.name for mutant in MUTANTS}}


@pytest.mark.parametrize("what, name", NAMED, ids=[" ".join(pair) for pair in NAMED])
def test_what_the_page_names_is_there(what, name):
    if what == "test":
        file, function = name.split("::")
        assert f"\ndef {function}(" in (Path(__file__).parent / file).read_text()
    else:
        assert name in THERE[what]


def test_every_pitfall_has_a_row():
    rows = dict(re.findall(r"^\| (\d+) \| .*? \| (.*) \|$", PAGE, re.MULTILINE))
    assert [*rows] == [str(number) for number in range(1, 18)]
    assert all(re.search(r"(case|law|mutant|test) `", text) or text.startswith("does not apply: ") for text in rows.values())


def test_the_page_is_what_the_records_say():
    assert exactness.main(["--check"]) == 0, "python -m spec_toolkit.exactness"
    assert names(PAGE) == [*exactness.BLOCKS]


def test_blocks_without_records_say_so(tmp_path):
    assert all(("recorded" in make(tmp_path)) for make in exactness.BLOCKS.values())


def test_blocks_of_made_up_records(tmp_path):
    environment = {"gpu": "Paper", "git": "0123456789"}
    entry = {"mutant": "m", "what": "w", "rung": "v1", "source": "s", "complete": True, "findings": {}}
    law = {"draws": 2000, "finest_tv": 0.0123}
    parts = {name: {"passed": name != "edges", "failures": [{"where": "empty rows", "what": "x"}] if name == "edges" else []} for name in ("tokens", "law", "edges", "poison")}
    files = {
        "m": {"format": "spec_toolkit mutants 1", "level": "quick", "refused": 1, "of": 2, "environment": environment,
              "found": [{**entry, "idle": False, "caught_by": ["law"]}, {**entry, "rung": "v2", "idle": False, "caught_by": []},
                        {**entry, "rung": "v3", "idle": True, "caught_by": []}]},
        "a": {"format": "spec_toolkit alarms 1", "sampler": "v1", "level": "quick", "runs": 200, "failed": {"7": "text"}, "expected": 0.2, "cases": 14800,
              "explained": 3, "distance": 0.02, "p_values": [0.5] * 400, "environment": environment},
        "p": {"format": "spec_toolkit alarms 1", "sampler": "x", "environment": environment,
              "found": [{"law": "l", "test": "joint", "draws": 6000, "tv": 0.05, "power": 0.99, "runs": 100, "caught": 98}]},
        "c": {"format": "spec_toolkit check 1", "environment": environment,
              "reports": [{"sampler": "v5", "level": "thorough", "parts": parts, "laws": [law], "cases": ["a", "b"]}]},
        "other": {"format": "something else"}}
    for name, value in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    text = exactness.written("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in exactness.BLOCKS), tmp_path)
    assert "1 of 2 refused: 1 mutants on 2 rungs, level quick, on Paper" in text and "| m |  | v1 |  |  | v2 |" in text and "v3" not in text
    assert "| v1 | quick | 200 | 1 | 0.2 | 14,800 | 3 | 0.0200 | 0.0814 | 0123456 |" in text
    assert "| l | joint | 6,000 | 0.0500 | 98 of 100 |" in text
    assert "| v5 | thorough | Paper | PASS | PASS | FAIL | PASS | edges: empty rows | 2 | 2,000 | 0.0123 |" in text
    assert exactness.written(text, tmp_path) == text
    files["m"]["found"][1]["complete"] = False
    (tmp_path / "m.json").write_text(json.dumps(files["m"]))
    assert "refused the mutant; all four parts were asked on v1, elsewhere none after the first that did." in exactness.mutants_block(tmp_path)


def test_what_was_found_of_a_peer_is_said_line_by_line():
    failure = {"where": "zero residual", "what": "request 0: got 118\n  a second line"}
    report = {"sampler": "flashinfer_chain", "parts": {"edges": {"failures": [failure, failure]}, "poison": {"failures": []}},
              "probes": {"1000 re-batchings": {"differences": 41464, "first": []}, "orders": {"differences": 0}},
              "refused": [["a", "flashinfer_chain: got torch.bfloat16, accepted: torch.float32"], ["b", "flashinfer_chain: got draft lengths [0, 2], accepted: one"]]}
    text = exactness.peer_findings(report)
    assert text.splitlines() == ["What was found of flashinfer_chain:", "", "* zero residual: request 0: got 118",
                                 "* 1000 re-batchings: a request's outputs changed 41,464 times, the generator being in the same state before each: "
                                 "it has no seed of its own", "* not taken, in 2 cases: draft lengths …; torch.bfloat16"]
    assert exactness.peer_findings(report | {"sampler": "v5"}) == ""
