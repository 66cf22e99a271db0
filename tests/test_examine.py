"""The report: a right sampler passes, each of its four parts can fail alone, and it prints, as text, HTML and JSON."""
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from spec_toolkit import check, examine, load_sampler, suite
from spec_toolkit import examine as public_examine
from spec_toolkit.baselines import load_baseline
from spec_toolkit.composed import load_composed
from spec_toolkit.exact_law import output_law
from spec_toolkit.examine import ALPHA, effort, laws
from spec_toolkit.law import LawResult
from spec_toolkit.poison import SENTINEL
from spec_toolkit.problem import Outputs
from spec_toolkit.verdict import Report


class Wrong:
    """The vectorised baseline, with `mistake(problem, outputs)` after each call."""
    name, kind, draw, ulps, reports_status, source_hash = "wrong", "baseline", "cdf", 1.0, False, "w"

    def __init__(self, mistake, name="torch_vectorised", **attributes):
        self.right, self.mistake = load_baseline(name), mistake
        vars(self).update(attributes)

    def bind(self, problem):
        call = self.right.bind(problem)

        def wrong():
            self.mistake(problem, call())
            return call.outputs
        wrong.outputs = call.outputs
        return wrong

    def __call__(self, problem):
        return Outputs(*(tensor.clone() for tensor in self.bind(problem)()))


class Own(Wrong):
    """A peer's like: numbers from PyTorch's generator, one draft length for all, no ragged batch."""
    name, draw, own_generator, law_draws = "own", None, True, 20_000

    def bind(self, problem):
        if len(set(problem.draft_len)) > 1:
            raise ValueError("own: got ragged drafts, accepted: one length")
        call = self.right.bind(problem)
        call.accept_u, call.recover_u = torch.rand_like(call.accept_u), torch.rand_like(call.recover_u)

        def run():
            self.mistake(problem, call())
            return call.outputs
        run.outputs = call.outputs
        return run


def nothing(problem, outputs):
    pass


def failed(mistake, level="quick", cls=Wrong, **words):
    report = examine(cls(mistake), level, device="cpu", **words)
    return report.failed, report


# ---- right ones pass

@pytest.mark.parametrize("name", ["v1", "v2", "torch_vectorised"])
def test_right_samplers_pass(name):
    report = examine(load_sampler(name), device="cpu")
    assert report and report.passed and not report.failed, str(report)
    assert len(report.results) == len(suite.listed()) and not report.refused
    assert ("guard zones whole" in str(report)) == name.startswith("v") == ("other thread orders" in str(report))
    assert "a request keeps its tokens" in str(report)


@pytest.mark.parametrize("sampler", [load_baseline("torch_vectorised"), load_composed("softmax+torch_vectorised")], ids=lambda s: s.name)
def test_logits(sampler):
    report = examine(sampler, device="cpu", kind="logits")
    assert report, str(report)
    assert report.kind == "logits" and {case.name for case, _ in report.results} == {case.name for case in suite.listed(kind="logits")}


def test_what_a_sampler_takes_is_what_it_is_asked():
    assert examine(load_composed("softmax+v1"), "few", device="cpu").kind == "logits"
    assert examine(load_sampler("v1"), "few", device="cpu").kind == "probs"


def test_check_with_a_level_is_the_report():
    report = check(load_sampler("v1"), "few")
    assert isinstance(report, Report) and report.level == "few" and report and public_examine is examine


def test_another_seed_is_another_run_of_the_same_cases():
    first, second = (examine(load_sampler("v1"), "few", device="cpu", seed=seed) for seed in (0, 1))
    assert first and second and [case.name for case, _ in first.results] == [case.name for case, _ in second.results]
    assert [law.statistic for law in first.laws] != [law.statistic for law in second.laws]


# ---- each part can fail

def test_only_tokens():
    """Wrong at a vocabulary that no edge has."""
    def mistake(problem, outputs):
        if problem.vocab == 1009:
            outputs.out_tokens[0, 0] = (outputs.out_tokens[0, 0] + 500) % 1009
    names, report = failed(mistake)
    assert names == ["tokens"] and "vocab 1009" in str(report) and "FAIL" in str(report).splitlines()[0]


def test_only_the_law():
    """Right wherever tokens are compared, biased by a few percent where they are only counted."""
    def mistake(problem, outputs):
        if problem.batch > 2000:
            outputs.out_tokens[::12, 0] = 0
    names, report = failed(mistake)
    assert names == ["law"] and "chi-square" in str(report)


def test_only_the_edges():
    def mistake(problem, outputs):
        outputs.out_tokens[outputs.out_tokens[:, 0] == -1, 0] = 0
    names, report = failed(mistake)
    assert names == ["edges"] and "empty rows" in str(report)


def test_only_the_edges_where_a_request_depends_on_its_slot():
    def mistake(problem, outputs):
        if problem.vocab == 9001 and problem.batch > 6:
            outputs.out_tokens[6:, 0] = (outputs.out_tokens[6:, 0] + 1) % problem.vocab
    names, report = failed(mistake)
    assert names == ["edges"] and "A REQUEST CHANGES" in str(report) and "in slot" in str(report)


def test_only_the_poison():
    def mistake(problem, outputs):
        if problem.vocab == 131:
            outputs.status[-1:] = SENTINEL
    names, report = failed(mistake)
    assert names == ["poison"] and "unwritten: 1 of status" in str(report)


def test_a_sampler_that_raises_fails_where_it_did():
    def mistake(problem, outputs):
        if problem.vocab in (31, 1025):
            raise RuntimeError(f"no kernel for {problem.vocab}")
    names, report = failed(mistake)
    assert {"tokens", "law", "poison"} <= {*names} and "RuntimeError: no kernel for 31" in str(report)
    unlawful = [law for law in report.laws if not law]
    assert [law.draws for law in unlawful] == [0] and "no kernel for 1025" in str(unlawful[0])


def test_nothing_run_is_no_pass():
    class Refusing(Own):
        def bind(self, problem):
            raise ValueError("refusing: got a problem, accepted: none")
    names, report = failed(nothing, "few", Refusing)
    assert names[:3] == ["tokens", "law", "edges"] and "nothing is known" in str(report) and len(report.refused) > 5


# ---- samplers with a generator of their own

def test_own_generator_passes_and_its_coupling_is_said():
    names, report = failed(nothing, "few", Own)
    assert names == [] and "well formed" in str(report) and "it has no seed of its own" in str(report)
    assert all("drafts each" in case.name or isinstance(case.arguments["draft_len"], int) for case, _ in report.results)
    assert sum(law.alpha for law in report.laws) == pytest.approx(1e-6) and report.laws[0].draws == 3000


def test_own_generator_can_fail():
    def no_rejection(problem, outputs):
        outputs.out_tokens[::2, 0] = 0
    assert {"tokens", "law"} <= {*failed(no_rejection, "few", Own)[0]}
    def never_empty(problem, outputs):
        outputs.out_tokens[outputs.num_accepted == 0, 0] = problem.vocab
    assert "edges" in failed(never_empty, "few", Own)[0]


def test_a_lost_context_stops_the_cases(monkeypatch):
    from spec_toolkit.examine import examine as function
    module = __import__("sys").modules[function.__module__]
    monkeypatch.setattr(module, "_context_lost", lambda device: True)
    def mistake(problem, outputs):
        if problem.batch == 1023:
            raise RuntimeError("device-side assert")
    report = examine(Wrong(mistake), device="cpu")
    assert len(report.results) < len(suite.listed()) and "lost in 'batch 1023'" in report.refused[-1][1] and not report


# ---- how it reads

@pytest.fixture(scope="module")
def reports():
    def mistake(problem, outputs):
        if problem.vocab in (31, 33, 1009, 1023, 1024):
            outputs.out_tokens[0, 0] = (outputs.out_tokens[0, 0] + 7) % problem.vocab
    return examine(load_sampler("v1"), device="cpu"), examine(Wrong(mistake), device="cpu")


def test_one_screen(reports):
    for report in reports:
        lines = str(report).splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 450
        assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == ["tokens", "law", "edges", "poison"]
    assert "... and" in str(reports[1]), "more failures than are shown"


def test_html_is_balanced_and_escaped(reports):
    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.seen = [], []

        def handle_starttag(self, tag, attrs):
            self.seen.append(tag)
            if tag != "br":
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag
    for report in reports:
        reader = Reader()
        reader.feed(report._repr_html_())
        assert not reader.open and reader.seen.count("tr") == 4
    assert "PASS" in reports[0]._repr_html_() and "FAIL" in reports[1]._repr_html_()


def test_json(reports):
    for report in reports:
        found = json.loads(json.dumps(report.to_dict()))
        assert found["passed"] == bool(report) and [*found["parts"]] == ["tokens", "law", "edges", "poison"]
        assert len(found["cases"]) == 75 and found["laws"][0]["draws"] == 6000 and 0 < found["laws"][0]["finest_tv"] < 0.1
    failures = json.loads(json.dumps(reports[1].to_dict()))["parts"]["tokens"]
    assert failures["failure_count"] > 4 and failures["failures"][0]["what"]["what"] in ("token", "copy", "decision")


# ---- the laws

def test_the_false_alarm_rate_is_shared(reports):
    assert sum(law.alpha for law in reports[0].laws) == pytest.approx(ALPHA)


def test_the_laws_cover_what_they_should():
    for kind in ("probs", "logits"):
        few, quick, thorough = (laws(level, kind) for level in suite.LEVELS)
        assert {*few} < {*quick} < {*thorough}
        assert any("draft_tokens" not in arguments and "draft_rows" in arguments for arguments in quick.values()), "drafts drawn: the law is the target's"
        assert any("draft_rows" not in arguments and "draft_tokens" in arguments for arguments in quick.values()), "one-hot drafts"
        for arguments in thorough.values():
            law = output_law(arguments["target_rows"], arguments.get("draft_rows"), arguments.get("draft_tokens"))
            assert sum(law.values()) == pytest.approx(1, abs=1e-6) and len(law) > 3
    assert {str(a.get("dtype")) for a in laws("thorough").values()} == {"None", "torch.float16", "torch.bfloat16"}


def test_drafts_drawn_from_their_rows_leave_the_targets_law():
    arguments = laws()["drafts drawn, 3 ids"]
    law = output_law(arguments["target_rows"], arguments["draft_rows"])
    first = np.zeros(3)
    for sequence, mass in law.items():
        first[sequence[0]] += mass
    assert first == pytest.approx(arguments["target_rows"][0] / arguments["target_rows"][0].sum(), abs=1e-6)


def test_the_slow_are_asked_for_less():
    assert effort(load_baseline("python_loop"), "thorough") == (20_000, 50) and effort(load_sampler("v1"), "thorough") == (2_000_000, 1000)
    assert effort(Own(nothing, law_draws=6000), "thorough") == (6000, 50) and effort(Own(nothing, law_draws=60_000), "quick") == (6000, 8)
    assert suite.level_for(load_baseline("torch_compile"), "thorough") == "few" and suite.level_for(load_sampler("v1"), "quick") == "quick"


def test_a_law_says_all_that_it_should():
    law = examine(load_sampler("v1"), "few", device="cpu").laws[0]
    assert isinstance(law, LawResult) and all(word in str(law) for word in ("draws", "alpha", "99% power", "total variation"))




def test_thorough_on_a_cpu_runs_all_but_what_needs_a_gpu():
    report = examine(load_sampler("v1"), "thorough", device="cpu", draws=20_000, rebatchings=2)
    assert report, str(report)
    assert report.refused == [("more than 2^31 elements", "needs a GPU")] and len(report.results) == len(suite.listed("thorough")) - 1
    assert {law.draws for law in report.laws} == {20_000} and max(result.problem.count("128256") for _, result in report.results)
