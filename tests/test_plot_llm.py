"""Figures, tables and sentences of decoding loops, from made-up records."""
import made_up_loops
import pytest

from spec_toolkit import blocks, llm_bench_page, llm_bench_records, plot, plot_llm, readme, report
from spec_toolkit import llm_bench_sentences as words
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
    assert list(figures) == ["methods", "split", "acceptance", "shares", "k_sweep", "k_sweep_draft", "needed"]
    for name, chart in figures.items():
        for said in ("paper-135m (135 M) with paper-16m (39 M, with features)", "bfloat16", "NVIDIA Paper", "torch 2.11.0", "driver 580",
                     "2026-11-25, commit 012345678"):
            assert said in chart.caption_text, (name, said)
        assert all(path.stat().st_size > 3000 for path in plot.save(chart, tmp_path / "f" / name)) and "stale" not in texts(chart)


def test_bars_show_medians_spread_and_speedup(folder):
    records = fresh(folder)
    (main,) = [r for r in records if (r["kind"], r["fused"], r["batch"], r["temperature"]) == ("compare", "both", 1, 1.0)]
    s = llm_bench_records.spread(llm_bench_records.speedups(main.arm("speculation", "v10"), main.arm("plain")))
    said = texts(plot_llm.methods(records))
    assert f"{s['median']:.2f}x ({s['p10']:.2f} to {s['p90']:.2f})" in said
    titles = ("graph path (own forward), B=8, T=1", "graph path (transformers' target, own draft), B=1, T=1", "eager path, B=1, T=0")
    assert all(title in said for title in titles)
    assert "tokens/s" in said and "transformers' assisted, K=4 (eager)" in said and "speculation, v10, K=6" in said and "speculation without features, v10, K=4" in said
    assert "ms of a step" in texts(plot_llm.split(records)) and "T=0.7, predicted" in texts(plot_llm.acceptance(records))


def test_a_stale_sampler_is_marked(folder):
    records = fresh(folder, v10="changed")
    figures = plot_llm.figures(records)
    for name in ("methods", "split", "shares", "k_sweep"):
        assert "(stale)" in texts(figures[name]), name
    table = llm_bench_page.methods(records)
    assert "speculation, v10, K=4 (stale)" in table and "speculation, python_loop, K=4 (stale)" not in table
    assert llm_bench_page.answer(records)[-1] == "Stale (the source is not the one that was timed): v10."


def test_few_records_give_few_figures(folder):
    records = [r for r in fresh(folder) if r["kind"] == "samplers"]
    assert list(plot_llm.figures(records)) == ["shares"] and plot_llm.figures([]) == {} and llm_bench_page.answer([]) == []
    alone = [r for r in fresh(folder) if r["kind"] == "compare" and r["path"] == "eager" and r["batch"] == 8]
    assert list(plot_llm.figures(alone)) == ["methods", "split"]


def test_sentences_are_made_from_the_records(folder):
    said = words.answer(fresh(folder))
    assert said[0].startswith("Goal of 1.8x over plain decoding of the same path at batch 1, T=1: graph path (own forward) 1.8")
    assert "(reached)" in said[0]
    slow = [llm_bench_records.LoopRecord(made_up_loops.record(cell, rate=0.2)) for cell in cells("v10")]
    assert "(not reached)" in words.goals(slow) and "(reached)" not in words.goals(slow)
    assert any("v10 0.7%" in sentence and "python_loop 50.8%" in sentence for sentence in said)
    assert sum("the best K is" in sentence and "acceptance 0.6" in sentence for sentence in said) == 2
    (greedy,) = [sentence for sentence in said if "graph path (own forward), B=1, T=0:" in sentence]
    assert "23 of 24 greedy texts" in greedy and "are 0 steps of bfloat16 apart at most (0, where its numbers lie 0.125 apart): near ties." in greedy
    assert greedy.endswith("Two readings of these texts, whole and token by token, differ by 0.12 a logit (root mean square).")
    (record,) = [r for r in fresh(folder) if r["fused"] == "both" and r["temperature"] == 0]
    for gap, steps, near in ((0.5, 4, True), (0.75, 6, False)):
        record["partings"][0]["gap"] = gap
        assert f"are {steps} steps of bfloat16 apart at most ({gap}, where" in words.greedy_sentence(record)
        assert ("1 of 1 are no near ties" not in words.greedy_sentence(record)) == near
    assert "| graph path (own forward), B=1, T=0 | speculation, v10, K=4 | 0 | 5 | 0 | 0 | 0.125 | 0.12 |" in llm_bench_page.partings(fresh(folder))


def test_sentences_say_why_and_what_it_would_take(folder):
    records = fresh(folder)
    found = {r.forms: sentence for r, sentence in zip((r for r in records if r["kind"] == "k_sweep"), words.why(records))}
    why = found["graph path (own forward)"]
    assert why.startswith("Why, in the graph path (own forward), with K=") and "the best of K=1 to 8" in why
    assert float(why.split("needs an acceptance of ")[1][:4]) < 0.75
    poor = [llm_bench_records.LoopRecord(made_up_loops.record(cell, target_ms=0.01)) for cell in cells("v10", fused=["none"])
            if cell.kind == "k_sweep"]
    for arm in poor[0]["arms"][1:]:
        arm["runs"]["draft_s"] = [10.0 for _ in arm["runs"]["draft_s"]]
    assert "At these costs no acceptance gives 1.8x with K=1 to 8" in words.why(poor)[0]
    assert words.drafts(records) is None
    held = [llm_bench_records.LoopRecord(r | {"models": r["models"] | {"draft_provenance": {"acceptance": {"1": {"acceptance": 0.71234}}}}})
            for r in records]
    assert "accepted 0.712 of the time" in words.drafts(held) and "0.71 on held-out texts" in texts(plot_llm.figures(held)["needed"])
    assert "held-out texts of its training, T=1: 0.712" in texts(plot_llm.figures(held)["acceptance"])


def test_sentences_say_what_features_are_worth(folder):
    (main, own) = [r for r in fresh(folder) if r.arm("bare")]
    said = words.features_sentence(main)
    s, without = (llm_bench_records.spread(llm_bench_records.speedups(arm, main.arm("plain"))) for arm in (main.measured()[0], main.arm("bare")))
    assert f"is accepted 0.650 of the time and gives {s['median']:.2f}x; the same weights without them 0.550 and {without['median']:.2f}x" in said
    assert said in words.answer(fresh(folder)) and words.features_sentence(own).startswith("graph path (transformers' target")
    (eager,) = [r for r in fresh(folder) if (r["kind"], r["path"], r["batch"], r["temperature"]) == ("compare", "eager", 1, 1)]
    assert words.features_sentence(eager) is None and "Theirs reads paper-16m without its features" in words.assisted_sentence(eager)
    eager["models"]["draft_features"] = False
    assert "without its features" not in words.assisted_sentence(eager)


def test_sentences_say_what_is_slow_in_transformers_own_way(folder):
    (record,) = [r for r in fresh(folder) if (r["kind"], r["path"], r["batch"], r["temperature"]) == ("compare", "eager", 1, 1)]
    theirs, ours = record.arm("assisted", draft_len=4), record.arm("speculation", "v10")
    for rate, place, verdict in ((0.5, "reached", "rather in what a step costs"), (1.5, "not reached", "rather in what a step costs")):
        theirs["runs"]["tokens_per_s"] = [rate * value for value in ours["runs"]["tokens_per_s"]]
        said = words.assisted_sentence(record)
        assert f"{1 / rate:.2f} times as many" in said and f"), {place}. With K=4" in said and verdict in said
    theirs["runs"]["emitted"] = [round(value / 3) for value in theirs["runs"]["emitted"]]
    theirs["runs"]["new_tokens"] = [round(value / 3) for value in theirs["runs"]["new_tokens"]]
    theirs["runs"]["tokens_per_s"] = [value / 3 for value in ours["runs"]["tokens_per_s"]]
    assert "rather in what is accepted" in words.assisted_sentence(record)
    plain = record.arm("plain")["runs"]
    assert words.drift_sentence(record) is None
    plain["tokens_per_s"] = [value * (1 + seed) for seed, value in zip(plain["seed"], plain["tokens_per_s"])]
    assert "the machine's own speed changed" in words.drift_sentence(record)


def test_what_is_not_recorded_is_said(folder):
    records = fresh(folder)
    assert words.missing(records) is None and words.missing([]) is None
    fewer = [r for r in records if r["kind"] != "samplers" and (r["fused"], r["batch"]) != ("draft", 8)]
    lacking = "graph samplers B=1 T=1 fused=both; eager samplers B=1 T=1; graph compare B=8 T=1 fused=draft"
    assert words.missing(fewer) == f"Not recorded yet: {lacking}." and words.missing(fewer) in words.answer(fewer, brief=True)
    assert not any("the best K" in said for said in words.answer(records, brief=True))


def test_the_page_and_the_report_show_them(folder, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- llm:begin -->\n<!-- llm:end -->\n")
    assert readme.update(page, folder, {}) and "(paper/llm/methods.svg)" in page.read_text() and "* Goal of 1.8x" in page.read_text()
    assert (folder / "paper" / "llm" / "k_sweep.svg").is_file()
    made = report.write(folder, tmp_path / "report", {}, progress=False)
    text = made.read_text()
    assert "<h2 id='llm'>What is it worth in a language model?</h2>" in text and "Goal of 1.8x" in text and text.count("<figure>") == 7
    assert {path.name for path in (tmp_path / "report" / "figures" / "paper" / "llm").iterdir()} >= {"methods.png", "shares.svg"}
    assert blocks.block(tmp_path / "nothing", "llm", tmp_path, {}) == (llm_bench_page.EMPTY, {})
