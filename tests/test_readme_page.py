"""The README's commands and code do what it says."""
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spec_toolkit import load_sampler, make_problem, notebooks
from spec_toolkit.cli import build_parser
from spec_toolkit.mismatch import compare

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [body for kind, body in BLOCKS if kind == "python"]
LINES = [line.partition("#")[0].strip() for kind, body in BLOCKS if not kind for line in body.splitlines()]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("spec-toolkit ")])
def test_a_command_is_understood(line):
    args = build_parser().parse_args(line.split()[1:])
    if getattr(args, "name", None) and args.action.__name__ == "run":
        assert notebooks.find_notebook(args.name).is_file()
    assert not [name for name in getattr(args, "samplers", None) or () if not load_sampler(name)]


def test_make_knows_its_targets():
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", " ; ".join([*LINES, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))])))
    assert {"demo", "test", "gpu"} <= named <= set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())


def test_the_code_runs(capsys):
    given = make_problem(batch=2, draft_len=3, vocab=50)
    names = {"target_probs": given.target.view(2, 4, 50), "draft_tokens": given.draft_tokens.view(2, 3), "draft_probs": given.draft.view(2, 3, 50)}
    logits = make_problem(batch=2, draft_len=3, vocab=50, logits=True)
    names |= {"target_logits": logits.target.view(2, 4, 50), "draft_logits": logits.draft.view(2, 3, 50)}
    exec(PYTHON[0], names)  # noqa: S102 (our own page)
    assert capsys.readouterr().out.startswith("PASS v2")
    assert names["mine"].batch == 2 and names["mine"].target.data_ptr() == logits.target.data_ptr(), "rows are not copied"
    assert torch.equal(names["outputs"].out_tokens, names["call"].outputs.out_tokens)


def test_the_tree_names_what_there_is():
    tree = next(body for _, body in BLOCKS if body.startswith("kernels/"))
    named = re.findall(r"(?:^|\s)([a-z_]+(?:\.py|/))(?=\s)", tree)
    assert len(named) > 12 and not [name for name in named if not any((folder / name).exists() for folder in (ROOT, ROOT / "spec_toolkit")) and name != "results/"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_captured_graph_draws_afresh():
    problem = make_problem(batch=16, draft_len=3, vocab=5003, device="cuda")
    names = {"torch": torch, "problem": problem, "sampler": load_sampler("v7")}
    before = problem.positions.clone()
    exec(PYTHON[1], names)  # noqa: S102 (our own page)
    torch.cuda.synchronize()
    assert torch.equal(problem.positions, before + names["num_accepted"] + 1)
    seen = set()
    for _ in range(8):
        given = replace(problem.to("cpu"), positions=problem.positions.cpu())
        names["graph"].replay()
        torch.cuda.synchronize()
        outputs = [tensor.cpu().numpy() for tensor in names["call"].outputs]
        assert not compare(names["sampler"], given, outputs)[2], "tokens of these positions"
        seen.add(str(outputs[0].tolist()))
    assert len(seen) > 5
