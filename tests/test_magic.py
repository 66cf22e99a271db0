"""CUDA C in a notebook cell, kernel files that are followed, kernels that are saved, and the tables that objects show."""
import math

import pytest
import torch

pytest.importorskip("IPython")
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from spec_toolkit import bench, check, list_samplers, load_sampler, make_problem, paths
from spec_toolkit.examine import examine
from spec_toolkit.live import live_sampler, save_kernel
from spec_toolkit.magic import define, timing_html

PROBLEM = make_problem(batch=3, draft_len=4, vocab=65, acceptance=0.9)


def text_of(name):
    return load_sampler(name).text


@pytest.fixture
def shell():
    made = InteractiveShell.instance()
    made.run_line_magic("load_ext", "spec_toolkit.magic")
    yield made
    InteractiveShell.clear_instance()


def run(shell, source):
    done = shell.run_cell(source, store_history=False)
    return done.result, done.error_in_exec or done.error_before_exec


def test_a_cell_becomes_a_sampler(shell):
    made, error = run(shell, "%%cuda_sampler mine BLOCK=64\n" + text_of("v1"))
    assert error is None and shell.user_ns["mine"] is made and made.name == "mine-BLOCK64" and made.tune == {"BLOCK": 64}
    assert check(made, PROBLEM) and made.filename == "mine.cu"
    shown = shell.display_formatter.format(made)[0]["text/html"]
    assert "<b>mine-BLOCK64</b>" in shown and "V1 - one thread per request" in shown and "BLOCK = 64" in shown


@pytest.mark.parametrize("head, change, said", [
    ("%%cuda_sampler mine", ("int accepted = 0", "int accepted = nothing"), "mine.cu"),  # the compiler's words name the cell's line
    ("%%cuda_sampler mine", ("int max_draft,", "int words,"), "unknown parameter 'words'"),
    ("%%cuda_sampler mine BLOK=64", ("", ""), "BLOK"), ("%%cuda_sampler mine BLOCK=many", ("", ""), "a whole number"),
    ("%%cuda_sampler", ("", ""), "accepted: %%cuda_sampler NAME"), ("%%cuda_sampler 2nd", ("", ""), "accepted: %%cuda_sampler NAME")])
def test_a_cell_that_cannot_be_used_is_answered_in_words(shell, capsys, head, change, said):
    before = shell.user_ns.get("mine")
    _, error = run(shell, f"{head}\n{text_of('v1').replace(*change, 1)}")
    assert isinstance(error, UsageError) and said in str(error) and shell.user_ns.get("mine") is before
    if "accepted = nothing" in change[1]:
        line = text_of("v1").splitlines().index(next(text for text in text_of("v1").splitlines() if "int accepted = 0" in text)) + 1
        assert f":{line}:" in str(error) or f"({line})" in str(error)
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_is_followed(shell, tmp_path):
    file = tmp_path / "mine.cu"
    file.write_text(text_of("v1"))
    made, error = run(shell, f"%cuda_sampler mine {file}")
    assert error is None and check(made, PROBLEM)
    first = made.current()
    made(PROBLEM)
    assert made.current() is first  # nothing has changed: what is compiled is kept
    file.write_text(text_of("v1").replace("num_accepted[request] = accepted;", "num_accepted[request] = accepted + 1;"))
    assert (made(PROBLEM).num_accepted == first(PROBLEM).num_accepted + 1).all() and not check(made, PROBLEM)
    file.write_text("int x;")
    with pytest.raises(ValueError, match=r"mine\.cu"):
        made(PROBLEM)
    file.write_text(text_of("v1"))
    assert check(made, PROBLEM) and str(file) in shell.display_formatter.format(made)[0]["text/html"]


def test_a_header_is_followed_too(tmp_path):
    for header in paths.kernels_dir().glob("*.cuh"):
        (tmp_path / header.name).write_text(header.read_text())
    (tmp_path / "v1_mine.cu").write_text(text_of("v1"))
    made = live_sampler(tmp_path / "v1_mine.cu")
    before, hashed = made(PROBLEM).out_tokens, made.source_hash
    common = (tmp_path / "common.cuh").read_text()
    (tmp_path / "common.cuh").write_text(common.replace("(double)u * draft < target", "false"))
    assert common.count("(double)u * draft < target") == 1 and (made(PROBLEM).num_accepted == 0).all() and made.source_hash != hashed
    assert not torch.equal(before, made(PROBLEM).out_tokens)


def test_rungs_can_be_followed_by_name():
    assert live_sampler("v1").path == paths.kernels_dir() / "v1_one_thread.cu" and "v1_one_thread" in repr(live_sampler("v1_one_thread"))
    with pytest.raises(ValueError, match="got 'v99', accepted: v1"):
        live_sampler("v99")
    with pytest.raises(ValueError, match="no such file"):
        live_sampler("nowhere.cu")


def test_only_a_kernel_that_has_passed_is_saved(tmp_path, monkeypatch):
    good = define("good", text_of("v1"))
    report = examine(good, "few")
    path = save_kernel(good, report, tmp_path / "new" / "good.cu")
    assert path.read_text() == good.text and save_kernel(good, report, path) == path
    wrong = define("wrong", good.text.replace("recover_uniform(", "0.5 * recover_uniform("))
    for sampler, said in ((wrong, examine(wrong, "few")), (define("good", good.text + "\n"), report)):  # it fails; it is another source
        with pytest.raises(ValueError, match="a report of `examine` that has passed"):
            save_kernel(sampler, said, tmp_path / "bad.cu")
    path.write_text("another")
    with pytest.raises(ValueError, match="overwrite=True"):
        save_kernel(good, report, path)
    assert save_kernel(good, report, path, overwrite=True).read_text() == good.text
    monkeypatch.setattr(paths, "kernels_dir", lambda: tmp_path)
    (tmp_path / "v3_there.cu").write_text("x")
    for name in ("mine.cu", "v3_mine.cu", "v3_there.cu"):
        with pytest.raises(ValueError, match="save_kernel"):
            save_kernel(good, report, tmp_path / name)
    assert save_kernel(good, report, tmp_path / "v9_mine.cu").is_file() and not (tmp_path / "bad.cu").exists()
    for sampler, name in ((load_sampler("python_loop"), "a.cu"), (good, "a.txt")):
        with pytest.raises(ValueError, match="accepted: a"):
            save_kernel(sampler, report, tmp_path / name)


def test_a_saved_rung_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr("spec_toolkit.sampler.kernels_dir", lambda: tmp_path)
    monkeypatch.setattr(paths, "kernels_dir", lambda: tmp_path)
    for header in (paths.PACKAGE.parent / "kernels").glob("*.cuh"):
        (tmp_path / header.name).write_text(header.read_text())
    good = define("good", (paths.PACKAGE.parent / "kernels" / "v1_one_thread.cu").read_text())
    save_kernel(good, examine(good, "few"), tmp_path / "v9_mine.cu")
    assert "v9" in list_samplers() and check(load_sampler("v9"), PROBLEM)


def test_a_problem_and_a_time_show_themselves():
    shown = PROBLEM._repr_html_()
    assert "target_probs</td><td>[15, 65]</td><td>float32</td><td>[65, 1]" in shown and "batch=3" in shown and "draft_lse" not in shown
    limits = {"stream_read_us": [4.0], "empty_launch_us": [3.0]}
    timing = bench.Timing("v1", None, "read", "run", "now", [10.0, 30.0], None, [50.0], [9.0], 2_000_000, 1, limits)
    shown = timing_html(timing)
    assert "<td style='text-align:left'>GPU</td><td style='text-align:right'>20.0</td>" in shown and "2.0 MB touched, L2 flushed by reading" in shown
    timing.gpu_us, timing.gpu_us_missing = None, "it synchronises <with> the host"
    assert "it synchronises &lt;with&gt; the host" in timing_html(timing) and math.isclose(timing.median("call_us"), 50)


def test_public_names_are_completed_and_explained():
    import spec_toolkit
    assert {"live_sampler", "save_kernel", "check"} <= set(dir(spec_toolkit))
    assert not [name for name in spec_toolkit.__all__ if not (getattr(spec_toolkit, name).__doc__ or "").strip()]
