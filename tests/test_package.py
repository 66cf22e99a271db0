"""Packaging: an installed copy finds its kernels from any folder; the lists of dependencies agree; make says what it would do."""
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from spec_toolkit import paths

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
UNPINNED = {"nvidia-cuda-nvrtc", "nvidia-cuda-runtime"}  # CUDA 13: torch itself may pin them


def package_name(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower()


def make(*words, dry=True, **environment):
    """A make of its own, even inside `make test CUDA=13`, whose words would travel in MAKEFLAGS."""
    kept = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PY", "PYTHON", "CUDA", "OUT")}
    return subprocess.run(["make", *(["-n"] if dry else []), *words], cwd=ROOT, capture_output=True, text=True, env={**kept, **environment})


def test_checkout_folders():
    assert paths.kernels_dir() == ROOT / "kernels" and paths.notebooks_dir() == ROOT / "notebooks"
    assert paths.results_dir() == ROOT / "results" and paths.checkout() == ROOT


def test_installed_copy_finds_its_files(tmp_path):
    """pip install . (not editable), used from another folder with the checkout out of reach."""
    site = tmp_path / "site"
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", site, ROOT],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = ("from spec_toolkit import paths; print(paths.PACKAGE, paths.checkout())\n"
            "for folder in (paths.kernels_dir(), paths.notebooks_dir(), paths.results_dir()):\n"
            "    print(*sorted(str(p.relative_to(folder.parent)) for p in folder.rglob('*') if p.is_file()))")
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(site)})
    assert out.returncode == 0, out.stderr
    where, *folders = out.stdout.splitlines()
    assert where == f"{site / 'spec_toolkit'} None"
    found = {name for line in folders for name in line.split()}
    wanted = {str(path.relative_to(ROOT)) for folder, kinds in (("kernels", (".cu", ".cuh")), ("notebooks", (".ipynb",)), ("results", (".json", ".png", ".svg")))
              for path in (ROOT / folder).rglob("*") if path.suffix in kinds and ".ipynb_checkpoints" not in path.parts}
    assert wanted and wanted <= found
    code_files = {str(path.relative_to(ROOT)) for path in (ROOT / "spec_toolkit").rglob("*") if path.suffix in (".py", ".h", ".cpp", ".S", ".safetensors", ".json")}
    assert all((site / name).is_file() for name in code_files)
    assert not (site / "tests").exists()


def test_environment_in_step_with_pyproject():
    yaml = pytest.importorskip("yaml")
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    packages = {entry for entry in [*listed, *pip] if isinstance(entry, str)}
    extra = {"python" + PROJECT["requires-python"], "pip", "cxx-compiler", "-c constraints.txt", "-e ."}
    assert packages == {*PROJECT["dependencies"], *EXTRAS["notebooks"], *EXTRAS["cuda12"]} | extra


def test_every_dependency_has_a_tested_version():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    named = {package_name(item) for items in (PROJECT["dependencies"], *EXTRAS.values()) for item in items}
    assert named - {package_name(line) for line in lines} == UNPINNED


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
@pytest.mark.parametrize("cuda", ["12", "13"])
def test_make_demo_installs_torch_first(cuda):
    steps = make("demo", f"CUDA={cuda}", "VENV=/nowhere/venv").stdout
    assert 0 < steps.index("constraints.txt torch") < steps.index(f"[cuda{cuda},notebooks]") < steps.index("run quick_demo")


@needs_make
def test_make_with_a_given_python_installs_nothing():
    assert make("gpu", "PY=python3").stdout.strip() == "python3 -m spec_toolkit.cli gpu --out results"
    assert make("test", "PY=python3").stdout.strip() == "python3 -m pytest -q"


@needs_make
def test_make_refuses_an_unknown_cuda():
    done = make("demo", "CUDA=11")
    assert done.returncode and "use CUDA=12 or CUDA=13" in done.stderr


@needs_make
def test_make_finds_an_installed_cupy_for_cuda_13(tmp_path):
    (tmp_path / "cupy_cuda13x-14.2.0.dist-info").mkdir()
    (tmp_path / "cupy_cuda13x-14.2.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: cupy-cuda13x\nVersion: 14.2.0\n")
    assert "[cuda13,notebooks]" in make("demo", "VENV=/nowhere/venv", PYTHONPATH=str(tmp_path)).stdout
    assert "[cuda12,notebooks]" in make("demo", "VENV=/nowhere/venv", "CUDA=12", PYTHONPATH=str(tmp_path)).stdout


@needs_make
def test_no_venv_module_says_what_to_install(tmp_path):
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    done = make("demo", "CUDA=12", f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}", dry=False)
    assert done.returncode and "apt-get install python3-venv" in done.stdout
