"""conditions.py and plot_shapes.py: what is said and drawn of other flushes, odd rows and other types of rows."""
import pytest
from made_up import record

from spec_toolkit import conditions, plot_shapes, reading, tables


def under(sampler, us, limit_us=5.0, flush="read", **problem):
    return record(sampler, us, limit_us=limit_us, flush=flush, **{"batch": 4, "draft_len": 2, "vocab": 1000} | problem)


FLUSHED = [under("v2", 10.0), under("v2", 16.0, 8.0, "write"), under("v2", 20.0, batch=64), under("v2", 30.0, 6.0, "write", batch=64),
           under("v1", 900.0), under("flashinfer_chain", 50.0), under("flashinfer_chain", 55.0, flush="write")]


def test_flushes_are_told_of_the_last_rung():
    said = conditions.sentence("flush_modes", FLUSHED)
    assert said.startswith("v2 takes 10.0 to 16.0 µs at B=4, 20.0 to 30.0 µs at B=64")
    assert "at B=64 it is slowest after a flush by writing" in said and said.endswith("it reaches 20% or more.")


def test_odd_rows_are_those_that_no_vector_load_fits():
    assert [conditions.is_odd(under("v1", 1.0, vocab=vocab)) for vocab in (1000, 1001, 1002, 1004)] == [False, True, True, False]
    records = [under("v1", 800.0), under("v1", 1600.0, vocab=1001), under("v2", 10.0), under("v2", 12.5, vocab=1001),
               under("flashinfer_chain", 50.0), under("flashinfer_chain", 100.0, vocab=1001)]
    assert conditions.sentence("misaligned", records) == (
        "At B=4, K=2, V=1,000, and at V=1,001, whose rows do not start at multiples of 16 bytes: v2 takes 10.0 µs (50% of the limit) and 12.5 µs "
        "(40% of the limit); v1 takes 800 µs (<1% of the limit) and 1,600 µs (<1% of the limit); flashinfer_chain takes 50.0 µs (10% of the limit) "
        "and 100 µs (5% of the limit).")
    assert conditions.sentence("misaligned", records[:1]) == "", "there is nothing beside it"


def test_types_of_rows_stand_the_slowest_first():
    said = conditions.sentence("dtypes", [under("v2", 6.0, 3.0, dtype="bfloat16"), under("v2", 10.0), under("v2", 1.0, batch=1)])
    assert said.startswith("At B=4, K=2, V=1,000 v2 takes 10.0 µs (50% of the limit) for float32 rows") and "6.0 µs (50% of the limit) for bfloat16" in said


@pytest.mark.parametrize("experiment", conditions.SENTENCES)
def test_nothing_is_said_of_nothing(experiment):
    assert conditions.sentence(experiment, []) == conditions.sentence(experiment, [under("flashinfer_chain", 9.0)]) == ""


def test_each_condition_has_a_row():
    axes = plot_shapes.by_shape(FLUSHED, "flush").axes[0]
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert rows[:2] == ["B=4, K=2, V=1,000\nflushed by reading", "B=4, K=2, V=1,000\nflushed by writing"] and len(rows) == 4
    assert "cold" not in axes.get_xlabel()
    axes = plot_shapes.by_shape([under("v2", 10.0), under("v2", 11.0, row_padding=1)], "row_padding").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["B=4, K=2, V=1,000", "B=4, K=2, V=1,000, padded by 1"] and "cold" in axes.get_xlabel()


def test_kernels_stand_first_in_the_order_of_the_ladder_and_beside_each_other():
    records = [under(name, us) for name, us in (("torch_vectorised", 90.0), ("v10", 9.0), ("softmax+v7", 50.0), ("v9", 8.0), ("v8", 10.0))]
    styles = plot_shapes.samplers(records)
    assert list(styles) == ["v8", "v9", "v10", "softmax+v7", "torch_vectorised"] and len({style["color"] for style in styles.values()}) == 5
    marks = [line for line in plot_shapes.by_shape(records).axes[0].lines if line.get_marker() in {style["marker"] for style in styles.values()}]
    assert len({float(line.get_ydata()[0]) for line in marks}) == 5


def test_numbers_are_printed_without_exponents():
    assert [reading.times(x) for x in (2803.06, 99.96, 16.84, 5.0, 0.071)] == ["2,803x", "100x", "16.8x", "5.00x", "0.07x"]
    assert [reading.tick(x) for x in (0.01, 5.0, 1e6)] == ["0.01", "5", "1,000,000"]
    assert [reading.two_digits(x) for x in (0.0521, 3.14, 99.6, 4078.0)] == ["0.052", "3.1", "100", "4,100"]
    assert "| 1,234 |" in tables.table([under("v2", 10.0, batch=1234), under("v2", 10.0, batch=1)])
