"""What the pages show that is no experiment's: rungs, registers, sanitizers. And that nothing measured is typed into them."""
import json
import re
from pathlib import Path

import pytest
from made_up import record

from spec_toolkit import blocks, compiled, course, readme, results, sanitize, tables
from spec_toolkit.sampler import list_kernels, load_sampler

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "kernels" / "README.md"]


def written(folder, *made):
    for i, one in enumerate(made):
        path = folder / "paper" / one["experiment"] / f"{i}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(results.to_text(one))
    return [folder / "paper"]


def rung(name, us, batch=64, rejected=40):
    made = record(name, us, batch=batch, draft_len=4, limit_us=10.0, megabytes=50.0)
    made["problem"]["rejected"] = rejected
    return made


@pytest.mark.parametrize("name", list_kernels())
def test_the_notes_of_a_header_are_found_whole(name):
    sampler = load_sampler(name)
    said = course.notes(sampler)
    assert {"Reads", "Slow"} < set(said) and ("Idea" in said) == (name == "v1") and ("Changes" in said) == (name != "v1")
    words = " ".join(sampler.contract.notes.split())
    assert all(f"{word} {text}" in words for word, text in said.items()) and course.title(sampler).startswith(f"{name.upper()} - ")
    assert sum(map(len, said.values())) > 0.8 * (len(words) - len(course.title(sampler))), "a note was lost"


def test_the_bytes_are_those_of_the_contract():
    v1, made = load_sampler("v1"), rung("v1", 100.0)
    assert course.predicted(v1, made) == 2 * (64 + 40) * 128256 * 4
    assert all(course.predicted(load_sampler(name), made) for name in list_kernels())
    made["problem"]["draft_len"] = [1, 2]
    assert course.predicted(v1, made) is None


def test_the_extra_memory_is_that_of_the_scratch_arrays():
    assert course.extra_memory(load_sampler("v1")) == "none"
    tiles = -(-128256 * 2 // 2048)
    nbytes = 8 * 64 * 5 * 6 * tiles + 8 * 64 * 5 + 8 * 64 * 2 + 2 * 8 * 64 * 5 + 4 * 64  # tile_words, started, verdicts, outcomes, written
    assert tiles % 2 == 0 and course.extra_memory(load_sampler("v10")) == f"{nbytes / 1e3:,.1f} KB for B=64, K=4, V=128,256, whose rows are 148 MB"
    assert all(course.extra_memory(load_sampler(name)) for name in list_kernels())


def test_a_section_is_made_of_header_registers_and_records(tmp_path):
    folders = written(tmp_path, rung("v4", 20.0), rung("v4", 5.0, batch=1, rejected=1), rung("v5", 12.0))
    v4 = load_sampler("v4")
    found = {"v4": {"source_hash": v4.source_hash, "used": {"float32": {"sm_90": {"k": {"registers": 50, "spill_bytes": 0, "shared_bytes": 0}}}}}}
    text = course.section(v4, folders, found, {"v4": "v4", "v5": "v5"})
    predicted = (64 + 40) * (128256 * 4 + 2048)
    assert f"| B=64, K=4, V=128,256 | {predicted / 1e6:.1f} | 50.0 | 10.0 | 20.0 (18.0 to 24.0) | 50% | {predicted / 20 / 1e6:.2f} |" in text
    assert "* *Registers* sm_90 50" in text and "`grid" not in text and "grid `batch`, block `BLOCK`" in text and "NVIDIA Paper" in text
    assert "B=1, K=4" in text and "12.0" not in text
    assert "V=128,256 (stale)" in course.section(v4, folders, {}, {"v4": "another"})


def test_rungs_without_a_block_of_their_own_follow_by_themselves(tmp_path):
    page = tmp_path / "kernels" / "README.md"
    page.parent.mkdir()
    page.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("rung_v1", "rung_v2", "other_rungs", "registers", "sanitizers", "crosscheck")))
    assert readme.update(page, tmp_path / "results", {}) and not readme.update(page, tmp_path / "results", {})
    text = page.read_text()
    assert [line[3:].split()[0] for line in text.splitlines() if line.startswith("## ")] == [name.upper() for name in list_kernels()] and "*Idea*" in text
    assert "Nothing is compiled yet" in text and "`make gpu-sanitize`" in text and "No cross-check is recorded" in text


def test_registers_are_compiled_once_and_kept(tmp_path, monkeypatch):
    pytest.importorskip("cupy")
    monkeypatch.setattr(compiled.gpu, "ARCHITECTURES", (90,))
    assert compiled.load(tmp_path) == {} and compiled.record(tmp_path, ["v1", "v2"]) == ["v1", "v2"] and compiled.record(tmp_path, ["v1", "v2"]) == []
    found = compiled.load(tmp_path)
    assert found["v1"]["used"]["float32"]["sm_90"]["v1_one_thread"] == load_sampler("v1").registers(90)["v1_one_thread"]
    assert "| v1 (stale) | float32 | " in compiled.table(found, {"v2": found["v2"]["source_hash"]}) and "| v2 | bfloat16 | " in compiled.table(found)
    path = tmp_path / "compiled" / "registers.json"
    path.write_text(path.read_text().replace(found["v2"]["source_hash"], "another"))
    assert compiled.record(tmp_path, ["v1", "v2"]) == ["v2"]
    path.unlink()
    broken = load_sampler(source=load_sampler("v1").text.replace("request >= batch", "request >= no_such_name"))
    monkeypatch.setattr(compiled, "load_sampler", lambda name: broken if name == "v1" else load_sampler(name))
    with pytest.raises(compiled.gpu.KernelCompileError, match="no_such_name"):
        compiled.record(tmp_path, ["v1", "v2"])
    assert set(compiled.load(tmp_path)) == {"v2"}, "the others are kept"
    found["v1"]["used"]["float32"]["sm_90"]["v1_one_thread"]["spill_bytes"] = 64
    assert "(64 bytes spilled)" in compiled.table(found)
    assert not blocks.gpus(tmp_path), "results/compiled is no GPU"


def test_the_sanitizers_are_shown_with_what_they_found(tmp_path):
    made = {"format": sanitize.FORMAT, "created": "2026-11-24T00:00:00", "environment": {"gpu": "NVIDIA Paper", "driver": "580", "git": "0" * 40},
            "tools": {"memcheck": {"seconds": 20.4, "errors": 3, "control": 1, "foreign": 0, "faults": []}},
            "samplers": {"v1": {"source_hash": "old", "problems": 9, "requests": 8, "exact": 8, "wrong": [],
                                "tools": {"memcheck": {"errors": 2, "excerpt": "Invalid __global__ read"}}}}}
    path = tmp_path / "paper" / "sanitizers" / "sanitizers.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(made))
    text, _ = blocks.block(tmp_path, "sanitizers", tmp_path, {"v1": "new"})
    assert "| v1 (stale) | 2 | 9 | 8 of 8 |" in text and "FAIL v1, memcheck: 2 findings" in text and "driver 580; 2026-11-24, the last run at commit 000000000." in text


def test_times_stand_side_by_side():
    loop = record("python_loop", None, call_us=700.0)
    text = tables.side_by_side([record("v2", 8.0, flush="read"), record("v1", 80.0), loop, record("v2", 9.0, flush="write", limit_us=4.5)], "flush")
    assert "| problem | flush | v1 | v2 | python_loop | plain read | v2 of the limit |" in text
    assert "| B=1, K=4, V=128,256 | read | 80.0 | 8.0 | 700 *(call)* | 4.0 | 50% |" in text
    assert "| B=1, K=4, V=128,256 | write | – | 9.0 | – | 4.5 | 50% |" in text
    by_acceptance = tables.side_by_side([record("v2", 8.0), record("v2", 7.0) | {"problem": record("v2", 7.0)["problem"] | {"acceptance_requested": 0.3}}], "acceptance")
    assert by_acceptance.index("| 0.3 | 7.0 |") < by_acceptance.index("| 0.7 | 8.0 |")
    padded = tables.side_by_side([record("v2", 8.0, row_padding=1), record("v2", 7.0, batch=16)], "row_padding", "dtype")
    assert padded.index("| B=1, K=4, V=128,256 | 1 | float32 |") < padded.index("| B=16, K=4, V=128,256 | 0 | float32 |")


# ---- the pages themselves

MEASURED = re.compile(r"\d[\d.,]*\s?(?:µs|us|ms|ns|%|x|TB/s|GB/s|times (?:faster|slower|as fast))(?![\w-])")


def typed(page):
    """What a page says outside its blocks."""
    return readme.MARKERS.sub("", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_measurement_is_typed(page):
    assert not MEASURED.findall(typed(page))
    assert MEASURED.findall("it takes 12.5 µs, 3x less, 4 times faster") == ["12.5 µs", "3x", "4 times faster"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert links and not [link for link in links if not (page.parent / link).exists()]


def test_the_course_holds_every_rung():
    on_page = readme.names(PAGES[1].read_text())
    assert set(on_page) >= {"ladder", "registers", "grid", "profile", "sanitizers", "crosscheck", "other_rungs", "flush_modes", "misaligned", "dtypes"}
    rungs = [name.removeprefix("rung_") for name in on_page if name.startswith("rung_")]
    assert rungs == [name for name in list_kernels() if name in rungs] and rungs[0] == "v1"


def test_a_page_that_is_not_there_is_named(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        readme.main([str(tmp_path / "none.md")])
    assert ended.value.code == 2 and f"no such file: {tmp_path}/none.md" in capsys.readouterr().err
