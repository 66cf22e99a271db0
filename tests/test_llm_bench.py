"""Ways to decode, measured: cells, records, resume, failures, transformers' own way, the look at the rows."""
import dataclasses
import json
import logging

import pytest
import torch

pytest.importorskip("transformers")
import made_up_loops
from transformers import GenerationConfig

from spec_toolkit import cli, llm_bench, llm_bench_arms, llm_bench_costs, llm_bench_pair, llm_bench_records, loop_law, pretrained
from spec_toolkit.assisted import Assisted
from spec_toolkit.features import takes_features
from spec_toolkit.llm import Decoder
from spec_toolkit.llm_bench_cells import KINDS, Arm, Cell, cells
from spec_toolkit.llm_bench_probe import Probe, law, parting
from spec_toolkit.llm_prompts import PROMPTS


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with loop_law.one_thread():
        yield


@pytest.fixture(scope="module")
def pair():
    return llm_bench_pair.tiny_pair(4)


PLAIN, OURS = Arm("plain", "torch_vectorised"), Arm("speculation", "torch_vectorised", 3)
ASSISTED = Arm("assisted", None, 3, seeds=1)


def small(**changes):
    return dataclasses.replace(Cell("compare", "eager", 1, 1.0, 6, 2, 2, (PLAIN, OURS, ASSISTED)), **changes)


# ---- cells ---------------------------------------------------------------------------------------------------------------

def test_the_cells_hold_what_is_asked():
    found = cells("v10")
    asked = {("compare", "eager"), ("compare", "graph"), ("samplers", "eager"), ("samplers", "graph"), ("k_sweep", "graph")}
    assert {(c.kind, c.path) for c in found} == asked
    assert [(c.path, c.kind) for c in found[:3]] == [("graph", "compare"), ("graph", "compare"), ("eager", "compare")], "the main cells come first"
    main = found[0]
    assert (main.batch, main.temperature, main.prompts, main.seeds) == (1, 1.0, 24, 3) and (found[2].prompts, found[2].seeds) == (20, 3)
    assert {c.batch for c in found} == {1, 8} and {c.temperature for c in found} == {0.0, 0.7, 1.0}
    assert not any(arm.method == "assisted" for c in found if c.batch > 1 for arm in c.arms), "transformers takes one request at a time"
    names = ["python_loop", "torch_vectorised", "torch_compile", "v1", "v2", "v9", "v10"]
    assert [arm.sampler for arm in next(c for c in found if c.kind == "samplers").arms] == names
    sweep = next(c for c in found if c.kind == "k_sweep")
    assert [arm.draft_len for arm in sweep.arms if arm.method == "speculation"] == list(range(1, 9))
    assert {c.path for c in cells("v10", paths=["eager"])} == {"eager"} and {c.kind for c in cells("v10", kinds=["samplers"])} == {"samplers"}
    mains = [c for c in found if (c.kind, c.path, c.batch, c.temperature) == ("compare", "graph", 1, 1.0)]
    ways = [[(arm.method, arm.sampler, arm.seeds) for arm in c.arms] for c in mains]
    assert [c.fused for c in mains] == ["both", "draft"] and ways[0][:4] == ways[1], "of equal standing, but for transformers' way"
    assert [c.fused for c in found if c.kind == "k_sweep"] == ["both", "draft"]
    lens = lambda cell: [arm.draft_len for arm in cell.arms if arm.sampler == "v10" and arm.method == "speculation"]
    assert [*map(lens, mains)] == [[3, 5], [5, 7]] and lens(found[2]) == [4], "what was best in a sweep"
    assert {k for c in cells("v10", 6) if c.kind == "samplers" or c.path == "eager" for k in lens(c)} == {6}
    assert not any(c.fused for c in found if c.path == "eager")
    assert {c.fused for c in cells("v10", paths=["graph"], fused=["none"])} == {"none"}
    assert not any(arm.method == "bare" for c in found for arm in c.arms)
    assert [arm.draft_len for c in cells("v10", features=True) for arm in c.arms if arm.method == "bare"] == [3, 5]
    assert len({json.dumps(c.spec) for c in found}) == len({str(c) for c in found}) == len(found)


def test_processes_may_run_some_cells_each():
    """What is chosen does not change a cell, and choices by every word of it together make the whole."""
    whole = cells("v10")
    parts = [cells("v10", paths=["graph"], fused=["both"], kinds=["compare"]), cells("v10", paths=["graph"], fused=["draft"], batches=[1]),
             cells("v10", paths=["eager"], temperatures=[1.0]), cells("v10", paths=["eager"], temperatures=[0.0]),
             cells("v10", paths=["graph"], fused=["draft"], batches=[8]), cells("v10", paths=["graph"], fused=["both"], kinds=["samplers", "k_sweep"])]
    assert sorted(json.dumps(c.spec) for part in parts for c in part) == sorted(json.dumps(c.spec) for c in whole)
    assert all(parts) and cells("v10", batches=[3]) == []


def test_prompts_are_short_various_and_enough():
    assert len(PROMPTS) >= 20 and len(set(PROMPTS)) == len(PROMPTS) and max(map(len, PROMPTS)) < 200


# ---- a run ---------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def recorded(pair, tmp_path_factory):
    """A main cell on both paths, greedy and at temperature 1, through record_all."""
    out = tmp_path_factory.mktemp("loops")
    chosen = [small(), small(path="graph", batch=2, arms=(PLAIN, OURS), prompts=4, fused="both"), small(temperature=0.0, seeds=1)]
    assert llm_bench.record_all(pair, chosen, out)
    return chosen, out


def test_a_record_holds_every_run(recorded, pair):
    _, out = recorded
    records = llm_bench_records.load(out)
    assert len(records) == 3 and all(path.path.parent == out / "cpu" / "llm" for path in records)
    record = next(r for r in records if r["path"] == "eager" and r["temperature"] == 1)
    plain, ours, assisted = (record.arm(method) for method in ("plain", "speculation", "assisted"))
    for arm, runs in ((plain, 4), (ours, 4), (assisted, 2)):
        assert all(len(column) == runs for column in arm["runs"].values())
    assert list(zip(ours["runs"]["prompt"], ours["runs"]["seed"])) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert plain["runs"]["new_tokens"] == [6] * 4 and plain["runs"]["steps"] == [6] * 4 and not plain["texts"]
    assert plain["check"]["passed"] and ours["source_hash"] and assisted["source_hash"] is None and assisted["check"] is None
    assert len(ours["tested"]) == 3 and ours["tested"][0] >= ours["tested"][1] and sum(ours["tested"]) > 0
    for place in range(4):
        parts = sum(ours["runs"][f"{part}_s"][place] for part in llm_bench_records.PARTS)
        assert ours["runs"]["tokens_per_s"][place] == pytest.approx(ours["runs"]["emitted"][place] / parts, rel=1e-3)
    assert record["models"] == pair.names and pair.names["draft_hash"] != pair.names["target_hash"]
    assert {"torch", "transformers", "git", "gpu"} <= set(record["environment"]) and record["seconds"] > 0
    assert len(record["predicted"]) == 3 and all(0 < value <= 1 for value in record["predicted"] if value is not None)
    both = next(r for r in records if r["path"] == "graph")
    assert both.arm("plain")["runs"]["prompt"] == [0, 2] * 2 and "predicted" not in both
    assert record["own_forward"] is None and both["own_forward"] == "eager" and not both.compiled, "on a CPU nothing is compiled"


def test_tokens_beyond_the_limit_count_unless_a_text_has_ended(pair):
    from spec_toolkit.decoding import Decoded

    arm = llm_bench_arms.Running(llm_bench_pair.make_pair(pair.target, pair.draft, pair.prompts, {9}), small(), OURS)
    rate = lambda *texts: arm._rate(Decoded(list(texts), emitted=[4, 4], seconds={"draft": 0.5, "target": 1.5}))
    assert (arm.tokens, rate([1] * 6), rate([1] * 5 + [9]), rate([1] * 6, [1, 9]), rate([])) == (6, 4.0, 3.0, 4.0, None)


def test_greedy_texts_are_kept_and_equal(recorded):
    (record,) = [r for r in llm_bench_records.load(recorded[1]) if r["temperature"] == 0]
    plain = record.arm("plain")
    assert [len(text) for text in plain["texts"]] == [6, 6] and record["partings"] == []
    for method in ("speculation", "assisted"):
        assert llm_bench_records.equal_texts(record.arm(method), plain) == (2, 2)


def test_resume_runs_nothing_that_is_finished(recorded, pair, monkeypatch, capsys):
    chosen, out = recorded
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    monkeypatch.setattr(llm_bench, "run_cell", lambda *_: pytest.fail("a finished cell was run again"))
    assert llm_bench.record_all(pair, chosen, out, resume=True)
    assert "0 of 3 cells to run" in capsys.readouterr().out and before == {path: path.read_bytes() for path in out.rglob("*.json")}
    monkeypatch.setattr(llm_bench, "run_cell", lambda _, cell: (_ for _ in ()).throw(RuntimeError("run")))
    other = llm_bench_pair.tiny_pair(3)
    for others, changed in ((other, chosen), (pair, [small(tokens=7)])):  # other prompts, another cell
        assert not llm_bench.record_all(others, changed[:1], out / "new", resume=True)
    monkeypatch.setattr(llm_bench, "source_hash", lambda name: "another source")
    assert not llm_bench.record_all(pair, chosen[:1], out, resume=True)
    for path, content in before.items():
        path.write_bytes(content)


def test_a_failing_cell_is_recorded_and_does_not_stop_the_rest(pair, tmp_path, capsys, monkeypatch):
    run = llm_bench.run_cell
    monkeypatch.setattr(llm_bench, "run_cell", lambda given, cell: run(given, cell) if cell.path == "graph" else 1 / 0)
    chosen = [small(seeds=1, prompts=1), small(path="graph", seeds=1, prompts=1, arms=(PLAIN, OURS))]
    assert not llm_bench.record_all(pair, chosen, tmp_path)
    assert "FAIL eager compare B=1 T=1: ZeroDivisionError" in capsys.readouterr().out
    assert [r["path"] for r in llm_bench_records.load(tmp_path)] == ["graph"]
    failed = [r for r in llm_bench_records.load(tmp_path, failed=True) if r["error"]]
    assert len(failed) == 1 and failed[0]["error"].startswith("ZeroDivisionError") and failed[0]["environment"]["torch"]
    monkeypatch.setattr(llm_bench, "run_cell", run)
    assert llm_bench.record_all(pair, chosen, tmp_path, resume=True), "what failed is run again, what is finished is not"
    assert "1 of 2 cells to run" in capsys.readouterr().out and len(llm_bench_records.load(tmp_path)) == 2


def test_an_arm_that_fails_is_left_out_with_its_reason(pair, tmp_path, monkeypatch):
    class Wrong:
        name, kind, draw, source_hash, reports_status = "wrong", "baseline", "cdf", "0", False

        def bind(self, problem):
            call = llm_bench_arms.loop_sampler("torch_vectorised").bind(problem)

            def bound():
                call()[0].fill_(1)
                return call.outputs
            bound.outputs = call.outputs
            return bound

        def __call__(self, problem):
            return self.bind(problem)()

    right = llm_bench_arms.loop_sampler
    monkeypatch.setattr(llm_bench_arms, "loop_sampler", lambda name: Wrong() if name == "python_loop" else right(name))
    arms = (PLAIN, OURS, Arm("speculation", "python_loop", 3), Arm("speculation", "none such", 3))
    made = llm_bench.run_cell(pair, small(seeds=1, prompts=1, arms=arms))
    assert [arm["name"] for arm in made["arms"]] == ["plain", "speculation, torch_vectorised, K=3"]
    assert "the check has not passed" in made["left_out"]["speculation, python_loop, K=3"]
    assert "none such" in made["left_out"]["speculation, none such, K=3"]
    with pytest.raises(RuntimeError, match="none such"):
        llm_bench.run_cell(pair, small(arms=(Arm("speculation", "none such", 3),)))


def test_time_is_up_between_cells(pair, tmp_path, capsys):
    chosen = [small(seeds=1, prompts=1, arms=(PLAIN,)), small(seeds=1, prompts=1, arms=(PLAIN,), temperature=0.7)]
    assert not llm_bench.record_all(pair, chosen, tmp_path, stop_after=1e-9)
    assert "with 2 cells left: --resume goes on from here" in capsys.readouterr().out and not list(tmp_path.rglob("*.json"))


def test_a_draft_is_read_without_its_features_too(pair):
    """The same weights: an arm of its own, and what transformers reads; the record says that there are features."""
    bare = Arm("bare", "torch_vectorised", 3)
    assert pair.names["draft_features"] and pair.features and not takes_features(pair.bare) and takes_features(pair.draft)
    assert all(ours is theirs for ours, theirs in zip(pair.bare.parameters(), pair.draft.model.parameters()))
    for cell in (small(seeds=1, arms=(PLAIN, OURS, bare), temperature=0.0), small(path="graph", fused="draft", seeds=1, arms=(PLAIN, OURS, bare))):
        record = llm_bench_records.LoopRecord(llm_bench.run_cell(pair, cell))
        assert not record["left_out"] and record.measured() == [record.arm("speculation")]
        assert record.arm("bare")["name"] == "speculation without features, torch_vectorised, K=3"
        assert record.arm("bare")["tested"] and record.arm("bare")["runs"]["emitted"] != record.arm("speculation")["runs"]["emitted"]
    without = llm_bench_pair.make_pair(pair.target, pair.bare, pair.prompts)
    assert not without.names["draft_features"]
    assert "bare: got a draft without features" in llm_bench.run_cell(without, small(seeds=1, arms=(PLAIN, bare)))["left_out"][str(bare)]


def test_ngrams_draft_without_a_model(pair, tmp_path):
    without = llm_bench_pair.make_pair(pair.target, None, [[1, 2, 3, 1, 2], [4, 4, 4]], draft_name="ngram")
    made = llm_bench.run_cell(without, small(seeds=1))
    assert [arm["method"] for arm in made["arms"]] == ["plain", "speculation"] and without.names["draft_hash"] is None
    assert "got n-grams, accepted: a draft model" in made["left_out"]["transformers' assisted, K=3"]


# ---- transformers' own way, the look at the rows -----------------------------------------------------------------------------

def test_assisted_generation_is_lossless_and_timed_behind_its_first_step(pair):
    prompt, model = pair.prompts[0], pair.target
    settings = model.generation_config, pair.draft.generation_config
    plain = Decoder(model).plain([prompt], max_new_tokens=12).tokens
    for draft_len in (3, None):
        done = Assisted(model, pair.draft, draft_len).speculate([prompt], max_new_tokens=12)
        assert done.tokens == plain and 0 < sum(done.emitted) < 12 and 0 < done.seconds < done.whole_seconds
        assert draft_len is None or max(done.emitted) <= draft_len + 1
    assert (model.generation_config, pair.draft.generation_config) == settings
    runs = [Assisted(model, pair.draft).speculate([prompt], max_new_tokens=8, temperature=1.0, seeds=[seed]).tokens for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    stop = plain[0][4]
    assert Assisted(model, pair.draft).speculate([prompt], max_new_tokens=12, stop={stop}).tokens[0] == plain[0][:plain[0].index(stop) + 1]
    short = Assisted(model, pair.draft).speculate([prompt], max_new_tokens=1)
    assert short.tokens_per_second is None and short.tokens_per_step is None and short.new_tokens == 1
    with pytest.raises(ValueError, match="got 2, accepted: 1"):
        Assisted(model, pair.draft).speculate([prompt, prompt], max_new_tokens=1)


def test_assisted_generation_passes_its_options_in_one_way(pair, monkeypatch):
    """No warning of transformers is printed: the one that it gives itself is held back, others are not."""
    heard, logger = [], logging.getLogger("transformers.generation.utils")
    monkeypatch.setattr(logger, "warning_once", lambda text, *_: logger.warning(text))  # at every call
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: heard.append(record.getMessage()))
    logger.addHandler(handler)
    try:
        Assisted(pair.target, pair.draft).speculate([pair.prompts[0]], max_new_tokens=8, temperature=1.0)
        assert heard == []
        pair.target.generate(torch.tensor([[1]]), generation_config=GenerationConfig(pad_token_id=0), max_new_tokens=1)
        assert any("together with generation-related" in text for text in heard)
    finally:
        logger.removeHandler(handler)


def test_assisted_generation_draws_from_the_whole_law():
    """More than fifty words are drawn: no top-k is left on."""
    flat = loop_law.tiny_model(vocab=97, sharp=0.01)
    options = {"max_new_tokens": 6, "temperature": 1.0}
    words = [t for seed in range(40) for t in Assisted(flat, flat, 3).speculate([[1, 2]], seeds=[seed], **options).tokens[0]]
    assert len(set(words)) > 60


def test_the_probe_predicts_what_is_accepted(pair):
    probe = Probe(3)
    decoder = Decoder(pair.target, draft=pair.draft, sampler=probe, draft_len=3)
    done = decoder.speculate([pair.prompts[0]], max_new_tokens=250 - 9, temperature=1.0, seeds=[5])
    assert probe.counts[0] == done.tested[0] and abs(probe.counts[2] - done.tested[2]) <= 1
    for predicted, rate, count in zip(probe.predicted, done.acceptance, done.tested):
        assert abs(predicted - rate) < 4 * (predicted * (1 - predicted) / count) ** 0.5 + 0.02
    target, draft = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    assert torch.minimum(law(target, 1.0), law(draft, 1.0)).sum() == pytest.approx(2 * law(target, 1.0)[0, 0] + law(target, 1.0)[0, 1])
    assert law(target, 0.0).tolist() == [[0, 0, 1]] and Probe(2).predicted == [None, None]


@pytest.mark.parametrize("path, fused", [("eager", None), ("graph", "both")])
def test_every_path_is_looked_at(pair, path, fused):
    found = llm_bench.predicted(pair, small(path=path, fused=fused))
    assert found["predicted_tested"][0] >= 4 and all(0 < value < 1 for value in found["predicted"][:2])
    assert llm_bench.predicted(pair, small(path="eager", temperature=0.7)) == llm_bench.predicted(pair, small(kind="samplers")) == {}


def test_where_texts_part(pair):
    text = Decoder(pair.target).plain([pair.prompts[0]], max_new_tokens=6).tokens[0]
    other = [*text[:3], (text[3] + 1) % 97, 5]
    found = parting(pair.target, pair.prompts[0], text, other)
    assert found["place"] == 3 and found["tokens"] == [text[3], other[3]]
    assert found["gap"] == found["below_top"] > 0 < found["spacing"] < 1e-12 and 0 <= found["noise"] < 1e-12
    first = parting(pair.target, pair.prompts[0], text, [text[0] + 1])
    assert first["place"] == 0 and 0 <= first["noise"] < 1e-12
    assert parting(pair.target, pair.prompts[0], text, text[:4]) is None


# ---- records made up -----------------------------------------------------------------------------------------------------

def test_the_newest_pair_of_the_machine_is_taken(tmp_path):
    for record in made_up_loops.records(created="2026-11-20T00:00:00+00:00", models=made_up_loops.MODELS | {"draft": "older"}):
        llm_bench_records.write(record, tmp_path)
    for record in made_up_loops.records():
        llm_bench_records.write(record, tmp_path)
    found = llm_bench_records.latest(llm_bench_records.load(tmp_path))
    assert len(found) == len(cells("v10")) and {r["models"]["draft"] for r in found} == {"paper-16m"}
    assert llm_bench_records.latest([]) == [] and llm_bench_records.load(tmp_path, kind="k_sweep")[0]["kind"] == "k_sweep"
    (tmp_path / "paper" / "llm" / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="broken.json is not a JSON record"):
        llm_bench_records.load(tmp_path)


def test_numbers_of_made_up_records():
    main, sweep = (llm_bench_records.LoopRecord(made_up_loops.record(next(c for c in cells("v10", 4) if c.kind == kind)))
                   for kind in ("compare", "k_sweep"))
    plain, ours = main.arm("plain"), main.arm("speculation", "v10")
    assert llm_bench_records.spread(llm_bench_records.speedups(plain, plain)) == {"median": 1.0, "p10": 1.0, "p90": 1.0}
    parts = llm_bench_records.step_ms(ours)
    assert parts["draft"] == pytest.approx(0.4 * parts["target"], rel=1e-6) and llm_bench_records.step_ms(main.arm("assisted")) is None
    assert llm_bench_records.sampler_shares(ours)[0] == pytest.approx(0.02 / 2.92, rel=1e-6)
    assert llm_bench_records.expected_tokens(0.5, 3) == 1.875 and llm_bench_records.expected_tokens(1.0, 4) == 5
    whole = llm_bench_records.run_step_ms(ours)
    assert len(whole) == len(ours["runs"]["seed"]) and 1.04 * 2.84 * 0.95 > min(whole) >= 0.95 * 2.92 - 1e-6
    assisted = main.arm("assisted")
    one = {key: values[0] for key, values in assisted["runs"].items()}
    assert llm_bench_records.run_step_ms(assisted)[0] == pytest.approx(1000 * one["emitted"] / one["tokens_per_s"] / one["steps"])
    assert llm_bench_records.kept_per_step(assisted) == pytest.approx(one["new_tokens"] / (one["steps"] + 1)), "its first step is counted"
    assert llm_bench_records.kept_per_step(plain) == 1
    model = llm_bench_costs.cost_model(sweep)
    assert model["acceptance"] == pytest.approx(0.65, abs=0.01) and set(model["tokens_per_s"]) == set(range(1, 9))
    assert model["best"] == max(model["tokens_per_s"], key=model["tokens_per_s"].get)
    assert abs(model["best"] - llm_bench_records.best_draft_len(sweep)) <= 1


def test_what_a_speedup_takes():
    """Costs are those of the record, and the acceptance that is told gives the speedup; where none does, it says so."""
    records = [llm_bench_records.LoopRecord(r) for r in made_up_loops.records()]
    graph, draft, eager = llm_bench_costs.costs(records)
    assert [cost.draft_len for cost in graph] == [cost.draft_len for cost in draft] == list(range(1, 9))
    assert [found[0].record["kind"] for found in (graph, draft, eager)] == ["k_sweep", "k_sweep", "compare"]
    _, alone, _ = llm_bench_costs.costs([r for r in records if (r["kind"], r["fused"]) != ("k_sweep", "draft")])
    assert [cost.draft_len for cost in alone] == [4, 6], "without a sweep, of the comparison, and not of the arm without features"
    third = graph[2]
    assert third.plain_steps == pytest.approx((0.3 * 2 + 2 + 0.02 + 0.1) / (2 + 0.02 + 0.1), rel=0.03)
    assert third.speedup(third.needed(1.8)) == pytest.approx(1.8) and third.speedup(third.needed(1.8) - 1e-3) < 1.8
    assert third.speedup(1.0) == pytest.approx(4 / third.plain_steps) and third.needed(third.speedup(1.0) + 0.01) is None
    assert third.seen == pytest.approx(third.speedup(third.acceptance), rel=0.08), "the made-up drafts are independent"
    best = llm_bench_costs.cheapest(graph, 1.8)
    assert best.needed(1.8) == min(cost.needed(1.8) for cost in graph if cost.needed(1.8)) and llm_bench_costs.cheapest(graph, 9.0) is None
    assert llm_bench_costs.costs([]) == [] and llm_bench_costs.table([], 1.8) == ""


def test_a_changed_sampler_makes_its_arms_stale(tmp_path):
    for record in made_up_loops.records():
        llm_bench_records.write(record, tmp_path)
    hashes = {name: name for name in made_up_loops.SAMPLER_MS}
    assert not any(r.stale for r in llm_bench_records.load(tmp_path, hashes))
    stale = {r.stale for r in llm_bench_records.load(tmp_path, hashes | {"v10": "changed", "v1": "changed"}) if r["kind"] == "samplers"}
    assert stale == {("v1", "v10")}


def test_the_command(monkeypatch, tmp_path, capsys, pair):
    monkeypatch.setattr(llm_bench_pair, "load_pair", lambda *_: pair)
    words = ["llm-bench", "--device", "cpu", "--prompts", "2", "--seeds", "1", "--eager-tokens", "4", "--paths", "eager", "--kinds",
             "samplers",
             "--out", str(tmp_path / "r"), "--archive", str(tmp_path / "a.tar.gz"), "--stop-after", "0.000001"]
    assert cli.main(words) == 1 and "a.tar.gz: 0 files" in capsys.readouterr().out
    assert cli.main([*words, "--batches", "3"]) == 2 and "--batches, --temperatures: got no cell" in capsys.readouterr().err
    assert cli.main([*words[:3], "--seeds", "0"]) == 2 and "--seeds" in capsys.readouterr().err
    monkeypatch.setattr(llm_bench_pair, "load_pair", lambda *_: (_ for _ in ()).throw(pretrained.ModelError("no such model")))
    assert cli.main(words) == 2 and "spec-toolkit llm-bench: no such model" in capsys.readouterr().err
    assert set(cli.build_parser().parse_args(["llm-bench"]).kinds) == set(KINDS)
