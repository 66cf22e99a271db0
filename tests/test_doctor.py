"""The doctor: what it finds here, and what it prescribes on machines that lack something."""
import platform
import sys
import types
from importlib import metadata

import pytest
import torch

from spec_toolkit import ailments, cli, doctor, doctor_cuda


def found(name):
    return doctor.asked(name, doctor.PROBES[name])


def without(monkeypatch, *packages):
    """As if these distributions were not installed."""
    version = metadata.version

    def asked(name):
        if name in packages:
            raise metadata.PackageNotFoundError(name)
        return version(name)
    monkeypatch.setattr(metadata, "version", asked)


@pytest.fixture
def gpu_shown(monkeypatch):
    """A machine that shows a GPU, of which torch knows nothing."""
    monkeypatch.setattr(ailments, "has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_command_on_this_machine(capsys):
    code, said = cli.main(["doctor"]), capsys.readouterr().out
    assert code == (1 if "FAIL" in said else 0) and all(name in said for name in doctor.PROBES)
    assert f"ok   Python         {platform.python_version()}" in said and "the reference's tokens for 3 requests" in said
    assert ("failed: " in said) == (code == 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is asked")
def test_without_a_gpu_nothing_fails_for_want_of_one(monkeypatch):
    monkeypatch.setattr(ailments, "has_gpu", lambda: False)
    states = {name: found(name).state for name in ("GPU and driver", "torch on GPU", "launch", "DLPack")}
    assert states == {"GPU and driver": doctor.ABSENT, "torch on GPU": doctor.ABSENT, "launch": doctor.ABSENT, "DLPack": doctor.OK}
    without(monkeypatch, *doctor_cuda.CUPY)
    assert {found(name).state for name in ("CuPy", "NVRTC", "CUDA headers", "offline compile")} == {doctor.ABSENT}
    assert "pip install 'spec-toolkit[cuda1" in found("CuPy").mend


def test_a_gpu_that_nobody_reaches(gpu_shown, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert found("torch").state == doctor.FAILED and "pip install --force-reinstall torch" in found("torch").mend
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES=''" in found("torch on GPU").found and "unset CUDA_VISIBLE_DEVICES" in found("torch on GPU").mend
    monkeypatch.setattr(doctor_cuda, "run", lambda *_: None)
    assert found("GPU and driver").state == doctor.FAILED and "--gpus all" in found("GPU and driver").mend
    assert {found(name).state for name in ("launch", "DLPack")} == {doctor.FAILED}
    without(monkeypatch, *doctor_cuda.CUPY)
    assert [found(name).state for name in ("CuPy", "NVRTC")] == [doctor.FAILED] * 2 and "cuda12]" in found("CuPy").mend


def test_notebooks_run_where_jupyterlab_is_not(monkeypatch):
    without(monkeypatch, "jupyterlab")
    finding = found("notebooks")
    assert finding.state == doctor.ABSENT and "jupyterlab, which opens notebooks, is not installed" in finding.found and "papermill" in finding.found
    assert "spec-toolkit[notebooks]" in finding.mend and doctor.summary([finding]) == "nothing that should work here fails"


def test_gpus_are_told_in_words():
    one = "NVIDIA H100 80GB HBM3, 580.159.04, 81559, 0, 9.0"
    assert doctor_cuda.gpus_in_words(one) == "NVIDIA H100 80GB HBM3 (compute capability 9.0, 79.6 GiB, in use 0.0 GiB), driver 580.159.04"
    two = doctor_cuda.gpus_in_words(one + "\n" + one.replace(" 0,", " 2048,"))
    assert two == "2 x NVIDIA H100 80GB HBM3 (compute capability 9.0, 79.6 GiB each, in use 0.0 GiB and 2.0 GiB), driver 580.159.04"
    other = doctor_cuda.gpus_in_words(one + "\nNVIDIA GB10, 580.159.04, [N/A], [N/A], 12.1")
    assert other.endswith("NVIDIA GB10 (compute capability 12.1, [N/A], in use [N/A]), driver 580.159.04") and other.startswith("NVIDIA H100")
    assert doctor_cuda.gpus_in_words("odd, name, 1") == "odd, name, 1"


def test_two_cupys_and_an_old_driver(monkeypatch):
    runtime = types.SimpleNamespace(runtimeGetVersion=lambda: 13000, driverGetVersion=lambda: 12080)
    fake = types.SimpleNamespace(__version__="14", cuda=types.SimpleNamespace(runtime=runtime, nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0))))
    monkeypatch.setattr(doctor_cuda, "_import_cupy", lambda: fake)
    monkeypatch.setattr(metadata, "version", lambda name: "14.2")
    assert "both installed" in found("CuPy").found or "are both" in found("CuPy").found
    assert found("CuPy").mend.startswith("pip uninstall -y cupy-cuda12x cupy-cuda13x")
    assert found("NVRTC").state == doctor.FAILED and "the driver, which knows CUDA 12.8" in found("NVRTC").found and "[cuda12]" in found("NVRTC").mend


def test_no_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert found("C++ compiler").state == doctor.FAILED and "apt-get install g++" in found("C++ compiler").mend
    monkeypatch.setenv("CXX", "icpc")
    assert "CXX=icpc" in found("C++ compiler").found and found("C++ compiler").mend == "unset CXX"


def test_missing_notebook_packages(monkeypatch):
    without(monkeypatch, "papermill", "ipywidgets")
    assert found("notebooks").state == doctor.FAILED and found("notebooks").found.startswith("missing: papermill, ipywidgets") and "spec-toolkit[notebooks]" in found("notebooks").mend


def test_no_headers_and_a_sampler_that_is_not_exact(monkeypatch):
    if ailments.version(*doctor_cuda.CUPY):
        monkeypatch.setattr(doctor_cuda.Path, "is_file", lambda self: False)
        assert found("CUDA headers").state == doctor.FAILED and "nvidia-cuda-runtime-cu12" in found("CUDA headers").mend
        monkeypatch.undo()
    import spec_toolkit
    monkeypatch.setattr(spec_toolkit, "check", lambda *_: False)
    assert found("CPU executor").state == doctor.FAILED and "v1 is not exact here" in found("CPU executor").found


def test_whatever_a_probe_raises_is_said_with_what_mends_it():
    def broken():
        raise OSError("libnvrtc.so.12: cannot open shared object file\nmore")
    finding = doctor.asked("NVRTC", broken)
    assert finding.state == doctor.FAILED and finding.found == "OSError: libnvrtc.so.12: cannot open shared object file more" and "force-reinstall" in finding.mend
    assert "FAIL NVRTC" in str(finding) and "mend: pip install" in str(finding)
    assert doctor.summary([finding]) == "1 of 1 failed: NVRTC" and doctor.summary([]) == "nothing that should work here fails"
    assert sys.executable in found("Python").found
