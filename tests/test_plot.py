"""plot.py and readme.py on made-up records, which live in memory and in tmp_path only."""
import re

import pytest

from spec_toolkit import plot, reading, readme, results

SAMPLERS = {"python_loop": (None, 4500, 4400), "torch_vectorised": (240, 900, 700), "torch_compile": (130, 300, 120), "v1": (650, 670, 9), "v2": (42, 61, 8)}


def record(sampler, batch=4, vocab=32000, run="run1", flush="read", stale=False, scale=1.0, draft_len=8):
    gpu, call, host = SAMPLERS[sampler]

    def times(name, middle):
        middle = None if middle is None else middle * scale
        return {f"{name}_{k}": None if middle is None else middle * f for k, f in (("median", 1), ("p10", .95), ("p90", 1.2))} | {
            f"{name}_samples": None if middle is None else [middle] * 100}
    made = results.Record(
        format=results.FORMAT, experiment="quick_demo", run_id=run, created="2026-11-23T10:00:00+00:00", sampler=sampler,
        source_hash=sampler, flush=flush, check={"passed": True}, **times("gpu_us", gpu), **times("call_us", call), **times("host_us", host),
        gpu_us_missing=None if gpu else "it synchronises with the host, so it cannot be captured in a graph",
        problem={"batch": batch, "draft_len": draft_len, "vocab": vocab, "dtype": "float32", "kind": "probs", "seed": 0, "shape": "zipf",
                 "draft_rows": True, "acceptance_requested": 0.7, "acceptance_measured": 0.7003},
        limits={"stream_read_us_median": 6.0 * scale, "empty_launch_us_median": 3.6},
        environment={"gpu": "NVIDIA H200", "torch": "2.11.0", "driver": "580.1", "git": "0123456789abcdef"})
    made.stale = stale
    return made


def demo(**changes):
    return [record(name, **changes) for name in SAMPLERS]


def grid():
    return [record(name, b, v, f"r{b}-{v}", scale=0.6 + b * v / 2e5 * (0.3 if name == "v2" else 1))
            for name in ("torch_vectorised", "v1", "v2") for b in (1, 4, 16, 64) for v in (32000, 128256)]


def words(chart):
    return " ".join(t.get_text() for axes in chart.axes for t in [*axes.texts, *axes.get_yticklabels()])


def test_caption_names_hardware_dtype_flush_and_sizes():
    text = reading.caption(demo())
    for part in ("NVIDIA H200", "float32 probabilities", "flushed by reading", "B=4", "V=32,000", "K=8", "100 samples", "acceptance 0.70", "commit 012345678"):
        assert part in text


def test_bars_show_every_sampler_the_limit_and_the_speedup():
    chart = plot.bars(demo())
    text = words(chart)
    assert all(name in text for name in SAMPLERS) and "1x (baseline)" in text and "73.8x" in text and "no GPU time" in text
    assert any(line.get_color() == plot.RED for line in chart.axes[0].lines), "the limit line"
    assert chart._repr_png_()[:4] == b"\x89PNG"


def test_bars_mark_stale_records_and_refuse_mixed_problems():
    records = demo()
    records[-1].stale = True
    chart = plot.bars(records)
    assert "v2 (stale)" in words(chart) and any(p.get_hatch() for p in chart.axes[0].patches)
    with pytest.raises(ValueError, match="several"):
        plot.bars(demo() + demo(batch=8))
    with pytest.raises(ValueError, match="no records"):
        plot.bars([])


def test_a_ratio_needs_one_run_and_one_problem():
    ours = record("v2")
    assert plot.speedup(ours, [record("python_loop")], "python_loop") == pytest.approx(4500 / 61)
    assert plot.speedup(ours, [record("python_loop", run="run2")], "python_loop") is None
    assert plot.speedup(ours, [record("python_loop", batch=8)], "python_loop") is None
    assert plot.speedup(ours, [record("python_loop")], "python_loop", "gpu_us") is None
    assert "| – |" in plot.table([ours, record("python_loop", run="run2")])


def test_lines_draw_each_sampler_and_the_limit():
    some = [r for r in grid() if r["problem"]["vocab"] == 128256]
    drawn = plot.lines(some, "batch").axes[0].lines
    assert [line.get_label() for line in drawn] == ["torch_vectorised", "v1", "v2", "limit: plain read, same bytes"]
    assert list(drawn[0].get_xdata()) == [1, 4, 16, 64]
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 4
    assert plot.lines(some, "batch", baseline="v1").axes[0].get_ylabel().startswith("times faster than v1")
    with pytest.raises(ValueError, match="several records at the same batch"):
        plot.lines(grid(), "batch")
    with pytest.raises(ValueError, match="accepted are"):
        plot.lines(some, "colour")


def test_heatmap_cells_are_ratios_of_one_run():
    records = [r for r in grid() if (r["problem"]["batch"], r["problem"]["vocab"]) != (16, 32000)]
    records += [record("v2", 16, 32000, "a"), record("v1", 16, 32000, "b")]
    texts = [t.get_text() for t in plot.heatmap(records, "v1", "v2").axes[0].texts if t.get_fontsize() > 6]  # below: the limits
    assert len(texts) == 8 and texts.count("not run") == 1
    with pytest.raises(ValueError, match="no records"):
        plot.heatmap(records, "v1", "v9")


def test_table_has_a_row_each_and_columns_for_what_varies():
    text = plot.table(demo() + demo(batch=16, run="run2"))
    rows = text.splitlines()
    assert len(rows) == 12 and rows[0].startswith("| B | sampler |") and len({row.count("|") for row in rows}) == 1
    assert rows[2].startswith("| 4 | python_loop | – | 4,500") and "1.00x" in rows[2] and "73.77x" in rows[6] and "14%" in rows[6]
    assert "| flush |" in plot.table(demo() + demo(flush="write"))


def test_saved_files_are_the_same_twice(tmp_path):
    first = [p.read_bytes() for p in plot.save(plot.bars(demo()), tmp_path / "a" / "figure.png")]
    again = [p.read_bytes() for p in plot.save(plot.bars(demo()), tmp_path / "b" / "figure")]
    assert first == again and {p.name for p in (tmp_path / "a").iterdir()} == {"figure.png", "figure.svg"}


def test_readme_blocks_are_filled_from_records(tmp_path):
    for made in demo() + demo(flush="write", run="run2"):
        folder = tmp_path / "results" / "h200" / "quick_demo"
        folder.mkdir(parents=True, exist_ok=True)
        results.write_atomically(folder / f"{made['sampler']}-{made['flush']}.json", results._json(made))
    page = tmp_path / "README.md"
    page.write_text("top\n<!-- quick_demo:begin -->\nold\n<!-- quick_demo:end -->\n<!-- later:begin -->\n<!-- later:end -->\nend\n")
    hashes = {name: name for name in SAMPLERS} | {"v1": "edited"}
    assert readme.update(page, hashes=hashes) and not readme.update(page, hashes=hashes)
    text = page.read_text()
    assert "old" not in text and text.startswith("top\n") and text.endswith("end\n") and "No times are recorded for `later`" in text
    assert "v1 (stale)" in text and "v2 (stale)" not in text
    (image,) = re.findall(r"\((\S+\.svg)\)", text)
    assert (tmp_path / image).exists() and (tmp_path / image).with_suffix(".png").exists()


def test_readme_refuses_loose_markers():
    with pytest.raises(ValueError, match="without a partner"):
        readme.fill("<!-- a:begin -->\n", {})
    with pytest.raises(KeyError, match="nowhere"):
        readme.fill("<!-- a:begin -->\n<!-- a:end -->\n", {"nowhere": "x"})


def test_readme_figure_of_a_grid_takes_one_slice():
    assert len(readme.figure(grid()).axes[0].lines) == 4
