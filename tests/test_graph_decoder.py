"""The fast path against the plain one: the same greedy text, the same law; on a GPU with its graphs, on a CPU without."""
import contextlib
import copy
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from tiny_llm import KINDS, PROMPTS, REPEATING, VOCAB, NoLooks, drafts, law_test, naive, speculation_follows_the_law

from spec_toolkit import graph_capture, load_sampler
from spec_toolkit.bound_baseline import BoundBaseline, can_be_bound
from spec_toolkit.drafting import NgramDrafter
from spec_toolkit.features import attach
from spec_toolkit.graph_capture import CaptureFailed, captured
from spec_toolkit.graph_decoder import GraphDecoder
from spec_toolkit.graph_step import Step
from spec_toolkit.llm import Decoder, NoMass
from spec_toolkit.loop_law import Accepting, moved, tiny_model
from spec_toolkit.verifier import BEST

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
FEW = 5_000  # runs are enough to refuse what is badly wrong
MIXED = {"max_new_tokens": 20, "temperature": [1.0, 0.0, 0.7], "seeds": [3, 4, 2**64 - 1]}


@pytest.fixture(scope="module")
def target():
    return tiny_model()


@pytest.fixture(scope="module")
def small():
    return tiny_model(vocab=VOCAB, sharp=0.2, seed=3)


def small_decoder(model, kind="model", **options):
    return GraphDecoder(model, draft={"model": moved(model, 0.08), "ngram": NgramDrafter(3, shortest=1)}[kind], draft_len=3, **options)


# ---- greedy: the same text ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 5])
def test_greedy_text_and_steps_are_those_of_the_plain_path(target, kind, length):
    draft = drafts(target, length)[kind]
    ours, usual = (cls(target, draft=draft, draft_len=length).speculate(PROMPTS, max_new_tokens=30) for cls in (GraphDecoder, Decoder))
    assert ours.tokens == usual.tokens == [naive(target, prompt, 30) for prompt in PROMPTS]
    assert (ours.steps, ours.emitted, ours.tested, ours.accepted) == (usual.steps, usual.emitted, usual.tested, usual.accepted)


@pytest.mark.parametrize("fused", ["draft", "both"])
def test_fused_forwards_write_the_same_text(target, fused):
    """Greedy and random, plain and with drafts. In float64 what differs is rounding, and no near tie is among these."""
    for sampled in ({"max_new_tokens": 30}, MIXED):
        ours, usual = (GraphDecoder(target, draft=moved(target), fused=kind) for kind in (fused, "none"))
        assert ours.speculate(PROMPTS, **sampled).tokens == usual.speculate(PROMPTS, **sampled).tokens
        assert ours.plain(PROMPTS, **sampled).tokens == usual.plain(PROMPTS, **sampled).tokens


def test_stop_tokens_and_one_decoder_for_several_shapes(target):
    """Plain and speculative calls, batches of three and of one, a longer text and a shorter one, in one decoder."""
    decoder = GraphDecoder(target, draft=moved(target))
    whole = decoder.plain(PROMPTS, max_new_tokens=30).tokens
    stop = {whole[0][6], whole[2][14]}
    until = lambda row: row[:next((i + 1 for i, token in enumerate(row) if token in stop), len(row))]
    expected = [until(row) for row in whole]
    for method in (decoder.speculate, decoder.plain, decoder.speculate):
        assert method(PROMPTS, max_new_tokens=30, stop=stop).tokens == expected
        assert method(PROMPTS[2:], max_new_tokens=100).tokens[0][:30] == whole[2]
    assert decoder.slots == 128 and len(decoder._steps) == 4
    assert decoder.plain([[1]], max_new_tokens=0).tokens == [[]]


def test_a_draft_of_another_vocabulary():
    target = tiny_model(vocab=60)
    for vocab in (40, 90):
        decoder = GraphDecoder(target, draft=tiny_model(vocab=vocab, seed=3))
        for heat in (0.0, 1.0):
            rows = decoder.speculate([[1, 59, 3], [4, 5]], max_new_tokens=12, temperature=heat).tokens
            assert heat or rows == decoder.plain([[1, 59, 3], [4, 5]], max_new_tokens=12).tokens
            assert all(0 <= token < 60 for row in rows for token in row)


# ---- random ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["python_loop", "v5", "v9"])
def test_every_kind_of_sampler_gives_the_same_text(target, name):
    """... whatever draws the drafts: the numbers are the same."""
    draft = moved(target)
    ours = GraphDecoder(target, draft=draft, sampler=name, drawer="v9", draft_len=2)
    usual = GraphDecoder(target, draft=draft, sampler="torch_vectorised", draft_len=2)
    options = MIXED | {"max_new_tokens": 8}
    for seeds in ([3, 4, 2**64 - 1], [5, 6, 7]):
        first, second = (decoder.speculate(PROMPTS, **options | {"seeds": seeds}) for decoder in (ours, usual))
        assert first.tokens == second.tokens and first.emitted == second.emitted
    assert first.tokens != ours.speculate(PROMPTS, **options).tokens, "other seeds, other texts"


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_does_not_depend_on_its_batch(target, kind):
    decoder, seeds = GraphDecoder(target, draft=drafts(target)[kind]), [11, 12, 2**63 + 5]
    options = {"max_new_tokens": 20, "temperature": 1.0}
    together = decoder.speculate(PROMPTS, seeds=seeds, **options).tokens
    assert together == decoder.speculate(PROMPTS[::-1], seeds=seeds[::-1], **options).tokens[::-1]
    assert together == [decoder.speculate([prompt], seeds=[seed], **options).tokens[0] for prompt, seed in zip(PROMPTS, seeds)]


def test_law_of_plain_decoding(small):
    assert law_test(small, REPEATING, GraphDecoder(small).plain).passed


@pytest.mark.parametrize("kind", ["model", "ngram"])
def test_law_of_speculation(small, kind):
    speculation_follows_the_law(small, small_decoder(small, kind))


def test_law_of_what_is_taken_on_a_gpu(small):
    """BEST verifies and draws the drafts, as it does there: by proposals, and so by other numbers than those above."""
    decoder = GraphDecoder(small, draft=moved(small, 0.08), sampler=BEST, drawer=BEST, draft_len=3)
    result = law_test(small, REPEATING, decoder.speculate, FEW)
    assert result.passed and result.cells > 20, result


def test_the_tests_refuse_what_is_wrong(small, target, monkeypatch):
    assert not law_test(small, REPEATING, small_decoder(small, sampler=Accepting()).speculate, FEW).passed
    monkeypatch.setattr("spec_toolkit.graph_step.seeds_of_drafts", lambda seeds: seeds)  # drafting and recovery share their numbers
    assert not law_test(small, REPEATING, small_decoder(small).speculate).passed
    monkeypatch.undo()
    monkeypatch.setattr("spec_toolkit.graph_step.draw", lambda logits, *_: logits.argmax(1))  # not drawn from the rows handed on
    assert not law_test(small, REPEATING, small_decoder(small).speculate, FEW).passed
    monkeypatch.undo()

    def follow(step, right=Step.follow):  # a text shorter by one than what was emitted
        right(step)
        step.length.sub_(1)
    monkeypatch.setattr(Step, "follow", follow)
    decoder = GraphDecoder(target, draft=moved(target))
    assert decoder.speculate(PROMPTS, max_new_tokens=30).tokens != [naive(target, prompt, 30) for prompt in PROMPTS]


# ---- what a graph could not hold -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, fused", [("model", "none"), ("model", "both"), ("with features", "none"), ("with features", "both"), ("ngram", "none")])
def test_no_function_of_a_step_looks_at_the_host(target, kind, fused):
    """... the models of transformers included; `sampler` is a kernel's launches where it is captured."""
    decoder = GraphDecoder(target, draft=drafts(target)[kind], fused=fused)
    decoder.speculate(PROMPTS, max_new_tokens=2)
    ((step, run),) = decoder._steps.values()
    with NoLooks():
        for name in run.keys() - {"sampler"}:
            run[name]()
        with pytest.raises(AssertionError, match="looks at the host"):
            bool(step.length.sum())


# ---- what cannot be met ------------------------------------------------------------------------------------------------

class WithRows:
    has_rows, draft_len = True, 2


def test_what_cannot_be_decoded(target):
    with pytest.raises(ValueError, match="draft: got WithRows, accepted: a model, or a drafter without rows"):
        GraphDecoder(target, draft=WithRows())
    with pytest.raises(ValueError, match="fused: got 'all', accepted: none, draft, both"):
        GraphDecoder(target, fused="all")
    with pytest.raises(ValueError, match="compile: got True, accepted: none, draft, both"):
        GraphDecoder(target, compile=True)
    with pytest.raises(ValueError, match="max_length: got 32, accepted: at least 37"):
        GraphDecoder(target, max_length=32).plain([[1, 2, 3, 4, 5]], max_new_tokens=30)
    with pytest.raises(ValueError, match="prompts: got the id 97"):
        GraphDecoder(target).plain([[97]], max_new_tokens=1)
    with pytest.raises(ValueError, match="draft: got None"):
        GraphDecoder(target).speculate([[1]], max_new_tokens=1)
    broken = copy.deepcopy(target)
    broken.lm_head.weight.data.fill_(float("nan"))
    decoder = GraphDecoder(broken, draft=moved(target))
    with pytest.raises(NoMass, match="request 0: its target row has nothing to draw from"):
        decoder.speculate([[1]], max_new_tokens=4)
    broken.lm_head.weight.data.copy_(target.lm_head.weight.data)
    assert decoder.speculate([PROMPTS[0]], max_new_tokens=9).tokens == [naive(target, PROMPTS[0], 9)], "it recovers"


# ---- on a GPU: the graphs themselves -------------------------------------------------------------------------------------

def on_gpu(target, kind="model", **options):
    draft = drafts(target)[kind]
    return GraphDecoder(copy.deepcopy(target).cuda(), draft=draft if kind == "ngram" else copy.deepcopy(draft).cuda(), **options)


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["model", "with features", "ngram"])
@pytest.mark.parametrize("sampler", ["v10", "v9", "v5", "torch_vectorised"])
def test_graphs_write_the_text_of_a_cpu(target, kind, sampler):
    """In float64 the rows are those of the CPU but for rounding, and the random numbers are the same bits. Three runs of one decoder:
    a replay takes the seeds that are in the buffers then, and no number twice. V10 draws by other numbers than the rest: it is its own
    usual."""
    drawer, slow = ("v10", "v10") if sampler == "v10" else ("v9", "torch_vectorised")
    decoder = on_gpu(target, kind, sampler=sampler, drawer=drawer)
    usual = GraphDecoder(target, draft=drafts(target)[kind], sampler=slow, drawer=drawer)
    texts = []
    for seeds in ([3, 4, 5], [6, 7, 8], [3, 4, 5]):
        options = MIXED | {"seeds": seeds}
        ours = decoder.speculate(PROMPTS, **options)
        texts.append(ours.tokens)
        assert ours.tokens == usual.speculate(PROMPTS, **options).tokens
        assert decoder.plain(PROMPTS, **options).tokens == usual.plain(PROMPTS, **options).tokens
    assert texts[0] == texts[2] != texts[1] and min(ours.seconds.values()) >= 0 < ours.seconds["target"]


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("fused, compile", [("none", "draft"), ("both", "none"), ("both", "both")])
def test_replays_are_the_launches_one_by_one(target, fused, compile):
    ours, usual = (on_gpu(target, capture=capture, fused=fused, compile=compile).speculate(PROMPTS, **MIXED) for capture in (True, False))
    assert ours.tokens == usual.tokens


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("fused", ["none", "both"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("features", [False, True])
def test_greedy_graphs_in_the_dtypes_of_real_models(target, features, dtype, fused):
    """A target that is its own draft, or is so with a matrix of zeros for features: near ties aside, all is accepted, so the caches of
    both are right."""
    model = copy.deepcopy(target).to(dtype).cuda()
    draft = copy.deepcopy(model)
    if features:
        attach(draft)
    decoded = GraphDecoder(model, draft=draft, draft_len=4, fused=fused, compile="both").speculate(PROMPTS, max_new_tokens=40)
    assert decoded.tokens_per_step > 3


@gpu
@pytest.mark.gpu
def test_law_of_graphs(small):
    decoder = GraphDecoder(copy.deepcopy(small).cuda(), draft=moved(small, 0.08).cuda(), draft_len=3)
    result = law_test(small, REPEATING, decoder.speculate)
    assert result.passed and result.detectable_tv < 0.05, result


WAITING = """
import torch
from spec_toolkit.graph_capture import captured
held = torch.zeros(1, device="cuda")
run = captured({"adding": lambda: held.add_(1)}, "cuda")
held.zero_()
for _ in range(3):
    run["adding"]()
assert held.item() == 3
try:
    captured({"adding": lambda: held.add_(1), "looking": lambda: held.item()}, "cuda")
except RuntimeError as error:
    print(error)
"""


@gpu
@pytest.mark.gpu
def test_a_part_that_waits_is_named():
    """In a process of its own: a capture that fails may leave CUDA in no state for other tests."""
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True)
    assert re.match("looking: got .* accepted: launches alone", done.stdout), done.stdout + done.stderr
    assert done.stdout.count("\n") == 1, "a line, whatever PyTorch adds to its own"


def test_what_a_capture_failed_of_is_said_in_a_line(monkeypatch):
    """... also where the reason has many."""
    @contextlib.contextmanager
    def failing(*_, **__):
        yield
        raise RuntimeError("CUDA error: operation failed\nSearch for it.\n\n" + "advice " * 500)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", failing)
    with pytest.raises(CaptureFailed) as found:
        graph_capture._capture("looking", lambda: None, None, None)
    said = str(found.value)
    assert re.fullmatch("looking: got RuntimeError: CUDA error: operation failed Search for it. .* ...; accepted: launches alone.*", said)
    assert len(said) < 600 and "Search" in str(found.value.__cause__)


def test_without_a_gpu_the_functions_are_themselves():
    counted = []
    run = captured({"one": lambda: counted.append(1)}, "cpu")
    run["one"]()
    assert counted == [1]


def test_baselines_bound_once_have_the_numbers_of_every_step(target):
    """Numbers made ahead, against a loop that binds at every step; too many requests for that are decoded as well."""
    draft, options = moved(target), MIXED | {"seeds": [3, 4, 5]}
    decoder = GraphDecoder(target, draft=draft, sampler="torch_vectorised", drawer="v9", draft_len=2)
    ours = decoder.speculate(PROMPTS, **options)
    ((step, _),) = decoder._steps.values()
    assert isinstance(step.verifier.call, BoundBaseline)
    usual = GraphDecoder(target, draft=draft, sampler="python_loop", drawer="v9", draft_len=2).speculate(PROMPTS, **options)
    assert ours.tokens == usual.tokens and ours.emitted == usual.emitted
    assert not can_be_bound(load_sampler("torch_vectorised"), 1 << 12, 64) and not can_be_bound(load_sampler("python_loop"), 1, 64)
