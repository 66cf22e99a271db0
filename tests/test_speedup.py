"""The comparison of plain and speculative decoding, and what it says of made-up times."""
from types import SimpleNamespace

import pytest

from spec_toolkit.decoding import Decoded, Stopwatch
from spec_toolkit.speedup import Comparison, compare


def decoded(rate, tokens=((1, 2, 3, 4),), emitted=(2, 2), tested=(2, 1), accepted=(1, 1)):
    count = sum(map(len, tokens))
    return Decoded([list(row) for row in tokens], len(emitted), list(emitted), list(tested), list(accepted),
                   {"draft": 0.1 * count / rate, "target": 0.7 * count / rate, "sampler": 0.2 * count / rate, "rest": 0.0})


def comparison(*ratios, greedy=True, **ours):
    return Comparison([(decoded(10.0, emitted=(1,) * 4), decoded(10.0 * ratio, **ours)) for ratio in ratios], 2, greedy)


@pytest.mark.parametrize("ratios, said", [
    ((1.5, 2.0, 1.2), "faster in each of 3 runs: 1.50x (1.20x to 2.00x)"),
    ((1.5, 0.9, 1.2), "faster in 2 of 3 runs, not in all: 1.20x (0.90x to 1.50x)"),
    ((0.9, 0.8, 1.2), "No speedup: speculation was faster in 1 of 3 runs: 0.90x")])
def test_the_verdict_is_what_the_runs_say(ratios, said):
    result = comparison(*ratios)
    assert said in result.verdict() and said in str(result) and result.speedups == pytest.approx(list(ratios))


def test_the_table():
    text = str(comparison(2.0, 3.0))
    plain, ours = (line for line in text.splitlines() if line.startswith(("plain", "speculation")))
    assert plain.split()[1:6] == ["10.0", "(10.0", "to", "10.0)", "1.00"]
    assert ours.split()[2:7] == ["25.0", "(20.0", "to", "30.0)", "2.00"] and ours.split()[7:] == ["10.0%", "70.0%", "20.0%", "0.0%"]
    assert "accepted, by position: 50%, 100%" in text and "same both ways: 2 of 2" in text
    assert "none looked at" in str(comparison(2.0, tested=(2, 0), accepted=(1, 0)))


def test_texts_that_part_are_said():
    text = str(comparison(2.0, tokens=[(1, 2, 3, 5)]))
    assert "same both ways: 0 of 1" in text and "near tie" in text
    assert "both ways" not in str(comparison(2.0, greedy=False)), "random texts by other numbers are not the same"


def test_prompts_seeds_and_order():
    calls, lines = [], []

    def method(name):
        return lambda prompts, **options: calls.append((name, prompts, options.get("seeds"))) or decoded(10.0)
    decoder = SimpleNamespace(plain=method("plain"), speculate=method("ours"), drafter=SimpleNamespace(draft_len=2))
    result = compare(decoder, [[1], [2], [3]], max_new_tokens=4, repeats=2, batch=2, seed=7, progress=lines.append)
    timed = calls[2:]  # after a short run of each
    assert len(result.pairs) == 4 == len(lines) and [name for name, *_ in timed] == ["plain", "ours", "ours", "plain"] * 2
    assert [(prompts, seeds) for _, prompts, seeds in timed[::2]] == [
        ([[1], [2]], [7, 8]), ([[3]], [9]), ([[1], [2]], [1007, 1008]), ([[3]], [1009])]
    assert timed[0][1:] == timed[1][1:], "both decode the same"
    with pytest.raises(ValueError, match="got 0, 1, accepted: 1 or more"):
        compare(decoder, [[1]], max_new_tokens=1, repeats=0)


def test_a_stopwatch_loses_no_time():
    watch = Stopwatch("cpu")
    for part in ("draft", "target", "draft", "rest"):
        watch.mark(part)
    seconds, whole = watch.seconds(), watch.marks[-1][1] - watch.marks[0][1]
    assert sum(seconds.values()) == pytest.approx(whole) and seconds["draft"] > 0 == seconds["sampler"]
