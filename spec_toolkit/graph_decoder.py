"""The decoding loop with static caches and CUDA graphs: the fast path of llm.py, with the same contract.

    decoder = GraphDecoder(target_model, draft=draft_model, sampler="v10", draft_len=4)
    decoded = decoder.speculate(prompts, max_new_tokens=64, temperature=0.7, seeds=[1, 2], stop=[tokenizer.eos_token_id])
    decoded = decoder.plain(prompts, ...)

A step is four functions (graph_step.py), each captured once for a batch size, a draft length and a number of slots, then replayed
from the host with one call. What cannot be captured (a Python loop, a peer that looks at the rows) is called between the graphs;
vectorised baselines are captured, with their random numbers made ahead (bound_baseline.py). Prompts are read without a graph. On a CPU
the same functions run as they are.

The host waits once a step, for out_tokens: it decides which requests have ended. Texts, lengths and caches go on without it.

Greedy texts are those of Decoder. Random ones follow the same law, by other numbers: drafts are drawn by the kernel that verifies.
"""
from __future__ import annotations

import functools

from .decoding import Decoded, Stopwatch
from .drafting import ModelDrafter
from .features import takes_features
from .graph_capture import captured
from .graph_step import Step
from .llm import Decoder, append, emitted
from .sampler import load_sampler
from .static_llama import StaticLlama
from .static_model import ROUND_SLOTS, StaticModel
from .verifier import BEST, row_dtype

ROLES = {"none": (), "draft": ("draft",), "both": ("target", "draft")}
KEPT = 6  # shapes whose buffers and graphs are kept


class GraphDecoder(Decoder):
    """As Decoder. max_length: slots of a text in the caches, at least the prompt + max_new_tokens + draft_len + 2; None: as many as
    the longest request so far needs, rounded up (a longer one makes the caches, and the graphs, again).

    fused: whose forward is that of static_llama.py, with few launches: none, draft, both. A draft that takes features (features.py) is read
    by it always: transformers' does not know of them.
    capture: True (on a GPU): as CUDA graphs; False: launch by launch, to compare. compile: none, draft, both: which forwards
    of ours are compiled before they are captured, some seconds for each number of tokens; where that fails they stay as they are. A compiled
    target is the fastest, but rounds at other places where it reads one token than where it reads several: near ties turn, and greedy text may
    part from that of plain decoding. Of the draft that changes no law and no greedy text. drawer: the kernel that draws the drafts, a name;
    None: BEST on a GPU, whatever verifies, and torch on a CPU.
    """

    def __init__(self, target, draft=None, sampler=None, draft_len: int = 4, *, max_length: int | None = None, fused: str = "none",
                 capture: bool = True, compile: str = "draft", drawer: str | None = None):
        super().__init__(target, draft=draft, sampler=sampler, draft_len=draft_len)
        if getattr(self.drafter, "has_rows", False) and not isinstance(self.drafter, ModelDrafter):
            raise ValueError(f"draft: got {type(self.drafter).__name__}, accepted: a model, or a drafter without rows")
        for name, given in (("fused", fused), ("compile", compile)):
            if given not in ROLES:
                raise ValueError(f"{name}: got {given!r}, accepted: {', '.join(ROLES)}")
        self.fused, self.compile = ROLES[fused], ROLES[compile] if capture and self.device.type == "cuda" else ()
        self.max_length, self.capture, self.slots = max_length, capture, 0
        self.drawer = _drawer(drawer or BEST) if drawer or self.device.type == "cuda" else None
        self._models, self._steps = {}, {}

    def _decode(self, drafter, draft_len, prompts, *, max_new_tokens, temperature=0.0, seeds=None, stop=()):
        texts = [list(map(int, prompt)) for prompt in prompts]
        vocab = self.target.get_output_embeddings().weight.shape[0]
        self._check(texts, max_new_tokens, draft_len, vocab)
        heat, seeds = self._temperature(temperature, len(texts)), self._seeds(seeds, len(texts))
        self._make_room(max(map(len, texts)) + max_new_tokens + draft_len + 2)
        step, run = self._step_of(drafter, draft_len, len(texts), vocab, heat)
        ends = [len(text) + max_new_tokens for text in texts]
        begin = Stopwatch(self.device)
        step.begin(texts, ends, seeds, heat)
        begin.mark("rest")
        host = None if drafter is None or drafter.has_rows else drafter.start(texts, vocab=vocab, dtype=row_dtype(self.target.dtype),
                                                                              temperature=heat, seeds=seeds)
        decoded, open_ = Decoded([], tested=[0] * draft_len, accepted=[0] * draft_len), set(range(len(texts)))
        watch = Stopwatch(self.device)
        while open_ and max_new_tokens:
            counts = [draft_len] * len(texts)
            if host:
                counts = _copy_drafts(host, texts, step)
                watch.mark("draft")
            rows = self._run(run, step, watch)
            append(decoded, texts, rows, counts, ends, stop, open_)
            if host:
                host.take_back(texts)
            watch.mark("rest")
        decoded.tokens = [text[len(prompt):] for text, prompt in zip(texts, prompts)]
        decoded.seconds, decoded.prefill_seconds = watch.seconds(), sum(begin.seconds().values())
        return decoded

    def _run(self, run, step, watch):
        """The functions of a step, one after another -> the tokens that each request emits, a list of lists."""
        for name in ("draft", "target", "sampler"):
            if name in run:
                run[name]()
                watch.mark(name)
        step.send()  # before `follow`, which then runs while the host looks at the tokens
        run["follow"]()
        watch.mark("rest")
        return emitted(step.received(), step.status)

    def _make_room(self, needed):
        """Caches of at least `needed` slots; what was made for fewer is given up."""
        if self.max_length is not None and needed > self.max_length:
            raise ValueError(f"max_length: got {self.max_length}, accepted: at least {needed} for these prompts with their "
                             "max_new_tokens and draft_len")
        if needed > self.slots:
            self._steps.clear()
            self._models.clear()
            self.slots = -(-(self.max_length or needed) // ROUND_SLOTS) * ROUND_SLOTS

    def _step_of(self, drafter, draft_len, batch, vocab, heat):
        """(Step, {name: what runs it}) for this shape, from before or made now."""
        bound_to = None if self.sampler.kind == "kernel" else tuple(heat.tolist())  # a softmax is made for the temperatures it finds
        key = batch, draft_len, bound_to
        if key not in self._steps:
            while len(self._steps) >= KEPT:
                self._steps.pop(next(iter(self._steps)))
            draft = self._model("draft", drafter.model, batch) if drafter and drafter.has_rows else None
            step = Step(self._model("target", self.target, batch), draft, self.sampler, self.drawer, draft_len=draft_len, vocab=vocab,
                        dtype=row_dtype(self.target.dtype), temperature=heat, compile=self.compile)
            eager = () if step.verifier.call else ("sampler",)
            self._steps[key] = step, captured(step.parts(), self.device, eager) if self.capture else step.parts()
        return self._steps[key]

    def _model(self, role, model, batch):
        """The static model of a role for this batch: plain and speculative steps share the caches, one call at a time."""
        key = role, batch
        if key not in self._models:
            own = role in self.fused or (role == "draft" and takes_features(model))
            self._models[key] = (StaticLlama if own else StaticModel)(model, batch, self.slots)
        return self._models[key]


@functools.cache
def _drawer(name):
    return load_sampler(name)  # its compiled code stays with it


def _copy_drafts(host, texts, step):
    """Drafts that the host found, into the step's buffer -> how many of each request."""
    draft = host.draft(texts, step.length)
    step.drafts.copy_(draft.tokens)
    return draft.counts

