"""The arrows of the design, read from the source: who imports whom, where CuPy may appear, how a notebook is written."""
import ast
import io
import json
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "spec_toolkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAY_IMPORT_CUPY = {"doctor_cuda.py", "sampler.py", "gpu.py", "sharing.py", "clock.py", "results.py"}


def import_nodes(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def own_imports(path):
    """Names of our modules that a file imports, wherever in the file."""
    found = set()
    for node in import_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("spec_toolkit.")}
            found |= {"__init__" for alias in node.names if alias.name == "spec_toolkit"}
        elif node.level or (node.module or "").split(".")[0] == "spec_toolkit":
            inner = (node.module or "").removeprefix("spec_toolkit").strip(".")
            found |= {inner.split(".")[0]} if inner else {alias.name for alias in node.names}
    return found


def cupy_imports(tree):
    return [node for node in import_nodes(tree) if any(
        name.split(".")[0] in ("cupy", "cupyx") for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]))]


@pytest.mark.parametrize("name, allowed", [("problem.py", {"probability_rows", "problem_validation"}), ("probability_rows.py", set()), ("problem_validation.py", set()), ("chart.py", {"reading"}), ("results.py", set()), ("reading.py", {"results"}), ("tables.py", {"reading"}), ("plot.py", {"chart", "reading", "tables"}),
                                           ("parts.py", {"reading", "tables"}), ("plot_ladder.py", {"chart", "parts", "reading"}), ("plot_grid.py", {"chart", "plot", "reading"}),
                                           ("plot_shapes.py", {"chart", "reading", "tables"}), ("conditions.py", {"reading"}), ("step.py", {"reading", "tables"}), ("plot_step.py", {"chart", "plot", "step", "reading"}),
                                           ("decoding.py", set()), ("speedup.py", {"decoding"}),
                                           ("llm_bench_records.py", {"results"}), ("plot_llm_base.py", {"chart"}),
                                           ("llm_bench_costs.py", {"llm_bench_records", "tables"}),
                                           ("plot_llm_needed.py", {"chart", "plot_llm_base", "llm_bench_costs", "llm_bench_records"}),
                                           ("plot_llm_drafts.py", {"chart", "plot_llm_base", "llm_bench_costs", "llm_bench_records"}),
                                           ("plot_llm.py", {"chart", "plot_llm_base", "plot_llm_drafts", "plot_llm_needed", "llm_bench_records", "reading"}),
                                           ("llm_bench_sentences.py", {"plot_llm_base", "llm_bench_cells", "llm_bench_costs", "llm_bench_records", "reading"}),
                                           ("llm_bench_page.py", {"plot_llm", "llm_bench_costs", "llm_bench_records", "llm_bench_sentences", "reading",
                                                                  "tables"})])
def test_arrows(name, allowed):
    assert own_imports(PACKAGE / name) <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_cupy_is_imported_lazily_and_in_few_places(path):
    tree = ast.parse(path.read_text())
    found = cupy_imports(tree)
    assert not found or (path.parent == PACKAGE and path.name in MAY_IMPORT_CUPY), f"{path.name} may not import CuPy"
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
              for node in ast.walk(function)}
    assert all(id(node) in inside for node in found), f"{path.name} imports CuPy outside a function"


def test_kernels_are_read_as_text():
    assert not list((ROOT / "kernels").rglob("*.py"))


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def parameter_cells(path):
    return [cell for cell in code_cells(path) if "parameters" in cell["metadata"].get("tags", [])]


each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_notebook_parameters_are_literals(path):
    (cell,) = parameter_cells(path)
    source = "".join(cell["source"])
    for node in ast.parse(source).body:
        assert isinstance(node, (ast.Assign, ast.AnnAssign)), f"line {node.lineno} is not an assignment"
        ast.literal_eval(node.value)
    comments = [token.string for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT]
    assert not [text for text in comments if "=" in text], "papermill loses a parameter whose comment holds an equals sign"


@each_notebook
def test_notebook_cells_are_short_and_without_outputs(path):
    for number, cell in enumerate(code_cells(path), 1):
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= (60 if source.startswith("%%cuda_sampler") else 15), f"code cell {number} is too long"
        assert not cell["outputs"] and cell["execution_count"] is None, f"code cell {number} has outputs: make it bare with nbstripout"
        for node in ast.walk(ast.parse(source)) if not source.lstrip().startswith(("%", "!")) else ():
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 6, f"{node.name} belongs in the package"


def test_the_rules_can_fail(tmp_path):
    """The readers above see what they should."""
    bad = tmp_path / "bad.py"
    bad.write_text("import cupy\nfrom spec_toolkit.sampler import x\nfrom . import bench\nfrom .check import y\nimport spec_toolkit.plot\n")
    assert own_imports(bad) == {"sampler", "bench", "check", "plot"}
    assert len(cupy_imports(ast.parse("from cupy.cuda import runtime\nimport numpy, cupyx.profiler\nimport cupyfoo"))) == 2
