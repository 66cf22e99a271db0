"""reading.py and tables.py: medians, ratios within one run, the newest runs, and the tables made of them."""
import pytest
from made_up import record

from spec_toolkit import reading, tables


def grid(ours=1.0):
    """v9 takes `ours` times what is written here; the peers one value each."""
    found = []
    for batch, megabytes, limit in ((1, 1, 4.0), (16, 30, 10.0), (64, 60, 17.0), (256, 240, 54.0)):
        at = {"batch": batch, "experiment": "grid", "megabytes": megabytes, "limit_us": limit}
        found += [record("v9", ours * (limit + 4), **at), record("flashinfer_chain", 2 * (limit + 4) if batch == 64 else 8 * (limit + 4), **at),
                  record("transformers", None, call_us=1000.0 * batch, **at)]
    return found


def test_rungs_come_in_order_and_before_the_others():
    records = [record(name, 5.0) for name in ("torch_compile", "v10", "v2", "v2-BLOCK64", "flashinfer_chain")]
    assert reading.kernels_first(records) == ["v2", "v2-BLOCK64", "v10", "torch_compile", "flashinfer_chain"]


def test_ratios_are_a_mean_and_the_worst_cell():
    chain, transformers = reading.ratios(grid(), "v9")
    assert (chain.peer, chain.metric, chain.cells) == ("flashinfer_chain", "gpu_us", 4) and chain.worst["problem"]["batch"] == 64
    assert chain.least == pytest.approx(2) and chain.mean == pytest.approx((8**3 * 2) ** 0.25)
    assert transformers.metric == "call_us" and transformers.least == pytest.approx(1000 / 28)  # a call takes 20 µs more than the GPU
    text = tables.ratios([chain, transformers])
    assert "| flashinfer_chain | GPU | 4 | 5.7x | 2.00x | B=64, K=4, V=128,256 |" in text and "| transformers | whole call | 4 |" in text


def test_a_ratio_needs_one_run():
    ours, *others = grid()[:3]
    assert len(reading.ratios([ours, *others], "v9")) == 2
    assert reading.ratios([ours, *(r | {"run_id": "another"} for r in others)], "v9") == []


def test_problems_that_differ_in_anything_are_not_the_same():
    a = record("v1", 5.0, vocab=32001, run="r")
    assert reading.same_problem(a, record("v2", 4.0, vocab=32001, run="r"))
    assert not reading.same_problem(a, record("v2", 4.0, vocab=32001, run="r", row_padding=1))
    assert not reading.same_problem(a, record("v2", 4.0, vocab=32001, run="r", flush="write"))


def test_latest_keeps_the_newest_run_of_each_problem_on_the_newest_gpu():
    old = [record("v1", 9.0, run="old"), record("v0", 9.0, run="old"), record("v1", 9.0, batch=64, run="old 64")]
    new = [record("v1", 5.0, run="new", created="2026-11-25T00:00:00+00:00"), record("v1", 6.0, run="w", flush="write")]
    other = [record("v1", 1.0, run="other", gpu="NVIDIA Older", created="2026-11-01T00:00:00+00:00")]
    kept = reading.latest([*old, *new, *other])
    assert {r["run_id"] for r in kept} == {"old 64", "new", "w"} and reading.latest([]) == []
    assert reading.latest([record("v1", None)]) == [], "a check without a time is no time"


def test_where_filters_by_problem_and_flush():
    records = [record("v1", 5.0, batch=b, flush=f) for b in (1, 2) for f in ("read", "write")]
    assert len(reading.where(records, batch=2)) == 2 and len(reading.where(records, "write", batch=2)) == 1


def test_shares_are_sorted_into_the_goals():
    rows = [row.split(" | ") for row in tables.shares(grid(), "v9").splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == ["200 MB or more", "50 MB or more", "20 MB or more", "under 20 MB"]
    assert [row[2] for row in rows] == ["90%", "80%", "70%", "–"] and [row[3] for row in rows] == ["93%", "81%", "71%", "50%"]
    assert all(row[-1].strip("| ") == "4.0" for row in rows), "µs above the limit"


def test_the_ladder_table_has_a_row_for_each_sampler_and_the_limit():
    at = {"limit_us": 4.0, "batch": 1}
    text = tables.ladder([record("v2", 8.0, **at), record("v1", 6400.0, **at), record("transformers", None, call_us=900.0, **at),
                          record("v1", 6400.0, batch=64), record("v2", 10.0, batch=64, stale=True)])
    rows = text.splitlines()
    assert rows[2].startswith("| v1 | 6,400 | <1% | 1.0x |") and rows[3].startswith("| v2 | 8.0 | 50% | 800x | 10.0 | 40% | 640x |")
    assert rows[4].startswith("| transformers | – | – | – | – | – | – |") and rows[5].startswith("| plain read of the same bytes | 4.0 | 100% |")
    assert len({row.count("|") for row in rows}) == 1


def test_the_host_table_shows_binding_and_issuing():
    assert "| B=1, K=4, V=128,256 | v1 | 150 | 9.0 | 28.0 | 8.0 |" in tables.host([record("v1", 8.0)])


def test_the_seed_stands_beside_ours_without_a_ratio_between_gpus():
    at = {"draft_len": 8, "batch": 2}
    text = tables.beside_the_seed([record("python_loop", None, call_us=900.0, **at), record("v9", 10.0, **at)], {(2, 128256): 0.76, (4, 128256): 0.69},
                                  "RTX 3060", "v1", "v9")
    assert "| B=2, K=8, V=128,256 | 0.76x | 900 | – | – | 30.0 | 30.00x |" in text and "| B=4, K=8, V=128,256 | 0.69x | – | – | – | – | – |" in text


def test_who_was_left_out_is_said_once():
    records = [record(name, 5.0, draft_len=0, left_out={"flashinfer_chain": "ValueError: K"}) for name in ("v1", "v2")]
    assert tables.left_out(records) == "* flashinfer_chain is left out of 1 problem(s): ValueError: K" and tables.left_out([record("v1", 5.0)]) == ""


def test_numbers():
    assert [reading.number(x) for x in (1234.4, 99.96, 12.34, -0.04)] == ["1,234", "100.0", "12.3", "0.0"] and reading.percent(0.004) == "<1%"
