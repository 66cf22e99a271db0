"""What people use today, as samplers: other libraries' own verification, called as they call it.

`flashinfer_chain`  flashinfer.sampling.chain_speculative_sampling (0.7): one kernel, one thread block per request.
`transformers`      transformers' `_speculative_sampling` (5): about 25 PyTorch calls and several host looks per request.

Peers draw from generators of their own (`own_generator`, `draw` None), so `check` compares their structure and their law
and not their tokens. `torch.manual_seed` before `bind` makes a run repeat. `bind` refuses what the library cannot do,
says so, and makes every conversion that is not part of the library's call, before any clock starts.
"""
import functools
import hashlib
import inspect
import os
import shutil
from importlib import metadata
from pathlib import Path

import torch

from .baselines import empty_outputs
from .problem import Outputs

INSTALL = ("pip install 'spec-toolkit[peers]'; FlashInfer builds its kernels at the first call (about 90 s), which needs nvcc: "
           "CUDA_HOME=/usr/local/cuda and FLASHINFER_CUDA_ARCH_LIST=9.0a (the GPU's compute capability; 9.0a is an H100 or H200)")


class PeerMissing(ImportError):
    """The library that a peer wraps is not installed here, or is not one that the adapter knows."""


class Peer:
    """A sampler that is another library's. `sampler(problem)` -> Outputs; `sampler.bind(problem)` -> call.

    PeerMissing from the constructor if the package is not installed; ValueError or TypeError from `bind` for a problem
    that the library cannot take. `status` is always 0: no peer reports it.
    """
    kind, draw, ulps, reports_status, own_generator = "peer", None, 0.0, False, True
    name = package = ""
    capturable = True      # may bench put it into a CUDA graph?
    fresh_outputs = False  # does each call return a new out_tokens? Then check poisons the allocator instead
    copies_rows = False    # does bind convert the rows, so that a call does not see what is written into them later?
    law_draws = 60_000     # requests that the reduced law test of `check` may cost

    def __init__(self):
        if self.version is None:
            raise PeerMissing(f"{self.name}: {self.package} is not installed: {INSTALL}")

    @property
    def version(self):
        """The installed version of the library, None if there is none."""
        return _version(self.package)

    @property
    def source_hash(self):
        """sha256 of this file and of the library's version."""
        return _source_hash(self.package, self.version)

    def __call__(self, problem):
        return self.bind(problem)()

    def __repr__(self):
        return f"{type(self).__name__}({self.package} {self.version})"


# ---- FlashInfer ------------------------------------------------------------------------------------------------------

class FlashInferChain(Peer):
    """FlashInfer's chain kernel. Limits: CUDA; float32 probabilities with draft rows, unpadded; one K >= 1 for all.

    It would convert other dtypes inside the call, and reads a drafted id without a range check, so ids are checked here.
    Its index arithmetic is uint32: fewer than 2^32 target elements. 16-byte loads only where vocab % 4 == 0. Only the
    first seed is honoured, for the whole batch. Where the residual row has no mass it emits an undefined token.

    In the call: the library's function and one small launch that zeroes the counters, which the kernel adds to, and
    advances the random offset (left alone, the library launches two fills and the replays of a graph repeat their
    random numbers). out_tokens is the library's own tensor, not copied: a fresh one at every eager call.
    """
    name, package, fresh_outputs = "flashinfer_chain", "flashinfer-python", True

    def bind(self, problem):
        """Check the limits and build the kernels (first time in a process: JIT, about 90 s); -> FlashInferCall."""
        check_limits(self.name, problem, device="cuda", dense=True, dtypes=(torch.float32,), kinds=("probs",))
        if problem.target.numel() >= 2**32:
            _refuse(self.name, f"{problem.target.numel()} target elements", "fewer than 2**32: its indices are uint32")
        try:
            from flashinfer.sampling import chain_speculative_sampling
            call = FlashInferCall(problem, chain_speculative_sampling)
            call()
        except ImportError as error:
            raise PeerMissing(f"{self.name}: importing FlashInfer failed: {error}. {INSTALL}") from error
        except Exception as error:
            nvcc = shutil.which("nvcc") or "not on PATH"
            raise RuntimeError(f"{self.name}: building or running FlashInfer failed: {type(error).__name__}: {str(error)[:500]}. "
                               f"{INSTALL}. Here: CUDA_HOME={os.environ.get('CUDA_HOME')}, nvcc {nvcc}") from error
        return call


class FlashInferCall:
    """chain_speculative_sampling bound to a problem. state, int64: the random offset, then two int32 counters a request."""

    def __init__(self, problem, function):
        batch, length, device = problem.batch, problem.max_draft, problem.device
        self.function = function
        self.args = (problem.draft.view(batch, length, -1), problem.draft_tokens.view(batch, length),
                     problem.target.view(batch, length + 1, -1))
        self.state = torch.zeros(1 + batch, dtype=torch.int64, device=device)
        self.keep, self.step = torch.zeros_like(self.state), torch.zeros_like(self.state)
        self.keep[0], self.step[0] = 1, (length + 2 + 3) // 4 * 4  # K tests and a draw at most, in Philox's blocks of four
        counters = self.state[1:].view(torch.int32)
        self.random = {"seed": torch.randint(2**62, (1,)).to(device), "offset": self.state[:1]}
        self.counters = counters[batch:], counters[:batch]     # (acceptable one by one, really accepted)
        self.outputs = Outputs(torch.empty((batch, length + 1), dtype=torch.int32, device=device), counters[:batch],
                               torch.zeros(batch, dtype=torch.int32, device=device))

    def __call__(self):
        torch.addcmul(self.step, self.state, self.keep, out=self.state)
        tokens = self.function(*self.args, *self.counters, **self.random)[0]
        self.outputs = self.outputs._replace(out_tokens=tokens)
        return self.outputs


# ---- transformers ----------------------------------------------------------------------------------------------------

class Transformers(Peer):
    """The sampling step of transformers' assisted generation. It takes logits and one request, so a batch is a loop.

    Limits: draft rows, which it normalises itself (no draft_lse); one K >= 1 for all (a loop could take a ragged batch;
    refused, so that peers run the same problems); temperature > 0; rows with mass and no NaN and at most 2^24 ids, since torch.multinomial aborts the CUDA
    context otherwise, as it does in a residual without mass. Its accept test is `r <= p/q` with r in [0, 1): a draft of
    target probability 0 passes once in 2^24. On the CPU too. Cannot be captured: it looks at n_matches on the host.

    Before the clock: log of probabilities, or logits / temperature in float32, as its logits processors leave them. In
    the call: both softmaxes (they are inside the library's function), and our conversion: one copy per request, one
    fill, and the count of the batch (three small launches).
    """
    name, package, capturable, law_draws, copies_rows = "transformers", "transformers", False, 6_000, True

    def bind(self, problem):
        """Check the limits, make the logits (a float32 copy of all rows); -> TransformersCall."""
        check_limits(self.name, problem)
        if problem.draft_lse is not None:
            _refuse(self.name, "draft_lse", "None: it normalises the draft rows itself; dataclasses.replace(problem, draft_lse=None)")
        if problem.vocab > 2**24:
            _refuse(self.name, f"vocab {problem.vocab}", "at most 2**24: torch.multinomial's limit")
        if problem.kind == "logits" and bool((problem.temperature == 0).any()):
            _refuse(self.name, "temperature 0", "temperatures above 0: greedy requests take another path in the library")
        return TransformersCall(problem, _speculative_sampling())


class TransformersCall:
    """`_speculative_sampling` bound to a problem: `calls` holds its arguments for each request, shapes [1, ...]."""

    def __init__(self, problem, function):
        batch, length = problem.batch, problem.max_draft
        target = _as_logits(problem, problem.target, length + 1).view(batch, length + 1, -1)
        draft = _as_logits(problem, problem.draft, length).view(batch, length, -1)
        tokens = problem.draft_tokens.view(batch, length).long()
        self.function, self.outputs = function, empty_outputs(problem)
        self.outputs.status.zero_()
        self.calls = [(tokens[b:b + 1], draft[b:b + 1], length, target[b:b + 1]) for b in range(batch)]

    def __call__(self):
        out = self.outputs.out_tokens.fill_(-1)
        for b, arguments in enumerate(self.calls):
            emitted = self.function(*arguments)[0][0]
            out[b, :len(emitted)].copy_(emitted)
        torch.sum(out >= 0, 1, dtype=torch.int32, out=self.outputs.num_accepted).sub_(1)
        return self.outputs


def _speculative_sampling():
    try:
        from transformers.generation.utils import _speculative_sampling as function
    except ImportError as error:
        raise PeerMissing(f"transformers: this version has no _speculative_sampling ({error}); accepted: transformers >= 5, "
                          f"{INSTALL}") from error
    older = "is_done_candidate" in inspect.signature(function).parameters
    return functools.partial(function, is_done_candidate=False) if older else function


def _as_logits(problem, rows, per_request):
    """float32 logits whose softmax are the rows' probabilities, [rows, vocab]; log(0) is -inf. ValueError for NaN or no mass."""
    if problem.kind == "probs":
        logits = torch.log(rows.float())
    else:
        logits = rows.float() / problem.temperature.repeat_interleave(per_request)[:, None]
    if not bool(torch.isfinite(logits.amax(1)).all()):  # amax of a row with a NaN is NaN, of one without mass -inf
        _refuse("transformers", "a row with NaN, infinity or no mass", "rows that torch.multinomial can draw from")
    return logits


# ---- limits, names ---------------------------------------------------------------------------------------------------

def check_limits(name, problem, device=None, dense=False, dtypes=None, kinds=("probs", "logits")):
    """What no peer here can do, and on request more. ValueError or TypeError saying what was given and what is accepted."""
    lengths = sorted(set(problem.draft_len))
    if len(lengths) != 1 or lengths[0] < 1:
        _refuse(name, f"draft lengths {lengths} in a batch of {problem.batch}", "one or more requests, all with the same draft_len >= 1")
    if problem.draft is None:
        _refuse(name, "one-hot drafts (no draft rows)", "problems with draft probabilities")
    if device and problem.device.type != device:
        _refuse(name, f"a problem on {problem.device}", f"{device} only: problem.to({device!r})")
    if problem.kind not in kinds:
        _refuse(name, problem.kind, f"{' or '.join(kinds)}: problem.probs(), whose softmax is then not in the time")
    if dtypes and problem.dtype not in dtypes:
        raise TypeError(f"{name}: got {problem.dtype}, accepted: {', '.join(map(str, dtypes))} (it converts others inside its call)")
    if dense and not (problem.target.is_contiguous() and problem.draft.is_contiguous()):
        _refuse(name, "padded rows", "contiguous rows: problem.take(range(problem.batch)) copies them so")
    if bool(((problem.draft_tokens < 0) | (problem.draft_tokens >= problem.vocab)).any()):
        _refuse(name, "a drafted id outside the vocabulary", f"ids in [0, {problem.vocab}): it reads there unchecked")


def _refuse(name, got, accepted):
    raise ValueError(f"{name}: got {got}, accepted: {accepted}")


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _source_hash(package, version):
    if version is None:
        return None
    return hashlib.sha256(Path(__file__).read_bytes() + f"{package} {version}".encode()).hexdigest()


PEERS = {peer.name: peer for peer in (FlashInferChain, Transformers)}


def list_peers():
    """The names of all peers, installed or not."""
    return list(PEERS)


def installed_peers():
    """The names of the peers whose package is installed here (not imported, so it may still fail to load)."""
    return [name for name, peer in PEERS.items() if _version(peer.package) is not None]


def load_peer(name):
    """The peer called `name` (a key of `PEERS`). ValueError for another name, PeerMissing if it is not installed."""
    if name not in PEERS:
        raise ValueError(f"peer: got {name!r}, expected one of {', '.join(PEERS)}")
    return PEERS[name]()
