"""parts.py, plot_ladder.py and plot_grid.py on made-up records: what is drawn is what the records say."""
import pytest
from made_up import record

from spec_toolkit import parts, plot, plot_grid, plot_ladder, readme, results


def texts(axes):
    return " ".join(t.get_text() for t in axes.texts)


def ladder():
    return [record(name, us * batch**0.5, batch=batch, stale=name == "v2") for batch in (64, 1)
            for name, us in (("v1", 6400.0), ("flashinfer_chain", 65.0), ("v2", 8.0))]


def test_the_ladder_has_a_panel_for_each_problem_and_the_limit_in_it():
    chart = plot_ladder.ladder(ladder())
    first, second = chart.axes
    assert [t.get_text() for t in first.get_yticklabels()] == ["v1", "v2 (stale)", "flashinfer_chain"]
    assert "8.0 · 50% · 800x" in texts(second) and "65.0 · 6% · 98.5x" in texts(second) and "6,400 · <1%" in texts(second)
    assert "B=64" in first.get_title() and "limit 4.0 µs" in first.get_title()
    assert {tuple(line.get_xdata()) for line in second.lines if line.get_color() == plot.RED} >= {(4.0, 4.0)}
    assert any(patch.get_hatch() == "xxxx" for patch in first.patches), "stale bars are hatched"
    with pytest.raises(ValueError, match="no records"):
        plot_ladder.ladder([record("transformers", None, call_us=5.0)])


def profile():
    """v5: launch 3.5, draw 1, accept 0.5, rows 4; the peer refuses the problem without drafts."""
    found = []
    for draft_len, vocab, us, peer in ((0, 32, 4.5, None), (4, 32, 5.0, 9.0), (4, 128256, 9.0, 300.0)):
        at = {"draft_len": draft_len, "vocab": vocab, "experiment": "profile", "limit_us": 5.2}
        found += [record("v5", us, **at)] + ([record("flashinfer_chain", peer, **at)] if peer else [])
    return found


def test_a_call_is_taken_apart_by_differences():
    ours, peer = parts.take_apart(profile())
    assert ours.stack == pytest.approx({"launch": 3.5, "draw": 1.0, "accept": 0.5, "rows": 4.0}) and ours.limit == 5.2
    assert peer.draw is None and peer.stack == pytest.approx({"launch": 3.5, "accept": 5.5, "rows": 291.0})
    assert sum(ours.stack.values()) == pytest.approx(ours.whole) and sum(peer.stack.values()) == pytest.approx(peer.whole)
    assert "| B=1, K=4, V=128,256 | flashinfer_chain | 3.5 | – | 5.5 | 291 | 300 | 5.2 |" in parts.table([ours, peer])
    assert parts.take_apart([r for r in profile() if r["problem"]["vocab"] > 1000]) == []


def test_long_bars_are_cut_and_say_so():
    axes = plot_ladder.taken_apart(parts.take_apart(profile()), profile()).axes[0]
    assert "9.0 µs" in texts(axes) and "300 µs →" in texts(axes) and axes.get_xlim()[1] < 60


def grid():
    return [record(name, us + slope * megabytes, batch=batch, draft_len=k, vocab=vocab, experiment="grid", megabytes=megabytes, limit_us=4 + megabytes / 4.5)
            for batch, megabytes in ((1, 1.0), (256, 240.0)) for k in (1, 4) for vocab in (32000, 128256)
            for name, us, slope in (("v5", 6.0, 0.24), ("flashinfer_chain", 20.0, 0.6))]


def test_time_is_drawn_against_the_bytes_with_the_limit():
    axes = plot_grid.against_bytes(grid()).axes[0]
    by_name = {line.get_label(): line for line in axes.lines}
    assert set(by_name) >= {"v5", "flashinfer_chain", "limit: plain read of the same bytes", "empty launch"}
    assert sorted(by_name["v5"].get_xdata()) == [1.0] * 4 + [240.0] * 4 and axes.get_xscale() == axes.get_yscale() == "log"
    at, us = plot_grid.bend(grid())
    assert us == pytest.approx(4 + 1 / 4.5) and at == pytest.approx(us * 240 / (4 + 240 / 4.5)) and f"{at:.0f} MB" in texts(axes)


def test_the_share_of_the_limit_is_drawn_with_the_goals():
    axes = plot_grid.shares(grid(), "v5").axes[0]
    (ours,) = [line for line in axes.lines if line.get_label() == "v5"]
    assert max(ours.get_ydata()) == pytest.approx((4 + 240 / 4.5) / (6 + 0.24 * 240)) and not any(line.get_label() == "flashinfer_chain" for line in axes.lines)
    assert {tuple(line.get_ydata()) for line in axes.lines} >= {(0.7, 0.7), (0.8, 0.8), (0.9, 0.9), (1, 1)}


def test_a_heat_map_has_a_panel_for_each_k():
    panels = plot.heatmap(grid(), "flashinfer_chain", "v5").axes
    assert [axes.get_title() for axes in panels[:2]] == ["K=1", "K=4"] and all(len(axes.texts) == 8 for axes in panels[:2])
    few, many = f"{20.6 / (4 + 1 / 4.5):.3g}x", f"{164 / (4 + 240 / 4.5):.3g}x"  # the limits
    assert texts(panels[0]).split() == ["3.30x", few, "3.30x", few, "2.58x", many, "2.58x", many]
    whole = plot.heatmap(grid(), "flashinfer_chain", "v5", "call_us").axes
    assert len(whole[0].texts) == 4, "the limit is one of GPU time"
    with pytest.raises(ValueError, match="several records"):
        plot.heatmap(grid() + grid(), "flashinfer_chain", "v5")


def test_a_speedup_is_drawn_with_its_limit():
    drawn = plot.lines([r for r in grid() if r["problem"]["draft_len"] == 4 and r["problem"]["vocab"] == 32000], baseline="flashinfer_chain").axes[0].lines
    (limit,) = [line for line in drawn if line.get_label().startswith("limit")]
    assert list(limit.get_ydata()) == pytest.approx([20.6 / (4 + 1 / 4.5), 164 / (4 + 240 / 4.5)])


def test_the_readme_shows_each_experiment_in_its_own_way(tmp_path):
    for i, made in enumerate([*ladder(), *profile(), *grid()]):
        folder = tmp_path / "results" / "paper" / made["experiment"]
        folder.mkdir(parents=True, exist_ok=True)
        results.write_atomically(folder / f"{i}.json", results.to_text(made))
    page = tmp_path / "kernels" / "README.md"
    page.parent.mkdir()
    page.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("ladder", "grid", "profile")))
    hashes = dict.fromkeys(("v1", "v2", "v5", "flashinfer_chain"))
    assert readme.update(page, tmp_path / "results", hashes) and not readme.update(page, tmp_path / "results", hashes)
    text = page.read_text()
    assert "| plain read of the same bytes |" in text and "| faster than | time |" in text and "| launch (an empty kernel) |" in text
    for name in ("ladder/figure", "grid/figure", "grid/bytes", "grid/shares", "profile/figure"):
        assert f"](../results/paper/{name}.svg)" in text and (tmp_path / f"results/paper/{name}.png").is_file()
