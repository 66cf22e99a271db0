"""A Llama over a static cache, its forward written with few launches: about 15 a layer on a GPU, where that of `transformers` has 43;
fewer where it is compiled.

The interface of static_model.py and the same numbers but for rounding; its layers are those of llama_layer.py, whose weights are copies,
so they lie in memory twice, however many StaticLlamas there are. Where there are features (features.py) it takes them, which
transformers' own forward cannot.
"""
from __future__ import annotations

import torch
from torch.nn import functional

from .compiled_function import Compiled
from .features import takes_features
from .llama_layer import Places, joined, queries, read_layer, read_words, shape_of
from .static_model import At, StaticModel

COMPILED = [Compiled(read_words, True), Compiled(read_layer, True)]  # for all StaticLlamas


def how() -> str:
    """ "compiled", or why what was to be compiled is not."""
    return next((each.how for each in COMPILED if each.how != "compiled"), "compiled")


class StaticLlama(StaticModel):
    """As StaticModel. model: a LlamaForCausalLM (SmolLM2 is one) without biases; ValueError otherwise.

    compiled: numbers of tokens of a text, a set to add to: a forward over so many is compiled at its first call, for each batch.
    """

    def __init__(self, model, batch: int, slots: int):
        super().__init__(model, batch, slots)
        config = model.config
        biased = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
        if type(model).__name__ != "LlamaForCausalLM" or biased:
            raise ValueError(f"fused: got {type(model).__name__} {' '.join(biased)}, accepted: LlamaForCausalLM without biases")
        self.layers, self.shape, self.compiled = joined(model), shape_of(model), set()
        _, shared, width, *_ = self.shape
        self.held = [torch.zeros(2, batch, shared, slots, width, dtype=model.dtype, device=self.device) for _ in self.layers]
        self.texts = torch.arange(batch, device=self.device)[:, None]
        self.turns = _turns(model.model, model.dtype, slots)
        self.features = model.features.weight.detach() if takes_features(model) else None

    @torch.no_grad()
    def read(self, tokens, positions, keep: int = 0):
        return self.read_both(tokens, positions, keep)[0]

    def read_both(self, tokens, positions, keep: int = 0):
        hidden = self.states(tokens, positions)
        return self.logits(hidden[:, -keep:]), hidden

    @torch.no_grad()
    def logits(self, hidden, out=None):
        """Rows [batch, n, vocab] of states [batch, n, width]. out: rows of the model's dtype, a view whose first two dimensions can be joined."""
        head = self.model.lm_head.weight
        if out is None:
            return functional.linear(hidden, head)
        torch.mm(hidden.flatten(0, 1), head.t(), out=out.view(-1, len(head)))
        return out

    @torch.no_grad()
    def states(self, tokens, positions, features=None):
        """Read tokens, as `read` -> hidden states behind the last norm [batch, n, width]. features: the state behind the position before each
        token [batch, n, width]; None: none, which is what a zero is."""
        (batch, n), at, shape, inner = tokens.shape, self.at(positions), self.shape, self.model.model
        lean = n in self.compiled and not any(each.failed for each in COMPILED)
        words, layer_of = COMPILED if lean else (read_words, read_layer)
        taken = features is not None and self.features is not None
        hidden = words(tokens, inner.embed_tokens.weight, features.flatten(0, 1) if taken else None, self.features if taken else None, lean)
        cos, sin = at.turns.unbind(2)
        mask = at.mask[:, :, :, None].expand(-1, -1, -1, queries(shape, lean), -1).flatten(2, 3)
        places = Places(self.texts, at.places, cos, sin, mask)
        for layer, held in zip(self.layers, self.held):
            hidden = layer_of(hidden, layer, held, places, shape, lean)
        return functional.rms_norm(hidden, hidden.shape[-1:], inner.norm.weight, shape.eps).view(batch, n, -1)

    def at(self, positions) -> At:
        if isinstance(positions, At):
            return positions
        made = super().at(positions)
        return made._replace(turns=self.turns[made.places])

    def clear(self) -> None:
        for held in self.held:
            held.zero_()


@torch.no_grad()
def _turns(inner, dtype, slots):
    """[slots, 2, 1, width]: cosine and sine by slot. The sign of rotate-half is in the sine: x cos + swapped(x) sin."""
    example = torch.zeros(1, dtype=dtype, device=inner.embed_tokens.weight.device)
    cos, sin = inner.rotary_emb(example, position_ids=torch.arange(-1, slots - 1, device=example.device)[None])
    sign = torch.ones_like(sin)
    sign[..., :sin.shape[-1] // 2] = -1
    return torch.stack([cos[0], (sin * sign)[0]], 1)[:, :, None]
