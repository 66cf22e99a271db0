"""The notebook runner: what it writes, what it refuses, what it says when a cell fails."""
import os
import subprocess
import sys

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("papermill")
from spec_toolkit import cli, notebooks, runs

PARAMETERS = "batch = 4\nscale = 0.5  # about a half, batch = rows\nname = 'zipf'\nsizes = [1, 2]\nlimit = None\nquick: bool = True\nout = 'outputs'"


def write(path, *sources, tag="parameters", kernelspec=True):
    """A notebook of code cells; the first carries the tag."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = [tag]
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}} if kernelspec else {}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A test"), *cells], metadata=metadata), path)
    return path


def run(path, tmp_path, *words):
    return cli.main(["run", str(path), "--out", str(tmp_path / "made"), *words])


@pytest.fixture
def good(tmp_path):
    check = ("import pathlib, sys, spec_toolkit\n"
             "pathlib.Path(out, 'figure.svg').write_text(f'<svg>{batch} {scale} {name} {sizes}</svg>')\n"
             "pathlib.Path('beside.png').write_bytes(b'')\nprint(sys.executable, 'ran here')")
    return write(tmp_path / "07_small_demo.ipynb", PARAMETERS, check)


@pytest.fixture
def no_kernelspec(monkeypatch, tmp_path):
    """A machine whose only python3 kernelspec is another, broken interpreter."""
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text('{"argv": ["/nowhere/python", "{connection_file}"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))


def test_a_run_writes_notebook_page_and_figures(good, tmp_path, capsys, no_kernelspec):
    assert run(good, tmp_path, "-p", "batch", "8", "-p", "scale", "2", "-p", "name", "flat", "-p", "sizes", "(3, 4)") == 0
    printed = capsys.readouterr()
    (folder,) = (tmp_path / "made" / "small_demo").iterdir()
    assert (folder / "figure.svg").read_text() == "<svg>8 2.0 flat [3, 4]</svg>"
    for name in ("07_small_demo.ipynb", "07_small_demo.html", "figure.svg", "beside.png"):
        assert (folder / name).is_file() and str(folder / name) in printed.out
    page = (folder / "07_small_demo.html").read_text()
    assert f"{sys.executable} ran here" in page and "write_text" in page  # the interpreter that runs; code is kept
    assert "Executing" in printed.err and "batch8" in folder.name


def test_two_runs_share_no_folder(tmp_path):
    assert runs._new_folder(tmp_path, "x", {}) != runs._new_folder(tmp_path, "x", {})


@pytest.mark.parametrize("words, said", [
    (("batsh", "8"), "no parameter 'batsh'; it has: batch (default 4), scale"),
    (("batch", "many"), "parameter batch: 'many' is a str, wanted a int such as 4"),
    (("batch", "1.5"), "1.5 is a float"),
    (("batch", "True"), "True is a bool"),
    (("quick", "1"), "wanted a bool"),
    (("sizes", "[1, 'two']"), "such as [1, 2]"),
    (("out", "here"), "--out"),
])
def test_wrong_parameters_are_refused_before_anything_runs(good, tmp_path, capsys, words, said):
    assert run(good, tmp_path, "-p", *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "made").exists()


@pytest.mark.parametrize("text, default, value", [
    ("8", 4, 8), ("-1", 4, -1), ("2", 0.5, 2.0), ("1e-3", 0.5, 1e-3), ("123", "zipf", "123"), ("'a b'", "zipf", "a b"),
    ("None", None, None), ("[1, 2]", None, [1, 2]), ("word", None, "word"), ("[]", [1], []), ("False", True, False), (8, 4, 8)])
def test_values(text, default, value):
    read = notebooks.parse_value("x", text, default)
    assert read == value and type(read) is type(value)


def test_unknown_notebook_is_answered_with_the_names(tmp_path, capsys, monkeypatch, good):
    monkeypatch.setattr(runs.paths, "notebooks_dir", lambda: tmp_path)
    assert cli.main(["run", "nothing"]) == 2
    assert "no notebook 'nothing'; the notebooks are: small_demo" in capsys.readouterr().err
    assert notebooks.find_notebook("small_demo") == notebooks.find_notebook("07_small_demo") == notebooks.find_notebook(str(good)) == good
    assert cli.main(["run"]) == 0
    assert "small_demo: batch = 4, scale = 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("bad, wanted", [
    ("# the third cell\nvalue = 1\nvalue / 0", ("ZeroDivisionError: division by zero", "at line 3: value / 0")),
    ("raise ValueError('x' * 100000)", ("ValueError: xxx", "...")),
    ("import os; os._exit(3)", ("DeadKernelError",)),
    ("import time; time.sleep(60)", ("CellTimeoutError",)),
    ("if True print(1)", ("SyntaxError",)),
])
def test_a_failing_cell_gives_one_screen_and_keeps_the_notebook(tmp_path, capsys, bad, wanted):
    path = write(tmp_path / "01_bad.ipynb", "batch = 4", "print('before', batch)", bad, "print('never')", kernelspec=False)
    assert run(path, tmp_path, "-p", "batch", "5", *(("--timeout", "3") if "sleep" in bad else ())) == 1
    text = capsys.readouterr().err.split("spec-toolkit run: ")[1]
    assert "cell 4 of 01_bad.ipynb failed" in text and bad.splitlines()[0][:60] in text  # counted in the source, markdown too
    assert all(part in text for part in wanted) and len(text.splitlines()) <= 20 and len(text) < 2000
    (partial,) = (tmp_path / "made").rglob("*.ipynb")
    assert str(partial) in text and "before 5" in partial.read_text() and "never" not in str(
        [cell.get("outputs") for cell in nbformat.read(partial, 4).cells])


def test_a_notebook_without_parameters_takes_none(tmp_path, capsys):
    path = write(tmp_path / "plain.ipynb", "print(1)", tag="other")
    assert run(path, tmp_path, "-p", "batch", "8") == 2
    assert "it has: none" in capsys.readouterr().err


def test_a_missing_extra_is_named(good, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert run(good, tmp_path) == 2
    assert "pip install 'spec-toolkit[notebooks]'" in capsys.readouterr().err


def test_the_module_runs_as_a_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "spec_toolkit.cli", "run", "nothing"], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(runs.paths.PACKAGE.parent)})
    assert done.returncode == 2 and "no notebook 'nothing'" in done.stderr
