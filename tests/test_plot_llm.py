"""Figures, tables and sentences of decoding loops, from made-up records."""
import made_up_loops
import pytest

from spec_toolkit import blocks, llm_bench_page, llm_bench_records, plot, plot_llm, readme, report
from spec_toolkit.llm_bench_cells import cells


@pytest.fixture
def folder(tmp_path):
    for record in made_up_loops.records():
        llm_bench_records.write(record, tmp_path)
    return tmp_path


def fresh(folder, **changed):
    return llm_bench_records.latest(llm_bench_records.load(folder, {name: name for name in made_up_loops.SAMPLER_MS} | changed))


def texts(chart):
    """All that is written in a figure."""
    return " ".join(text.get_text() for text in chart.findobj(match=lambda artist: hasattr(artist, "get_text")))


def test_every_figure_is_drawn_and_says_what_it_is_of(folder, tmp_path):
    figures = plot_llm.figures(fresh(folder))
    assert list(figures) == ["methods", "split", "acceptance", "shares", "k_sweep"]
    for name, chart in figures.items():
        for said in ("paper-135m (135 M) with paper-16m", "bfloat16", "NVIDIA Paper", "torch 2.11.0", "driver 580", "2026-11-25, commit 012345678"):
            assert said in chart.caption_text, (name, said)
        assert all(path.stat().st_size > 3000 for path in plot.save(chart, tmp_path / "f" / name)) and "stale" not in texts(chart)


def test_bars_show_medians_spread_and_speedup(folder):
    records = fresh(folder)
    (main,) = [r for r in records if (r["kind"], r["fused"], r["batch"], r["temperature"]) == ("compare", "both", 1, 1.0)]
    s = llm_bench_records.spread(llm_bench_records.speedups(main.arm("speculation", "v9"), main.arm("plain")))
    said = texts(plot_llm.methods(records))
    assert f"{s['median']:.2f}x ({s['p10']:.2f} to {s['p90']:.2f})" in said
    assert all(title in said for title in ("graph path (own forward), B=8, T=1", "graph path (transformers' forward), B=1, T=1", "eager path, B=1, T=0"))
    assert "tokens/s" in said and "transformers' assisted (eager)" in said
    assert "ms of a step" in texts(plot_llm.split(records)) and "T=0.7, predicted" in texts(plot_llm.acceptance(records))


def test_a_stale_sampler_is_marked(folder):
    records = fresh(folder, v9="changed")
    figures = plot_llm.figures(records)
    for name in ("methods", "split", "shares", "k_sweep"):
        assert "(stale)" in texts(figures[name]), name
    assert "speculation, v9 (stale)" in llm_bench_page.methods(records) and "speculation, python_loop (stale)" not in llm_bench_page.methods(records)
    assert llm_bench_page.answer(records)[-1] == "Stale (the source is not the one that was timed): v9."


def test_few_records_give_few_figures(folder):
    records = [r for r in fresh(folder) if r["kind"] == "samplers"]
    assert list(plot_llm.figures(records)) == ["shares"] and plot_llm.figures([]) == {} and llm_bench_page.answer([]) == []
    alone = [r for r in fresh(folder) if r["kind"] == "compare" and r["path"] == "eager" and r["batch"] == 8]
    assert list(plot_llm.figures(alone)) == ["methods", "split"]


def test_sentences_are_made_from_the_records(folder):
    said = llm_bench_page.answer(fresh(folder))
    assert said[0].startswith("Goal of 1.8x over plain decoding at batch 1: graph path (own forward) 1.8") and "met" in said[0]
    slow = [llm_bench_records.LoopRecord(made_up_loops.record(cell, rate=0.2)) for cell in cells("v9")]
    assert "(not met)" in llm_bench_page.goals(slow) and " (met)" not in llm_bench_page.goals(slow)
    assert any("v9 0.7%" in sentence and "python_loop 50.8%" in sentence for sentence in said)
    assert any("the best K is" in sentence and "acceptance 0.6" in sentence for sentence in said)
    (greedy,) = [sentence for sentence in said if "graph path (own forward), B=1, T=0:" in sentence]
    assert "23 of 24 greedy texts" in greedy and "differ by 0 at most (numbers of bfloat16 lie 0.125 apart there): near ties." in greedy
    (record,) = [r for r in fresh(folder) if r["fused"] == "both" and r["temperature"] == 0]
    record["partings"][0]["gap"] = 0.75
    assert "differ by 0.75 at most" in llm_bench_page.greedy_sentence(record) and "1 of 1 are no near ties" in llm_bench_page.greedy_sentence(record)
    assert "| graph path (own forward), B=1, T=0 | speculation, v9, K=4 | 0 | 5 | 0 | 0 | 0.125 |" in llm_bench_page.partings(fresh(folder))


def test_the_page_and_the_report_show_them(folder, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- llm:begin -->\n<!-- llm:end -->\n")
    assert readme.update(page, folder, {}) and "(paper/llm/methods.svg)" in page.read_text() and "* Goal of 1.8x" in page.read_text()
    assert (folder / "paper" / "llm" / "k_sweep.svg").is_file()
    made = report.write(folder, tmp_path / "report", {}, progress=False)
    text = made.read_text()
    assert "<h2 id='llm'>What is it worth in a language model?</h2>" in text and "Goal of 1.8x" in text and text.count("<figure>") == 5
    assert {path.name for path in (tmp_path / "report" / "figures" / "paper" / "llm").iterdir()} >= {"methods.png", "shares.svg"}
    assert blocks.block(tmp_path / "nothing", "llm", tmp_path, {}) == (llm_bench_page.EMPTY, {})
