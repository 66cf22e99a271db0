"""`spec-toolkit check`: what it takes, what it prints and writes, and its exit codes."""
import json

import pytest
import torch

from spec_toolkit import checking, cli
from spec_toolkit.paths import kernels_dir
from spec_toolkit.sampler import load_sampler

CPU = ["--level", "few", "--device", "cpu"]
GOOD = next(kernels_dir().glob("v1_*.cu"))


def said(capsys, *arguments):
    """(exit code, stdout, stderr) of `spec-toolkit check ...`."""
    code = cli.main(["check", *arguments, *CPU])
    return code, *capsys.readouterr()


def test_by_name(capsys):
    code, out, _ = said(capsys, "v1", "torch_vectorised", "softmax+torch_vectorised")
    heads = [line for line in out.splitlines() if not line.startswith(" ")]
    assert code == 0 and [line.split(":")[0] for line in heads] == ["PASS v1", "PASS torch_vectorised", "PASS softmax+torch_vectorised"]
    assert "level few of logits on cpu" in heads[2]


def test_from_a_file(capsys, tmp_path):
    mine = tmp_path / "my.cu"
    mine.write_text(GOOD.read_text())
    code, out, _ = said(capsys, "--source", str(mine))
    assert code == 0 and out.startswith("PASS my: ")
    (tmp_path / "worse.cu").write_text(mine.read_text().replace("i <= max_draft", "i < max_draft"))
    code, out, _ = said(capsys, "--source", str(tmp_path / "worse.cu"))
    assert code == 1 and out.startswith("FAIL worse: ") and "unwritten" in out


def test_one_of_two_fails(capsys, tmp_path):
    worse = tmp_path / "worse.cu"
    worse.write_text(GOOD.read_text().replace("out[accepted] = drawn.token;", "out[accepted] = max(drawn.token, 1);"))
    code, out, _ = said(capsys, "v1", "--source", str(worse))
    assert code == 1 and "PASS v1" in out and "FAIL worse" in out


def test_a_kernel_that_does_not_compile_fails_once_with_the_compilers_words(capsys, tmp_path):
    broken = tmp_path / "broken.cu"
    broken.write_text(GOOD.read_text().replace("int accepted = 0", "int accepted = nonsense"))
    code, out, _ = said(capsys, "--source", str(broken))
    assert code == 1 and out.startswith("FAIL broken: ") and out.count("nonsense") >= 1 and "tokens" not in out


@pytest.mark.parametrize("arguments, words", [
    ([], "nothing to check"),
    (["v99"], "got 'v99', accepted: v1"),
    (["softmax+v99"], "v99"),
    (["--source", "/nowhere/my.cu"], "--source /nowhere/my.cu"),
    (["--peer", "nobody"], "--peer: got 'nobody', accepted: flashinfer_chain, transformers"),
    (["v1", "--json", "/nowhere/found.json"], "its folder does not exist"),
    (["v1", "--device", "abacus"], "--device abacus"),
])
def test_wrong_requests(capsys, arguments, words):
    code = cli.main(["check", "--level", "few", *arguments])
    out, err = capsys.readouterr()
    assert code == 2 and not out and err.startswith("spec-toolkit check: ") and words in err


def test_a_source_without_a_contract_is_a_wrong_request(capsys, tmp_path):
    (tmp_path / "none.cu").write_text("extern \"C\" __global__ void f() {}\n")
    code, _, err = said(capsys, "--source", str(tmp_path / "none.cu"))
    assert code == 2 and "none.cu" in err


def test_an_unknown_level_is_argparses_to_refuse(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["check", "v1", "--level", "slow"])
    assert stopped.value.code == 2


def test_a_peer_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr("spec_toolkit.peers._version", lambda package: None)
    code, _, err = said(capsys, "--peer", "flashinfer")
    assert code == 2 and "flashinfer_chain: flashinfer-python is not installed: pip install" in err


def test_json(capsys, tmp_path):
    path = tmp_path / "found.json"
    code, _, _ = said(capsys, "v1", "torch_vectorised", "--seed", "3", "--draws", "2000", "--rebatchings", "2", "--json", str(path))
    found = json.loads(path.read_text())
    assert code == 0 and found["format"] == "spec_toolkit check 1" and found["environment"]["torch"] == torch.__version__
    assert [report["sampler"] for report in found["reports"]] == ["v1", "torch_vectorised"]
    first = found["reports"][0]
    assert first["passed"] and first["seed"] == 3 and {law["draws"] for law in first["laws"]} == {2000}
    assert "2 re-batchings" in first["probes"] and first["source_hash"] == load_sampler("v1").source_hash


def test_logits_where_a_sampler_takes_both(capsys):
    code, out, _ = said(capsys, "torch_vectorised", "--kind", "logits")
    assert code == 0 and "level few of logits" in out


def test_a_kernel_asked_for_what_it_does_not_take_fails(capsys):
    code, out, _ = said(capsys, "v1", "--kind", "logits")
    assert code == 1 and "FAIL v1: ValueError: v1: got a problem of logits, accepted: probs" in out


def test_no_report_is_no_pass(monkeypatch):
    with pytest.raises(checking.WrongRequest):
        checking.run()
