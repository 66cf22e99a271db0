"""peers.py, structure.py and crosscheck.py: refusals, hashes, and that the check of a sampler with its own generator can fail."""
import json

import pytest
import torch

from spec_toolkit import bench, composed, peers, poison, readme, results, structure
from spec_toolkit.baselines import empty_outputs, load_baseline
from spec_toolkit.check import check
from spec_toolkit.crosscheck import crosscheck
from spec_toolkit.problem import from_torch
from spec_toolkit.synthetic import make_problem

GPU = torch.cuda.is_available()


def chain(draft, tokens, target, accepted_count, emitted_count, seed=None, offset=None, residual=True):
    """FlashInfer's function in PyTorch, its signature and its habits: fresh tokens, counters added to."""
    batch, length = tokens.shape
    at = tokens.long()[..., None]
    passed = torch.rand(batch, length) * draft.gather(2, at)[..., 0] < target[:, :length].gather(2, at)[..., 0]
    n = passed.long().cumprod(1).sum(1)
    row = target[torch.arange(batch), n]
    minus = torch.nn.functional.pad(draft, (0, 0, 0, 1))[torch.arange(batch), n]
    drawn = torch.multinomial((row - minus).clamp(min=0) if residual else row, 1)
    out = torch.empty((batch, length + 1), dtype=torch.int32)
    column = torch.arange(length + 1)[None]
    rest = torch.where(column == n[:, None], drawn, -1)
    out.copy_(torch.where(column < n[:, None], torch.nn.functional.pad(tokens.long(), (0, 1)), rest))
    accepted_count += passed.sum(1).int()
    emitted_count += n.int()
    return out, accepted_count, emitted_count


class Fake(peers.Peer):
    """A peer without a package: FlashInferCall around `chain`, with `spoil(outputs)` applied to a call's outputs."""
    name, version, fresh_outputs, law_draws = "fake", "1", True, 20_000

    def __init__(self, spoil=lambda outputs: None, source_hash=None, **options):
        self.spoil, self.options, self.own_hash = spoil, options, source_hash or f"{id(self)}"

    @property
    def source_hash(self):
        return self.own_hash

    def bind(self, problem):
        spoil, options = self.spoil, self.options

        class Call(peers.FlashInferCall):
            def __call__(self):
                outputs = super().__call__()
                spoil(outputs)
                return outputs
        return Call(problem, lambda *a, **k: chain(*a, **k, **options))


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    torch.manual_seed(5)
    monkeypatch.setattr(structure, "_laws", {})


@pytest.fixture
def problem():
    return make_problem(5, 3, vocab=128, acceptance=0.7, seed=2)


# ---- the check of a sampler with its own generator ------------------------------------------------------------------

def test_a_right_one_passes_and_the_line_says_how(problem):
    result = check(Fake(), problem)
    assert result and result.exact == 5 and result.law.passed and result.law.detectable_tv < 0.1, result
    assert "5 of 5 requests well formed" in str(result) and "law not compared token by token; structure only" in str(result)
    data = json.loads(json.dumps(result.to_dict()))
    assert data["compared"] == "structure and law" and data["law"]["draws"] == 20_000 and data["passed"]
    assert check(load_baseline("torch_vectorised"), problem).to_dict()["compared"] == "tokens"


def test_without_the_residual_it_fails(problem):
    result = check(Fake(residual=False), problem)
    assert not result and any("law: FAIL" in str(failure) for failure in result.failures)


def always_accept(outputs):
    outputs.num_accepted.fill_(2)


def unwritten(outputs):
    outputs.out_tokens[1, -1] = torch.empty(1, dtype=torch.int32)[0]


def weightless(outputs):
    outputs.out_tokens[0, int(outputs.num_accepted[0])] = 0


@pytest.mark.parametrize("spoil, text", [
    (lambda o: o.num_accepted.fill_(4), "count: expected 0..3, got 4"), (always_accept, "request"),
    (lambda o: o.num_accepted.fill_(-1), "count"), (unwritten, "got 2147483647"), (weightless, "id 0 has weight zero"),
    (lambda o: o.out_tokens[2].fill_(200), "request 2 position"), (lambda o: o.out_tokens.fill_(-1), "copy: expected 5, got -1")])
def test_structure_can_fail(spoil, text):
    target = torch.full((3, 4, 16), 1 / 15)
    target[..., 0] = 0
    problem = from_torch(target, torch.full((3, 3), 5), torch.full((3, 3, 16), 1 / 16))
    structure._laws[("fake", "known", 3, False, "cpu")] = passing = check(Fake(), problem).law
    result = check(Fake(spoil, "known"), problem)
    assert passing and not result and any(text in str(failure) for failure in result.failures), result


def test_impossible_decisions_are_seen():
    target = torch.tensor([[[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]])
    draft = torch.tensor([[[0.25, 0.25, 0.25, 0.25]]])
    sure, never = (from_torch(target, torch.tensor([[token]]), draft) for token in (0, 2))
    outputs = lambda *tokens, n: [torch.tensor([tokens]).numpy(), torch.tensor([n]).numpy()]
    assert "was rejected" in structure.structure(sure, outputs(1, -1, n=0))[0]
    assert "was accepted" in structure.structure(never, outputs(2, 0, n=1))[0]
    assert not structure.structure(never, outputs(1, -1, n=0)) and not structure.structure(sure, outputs(0, 3, n=1))


def test_an_input_written_is_seen(problem):
    result = check(Fake(lambda outputs: problem.draft_tokens.add_(0) if problem.seeds.add_(1) is None else None), problem)
    assert not result and "inputs changed: seeds" in str(result)


def test_the_law_is_tested_once_per_source_and_length_and_never_through_a_graph(problem, monkeypatch):
    sampler = Fake()
    first = check(sampler, problem).law
    assert check(sampler, make_problem(2, 3, vocab=300)).law is first
    assert check(sampler, make_problem(2, 1, vocab=64)).law is not first
    call = sampler.bind(problem)
    call()
    monkeypatch.setattr(structure, "_laws", {})  # a captured call knows one problem; the law needs others
    def replay():
        tokens = call.outputs.out_tokens
        tokens.copy_(call().out_tokens)
        call.outputs = call.outputs._replace(out_tokens=tokens)
    assert check(bench._Replayed(sampler, replay, call.outputs), problem).law.passed


def test_the_mode_of_pytorch_is_put_back():
    with poison.poisoned_memory():
        assert int(torch.empty(3, dtype=torch.int32)[1]) == 2**31 - 1
    assert not torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize("draft_lse", [False, True])
def test_a_peer_behind_a_softmax(monkeypatch, draft_lse):
    problem = make_problem(5, 3, vocab=128, logits=True, temperature=[0.0, 1.0, 0.5, 2.0, 1.0], draft_lse=draft_lse, seed=2)
    sampler = composed.Composed(Fake(source_hash="behind"))
    result = check(sampler, problem)
    assert result and result.law.sampler == "softmax+fake" and sampler.own_generator and sampler.capturable, result
    monkeypatch.setattr(structure, "_laws", {})  # the law is the composite's own: a softmax that is wrong is seen
    monkeypatch.setattr(composed.Side, "_write_random", lambda self: torch.softmax(self.logits, -1, out=self.probs))
    assert not check(sampler, problem).law


# ---- FlashInfer's adapter ------------------------------------------------------------------------------------------

def test_counters_start_at_zero_and_the_offset_advances(problem):
    seen = []
    def function(draft, tokens, target, acceptable, emitted, seed, offset):
        seen.append((acceptable.tolist(), emitted.tolist(), int(offset[0]), int(seed[0])))
        return chain(draft, tokens, target, acceptable, emitted)
    call = peers.FlashInferCall(problem, function)
    for _ in range(3):
        outputs = call()
    assert [s[:2] for s in seen] == [([0] * 5, [0] * 5)] * 3 and [s[2] for s in seen] == [8, 16, 24] and len({s[3] for s in seen}) == 1
    assert torch.equal(outputs.num_accepted, (outputs.out_tokens >= 0).sum(1).int() - 1) and not outputs.status.any()


@pytest.mark.parametrize("change, text", [
    ({"draft_len": [1, 2, 1, 2]}, "same draft_len"), ({"draft_len": 0}, "same draft_len"), ({"draft_probs": False}, "one-hot")])
def test_limits_of_every_peer(change, text):
    problem = make_problem(**({"batch": 4, "draft_len": 2, "vocab": 32} | change))
    for name in peers.list_peers():
        with pytest.raises(ValueError, match=rf"^{name}: got .*{text}|^{name}: .*{text}"):
            peers.PEERS[name].bind(object.__new__(peers.PEERS[name]), problem)


def test_limits_of_flashinfer():
    chain_kernel = object.__new__(peers.FlashInferChain)  # its limits are told without the package
    with pytest.raises(ValueError, match="cuda only"):
        chain_kernel.bind(make_problem(2, 2, vocab=32))
    limits = lambda problem: peers.check_limits("x", problem, dense=True, dtypes=(torch.float32,), kinds=("probs",))
    with pytest.raises(TypeError, match="float16"):
        limits(make_problem(2, 2, vocab=32, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"problem\.probs\(\)"):
        limits(make_problem(2, 2, vocab=32, logits=True))
    padded = make_problem(2, 2, vocab=32, row_padding=4)
    with pytest.raises(ValueError, match=r"problem\.take"):
        limits(padded)
    limits(padded.take(range(2)))
    with pytest.raises(ValueError, match=r"ids in \[0, 32\)"):
        problem = make_problem(2, 2, vocab=32)
        problem.draft_tokens[1] = 32
        limits(problem)


# ---- transformers ---------------------------------------------------------------------------------------------------

@pytest.fixture
def transformers():
    pytest.importorskip("transformers")
    return peers.load_peer("transformers")


@pytest.mark.parametrize("options", [{}, {"logits": True, "temperature": 0.7}, {"dtype": torch.bfloat16}, {"draft_len": 1}])
def test_transformers_passes(transformers, options, monkeypatch):
    monkeypatch.setattr(peers.Transformers, "law_draws", 3_000)
    result = check(transformers, make_problem(**({"batch": 3, "draft_len": 3, "vocab": 200, "row_padding": 8} | options)))
    assert result and result.law.draws == 3_000, result


def test_limits_of_transformers(transformers):
    with pytest.raises(ValueError, match="transformers: got draft_lse"):
        transformers.bind(make_problem(2, 2, vocab=32, logits=True, draft_lse=True))
    with pytest.raises(ValueError, match="composed: got 'transformers'"):
        composed.Composed(transformers)
    with pytest.raises(ValueError, match="temperature 0"):
        transformers.bind(make_problem(2, 2, vocab=32, logits=True, temperature=0.0))
    problem = make_problem(2, 2, vocab=32)
    problem.target_probs[0] = 0
    with pytest.raises(ValueError, match="no mass"):
        transformers.bind(problem)


def test_older_and_unknown_transformers(transformers, monkeypatch):
    from transformers.generation import utils
    older = lambda tokens, draft, length, target, is_done_candidate: (tokens, is_done_candidate)
    monkeypatch.setattr(utils, "_speculative_sampling", older)
    assert peers._speculative_sampling()(1, 2, 3, 4) == (1, False)
    monkeypatch.delattr(utils, "_speculative_sampling")
    with pytest.raises(peers.PeerMissing, match="transformers >= 5"):
        peers._speculative_sampling()


# ---- names, versions, records -----------------------------------------------------------------------------------------

def test_names_and_messages_when_nothing_is_installed(monkeypatch):
    assert peers.list_peers() == ["flashinfer_chain", "transformers"] == list(peers.PEERS)
    monkeypatch.setattr(peers, "_version", lambda package: None)
    assert peers.installed_peers() == []
    for name in peers.PEERS:
        with pytest.raises(ImportError, match=r"(?s)pip install 'spec-toolkit\[peers\]'.*CUDA_HOME=.*FLASHINFER_CUDA_ARCH_LIST="):
            peers.load_peer(name)
    with pytest.raises(ValueError, match="got 'vllm', expected one of flashinfer_chain, transformers"):
        peers.load_peer("vllm")


def test_the_hash_is_of_the_adapter_and_the_version(monkeypatch):
    hashes = []
    for version in ("0.7.0", "0.8.0"):
        monkeypatch.setattr(peers, "_version", lambda package, version=version: version)
        hashes.append(peers.load_peer("flashinfer_chain").source_hash)
        assert peers.installed_peers() == list(peers.PEERS)
    assert len(set(hashes)) == 2 and "0.8.0" in repr(peers.load_peer("flashinfer_chain"))


def test_a_record_of_a_peer_that_is_not_here_is_not_called_stale(monkeypatch):
    pytest.importorskip("spec_toolkit.sampler")
    monkeypatch.setattr(peers, "_version", lambda package: None)
    hashes = readme.current_hashes()
    assert hashes["flashinfer_chain"] is None
    assert not results.is_stale({"sampler": "flashinfer_chain", "source_hash": "x"}, hashes)


def test_the_protocol_and_a_record(problem, tmp_path):
    sampler = Fake()
    assert (sampler.kind, sampler.draw, sampler.reports_status, sampler.own_generator) == ("peer", None, False, True)
    outputs, empty = sampler(problem), empty_outputs(problem)
    assert [(t.shape, t.dtype) for t in outputs] == [(t.shape, t.dtype) for t in empty]
    data = json.loads(results.record("demo", sampler, problem, check(sampler, problem), out=tmp_path).read_text())
    assert data["sampler_kind"] == "peer" and data["draw"] is None and data["check"]["law"]["passed"]


def test_the_crosscheck_needs_a_gpu(problem):
    with pytest.raises(bench.NeedsGPU, match="CUDA GPU"):
        crosscheck(Fake(), problem)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", peers.list_peers())
def test_on_a_gpu(name):
    if name not in peers.installed_peers():
        pytest.skip(f"{name} is not installed")
    problem = make_problem(8, 4, vocab=4096, device="cuda")
    timing = bench.benchmark(peers.load_peer(name), problem, repeats=10)
    assert timing.check and timing.call_us and bool(timing.gpu_us) == peers.PEERS[name].capturable, timing
