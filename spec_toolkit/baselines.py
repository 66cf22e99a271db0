"""What the kernels are compared with: three samplers written as one would without CUDA C.

`python_loop`       a loop over requests and positions, one `.item()` per decision: the straightforward version.
`torch_vectorised`  about 40 PyTorch calls, no synchronisation with the host, so a CUDA graph can hold it.
`torch_compile`     the same function through `torch.compile(fullgraph=True, dynamic=False)`.

All three follow the sampler protocol (`name`, `kind`, `draw`, `ulps`, `reports_status`, `source_hash`, `bind`) and take
the random numbers of the contract, so they are checked token by token like any kernel.

The comparison leans towards the baselines: `bind` makes the uniforms and the index tables before the clock starts,
while a kernel makes its random numbers inside the call. The call itself only verifies, into its own `Outputs`. A
logits problem is turned into probabilities inside the call, because engines pay for that at every step.

The cumulative sum is float64. A float32 scan on a GPU adds in a different order for every element, so it is not
monotone: it can step up by an ulp at an id of weight zero and draw it, up to 1 draw in 1,000 for a residual of
100,000 ids of which half are zero. Float64 brings that below 1e-11 for one larger buffer and no further pass.
"""
import functools
import hashlib
import shutil
from pathlib import Path

import torch

from .philox import accept_uniforms, recover_uniforms
from .problem import BAD_TOKEN, NO_MASS, NONFINITE, ZERO_RESIDUAL, Outputs

TINY = torch.finfo(torch.float32).tiny
# The weights are the reference's own float32 numbers. A float64 sum of n of them, in any order, is off by less than
# n * 2^-53 * total: at n = 2^20 ids that is 2^-33 * total, far inside 1 * 2^-24 * total.
ULPS = 1.0


def usable(x):
    """True where a float32 tensor holds a positive, finite, normal number."""
    return (x >= TINY) & (x < float("inf"))


def accepts(uniform, target, draft):
    """The accept test on float64 tensors (or zero-dimensional ones): strict, no division, NaN never accepts."""
    return usable(target) & (uniform * draft < target)


def residual(target, draft):
    """max(target - draft, 0) in float32, zero where the difference is not usable. `target`, `draft`: float32 rows."""
    return _keep_usable(target - draft)


def _keep_usable(x):
    return torch.where(usable(x), x, 0.0)


def empty_outputs(problem):
    """Uninitialised `Outputs` on the problem's device: [batch, max_draft+1], [batch], [batch], all int32."""
    def make(*shape):
        return torch.empty(shape, dtype=torch.int32, device=problem.device)
    return Outputs(make(problem.batch, problem.max_draft + 1), make(problem.batch), make(problem.batch))


class Call:
    """A baseline bound to one problem: calling it verifies and returns `outputs`, which the next call overwrites."""

    def __init__(self, problem, verify):
        self.problem, self.verify = problem, verify
        self.outputs = empty_outputs(problem)
        self.accept_u = accept_uniforms(problem).double()
        self.recover_u = recover_uniforms(problem)
        self.tables = index_tables(problem)

    def __call__(self):
        if self.problem.batch:
            self.verify(self.problem.target, self.problem.draft, self.problem.draft_tokens,
                        self.accept_u, self.recover_u, self.tables, self.outputs)
        return self.outputs


def index_tables(problem):
    """int64 tables of a ragged batch: `request` and `offset` of each draft [num_draft], `start` and `length` of each
    request [batch], `column` [max_draft+1]; for logits the temperature of each target and draft row (else None),
    `greedy`: whether one of them is 0, and `draft_lse` [num_draft] or None."""
    device = problem.device
    start = problem.draft_start.long()
    length = start[1:] - start[:-1]
    request = torch.repeat_interleave(torch.arange(problem.batch, device=device), length)
    offset = torch.arange(problem.num_draft, device=device) - start[request]
    column = torch.arange(problem.max_draft + 1, device=device)
    heat = problem.temperature
    target_heat = None if heat is None else heat.repeat_interleave(length + 1)
    draft_heat = None if heat is None else heat.repeat_interleave(length)
    return {"request": request, "offset": offset, "start": start[:-1].contiguous(), "length": length, "column": column,
                "target_heat": target_heat, "draft_heat": draft_heat, "greedy": heat is not None and bool((heat == 0).any()),
                "draft_lse": problem.draft_lse}


def probabilities(target, draft, tables):
    """Rows as they are, or the float32 softmax of logits: `Problem.probs` without its looks at the host, so that a CUDA
    graph can hold it."""
    if tables["target_heat"] is None:
        return target, draft
    target = _softmax(target, tables["target_heat"], tables["greedy"])
    return target, draft if draft is None else _softmax(draft, tables["draft_heat"], tables["greedy"], tables["draft_lse"])


def _softmax(logits, heat, greedy, lse=None):
    """softmax(logits / heat) [rows, vocab] float32; where heat is 0, one-hot at the first maximum (NaN if not finite).
    lse [rows]: exp(logits / heat - lse). Rounding in float32 costs it accuracy where |logits / heat| is past about 50."""
    heat, logits = heat[:, None], logits.float()
    divisor = torch.where(heat > 0, heat, 1.0)
    if lse is None or greedy:
        top = logits.amax(1, keepdim=True)
    if lse is None:
        rows = torch.softmax((logits - top) / divisor, 1)
    else:
        rows = torch.exp(logits / divisor - torch.where(lse.isfinite(), lse, torch.nan)[:, None])
    if not greedy:
        return rows
    ids = torch.arange(logits.shape[1], device=logits.device)
    first = torch.where(logits == top, ids, logits.shape[1]).amin(1, keepdim=True)
    one_hot = torch.where(top.isfinite(), (ids == first).float(), torch.nan)
    return torch.where(heat > 0, rows, one_hot)


# ---- the vectorised version; torch.compile takes the same function ------------------------------------------------

def verify_vectorised(target, draft, tokens, accept_u, recover_u, tables, outputs):
    """One verification step. target [num_draft+batch, vocab] and draft [num_draft, vocab] or None (probabilities, or
    logits where the tables hold temperatures), tokens [num_draft] int32,
    accept_u [num_draft] and recover_u [batch, max_draft+1] float64; writes all three `outputs`. Status stays 0:
    finding the bits would cost another pass over the rows, which nobody pays who writes this for speed."""
    target, draft = probabilities(target, draft, tables)
    num_accepted = _first_rejection(target, draft, tokens, accept_u, tables)
    weights = _row_weights(target, draft, tokens, tables, num_accepted)
    uniform = recover_u.gather(1, num_accepted[:, None])
    drawn = _draw_cdf(weights, uniform)
    column = tables["column"][None, :]
    copied = -1
    if tokens.numel():
        slot = (tables["start"][:, None] + column).clamp(max=tokens.numel() - 1)
        copied = tokens[slot].long()
    rest = torch.where(column == num_accepted[:, None], drawn, -1)
    outputs.out_tokens.copy_(torch.where(column < num_accepted[:, None], copied, rest))
    outputs.num_accepted.copy_(num_accepted)
    outputs.status.zero_()


def _first_rejection(target, draft, tokens, accept_u, tables):
    """Number of accepted drafts of each request, [batch] int64: the smallest rejected offset, K where there is none."""
    if tokens.numel() == 0:
        return tables["length"]
    request, offset = tables["request"], tables["offset"]
    valid, safe = _safe_ids(tokens, target.shape[1])
    row = torch.arange(tokens.numel(), device=tokens.device)
    target_at = target[row + request, safe].double()
    draft_at = 1.0 if draft is None else draft[row, safe].double()
    accepted = valid & accepts(accept_u, target_at, draft_at)
    stop = torch.where(accepted, tables["length"][request], offset)
    return tables["length"].scatter_reduce(0, request, stop, "amin", include_self=True)


def _safe_ids(tokens, vocab):
    valid = (tokens >= 0) & (tokens < vocab)
    return valid, torch.where(valid, tokens, 0).long()


def _row_weights(target, draft, tokens, tables, num_accepted):
    """[batch, vocab] float32 weights of each request's one draw; the target row where the residual has no mass."""
    start, length = tables["start"], tables["length"]
    request = torch.arange(length.numel(), device=length.device)
    target_row = target[start + request + num_accepted].float()
    if tokens.numel() == 0:
        return _keep_usable(target_row)
    recovered = num_accepted < length
    at = (start + num_accepted).clamp(max=tokens.numel() - 1)
    if draft is None:
        valid, safe = _safe_ids(tokens[at], target.shape[1])
        minus = (recovered & valid).float()
        left = _keep_usable(target_row.scatter_add(1, safe[:, None], -minus[:, None]))
    else:
        left = residual(target_row, draft[at].float())
    use = recovered & left.any(1)
    return torch.where(use[:, None], left, _keep_usable(target_row))


def _draw_cdf(weights, uniform):
    """Smallest id whose cumulative weight exceeds uniform * total, [batch, 1] int64; -1 where there is no mass.
    uniform <= 1 - 2^-53, so the threshold rounds below the total and the last id always exceeds it."""
    cumulative = weights.cumsum(1, dtype=torch.float64)
    total = cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, uniform * total, right=True)
    return torch.where(total > 0, drawn, -1)


# ---- the Python loop -------------------------------------------------------------------------------------------------

def verify_loop(target, draft, tokens, accept_u, recover_u, tables, outputs):
    """Arguments as `verify_vectorised`; one request and one position at a time, asking the device for each decision."""
    target, draft = probabilities(target, draft, tables)
    outputs.out_tokens.fill_(-1)
    for request, (start, length) in enumerate(zip(tables["start"].tolist(), tables["length"].tolist())):
        num_accepted, status = 0, 0
        while num_accepted < length:
            accepted, bits = _loop_decision(target, draft, tokens, accept_u, start + num_accepted, request)
            status |= bits
            if not accepted:
                break
            outputs.out_tokens[request, num_accepted] = tokens[start + num_accepted]
            num_accepted += 1
        position = start + num_accepted
        drafted = tokens[position].item() if num_accepted < length else None
        drawn, bits = _loop_draw(target[position + request], draft, position, drafted, recover_u[request, num_accepted])
        outputs.out_tokens[request, num_accepted] = drawn
        outputs.num_accepted[request] = num_accepted
        outputs.status[request] = status | bits


def _loop_decision(target, draft, tokens, accept_u, position, request):
    token = tokens[position].item()
    if not 0 <= token < target.shape[1]:
        return False, BAD_TOKEN
    target_at = target[position + request, token].double()
    draft_at = torch.ones_like(target_at) if draft is None else draft[position, token].double()
    finite = (target_at.isfinite() & draft_at.isfinite()).item()
    return accepts(accept_u[position], target_at, draft_at).item(), 0 if finite else NONFINITE


def _loop_draw(target_row, draft, position, drafted, uniform):
    """(token, status bits) of a draw; `drafted` None: the bonus row."""
    target_row = target_row.float()
    weights, status = _keep_usable(target_row), 0 if target_row.isfinite().all().item() else NONFINITE
    if drafted is not None:
        draft_row = _one_hot(target_row, drafted) if draft is None else draft[position].float()
        status |= 0 if draft_row.isfinite().all().item() else NONFINITE
        left = residual(target_row, draft_row)
        weights, status = (left, status) if left.any().item() else (weights, status | ZERO_RESIDUAL)
    cumulative = weights.cumsum(0, dtype=torch.float64)
    if not cumulative[-1].item() > 0:
        return -1, status | NO_MASS
    return torch.searchsorted(cumulative, uniform * cumulative[-1], right=True).item(), status


def _one_hot(like, token):
    row = torch.zeros_like(like)
    if 0 <= token < row.numel():
        row[token] = 1.0
    return row


# ---- samplers --------------------------------------------------------------------------------------------------------

@functools.cache
def _compiled():
    config = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # a new shape is a recompilation, and we sweep over shapes
        if hasattr(config, name):
            setattr(config, name, max(getattr(config, name), 256))
    return torch.compile(verify_vectorised, fullgraph=True, dynamic=False)


@functools.cache
def _source_hash():
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


class Baseline:
    """A sampler made of PyTorch calls. `sampler(problem)` -> Outputs; `sampler.bind(problem)` -> Call."""
    kind, draw, ulps = "baseline", "cdf", ULPS

    def __init__(self, name, verify, reports_status):
        self.name, self.verify, self.reports_status = name, verify, reports_status

    @property
    def source_hash(self):
        return _source_hash()

    def bind(self, problem):
        """Make uniforms, index tables and output buffers for `problem`."""
        return Call(problem, self.verify)

    def __call__(self, problem):
        return self.bind(problem)()

    def __repr__(self):
        return f"Baseline({self.name!r}, draw={self.draw!r}, reports_status={self.reports_status})"


class CompiledBaseline(Baseline):
    """As `Baseline`; `bind` compiles (once per shape and dtype; torch keeps the result) by running the call once."""

    def __init__(self, name):
        super().__init__(name, None, reports_status=False)

    def bind(self, problem):
        call = Call(problem, _compiled())
        try:
            call()
        except Exception as error:
            raise _explain_compile(error) from error
        return call


def _explain_compile(error):
    if any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return RuntimeError(f"torch_compile: torch.compile failed: {type(error).__name__}: {str(error)[:500]}")
    return RuntimeError("torch_compile needs a C++ compiler (g++ or clang++) on PATH and found none. Install one "
                        "(apt install g++, conda install gxx_linux-64) or use 'torch_vectorised'.")


BASELINES = {
    "python_loop": functools.partial(Baseline, "python_loop", verify_loop, True),
    "torch_vectorised": functools.partial(Baseline, "torch_vectorised", verify_vectorised, False),
    "torch_compile": functools.partial(CompiledBaseline, "torch_compile"),
}


def load_baseline(name):
    """The baseline sampler called `name` (a key of `BASELINES`); ValueError otherwise."""
    if name not in BASELINES:
        raise ValueError(f"baseline: got {name!r}, expected one of {', '.join(BASELINES)}")
    return BASELINES[name]()
