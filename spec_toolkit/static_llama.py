"""A Llama over a static cache, its forward written with few launches: about 15 a layer on a GPU, where that of `transformers` has 43.

The interface of static_model.py and the same numbers but for rounding. What is joined: the matrices of query, key and value, and of
gate and up (copies, so these weights lie in memory twice, however many StaticLlamas there are); rotation of query and key in one;
writing of key and value in one; each residual sum with the product before it. Heads that share keys are queries of one head, so that no
key is repeated; their weights are reordered, so that a row of the joined product is such queries side by side, and attention reads it, and
the product behind reads attention's, where they lie. The row's keys and values go with them as queries that nobody asked. Where there are features (features.py) it takes them, which transformers' own forward cannot.
"""
from __future__ import annotations

import weakref

import torch
from torch.nn import functional

from .features import takes_features
from .static_model import At, StaticModel


class StaticLlama(StaticModel):
    """As StaticModel. model: a LlamaForCausalLM (SmolLM2 is one) without biases; ValueError otherwise."""

    def __init__(self, model, batch: int, slots: int):
        super().__init__(model, batch, slots)
        config = model.config
        biased = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
        if type(model).__name__ != "LlamaForCausalLM" or biased:
            raise ValueError(f"fused: got {type(model).__name__} {' '.join(biased)}, accepted: LlamaForCausalLM without biases")
        inner, self.eps = model.model, config.rms_norm_eps
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.layers = _joined(model)
        # keys, then values, of each token in its slot
        self.held = [torch.zeros(batch, slots, 2 * self.shared, self.width, dtype=model.dtype, device=self.device) for _ in self.layers]
        self.turns = _turns(inner, model.dtype, slots)
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
        (batch, n), at = tokens.shape, self.at(positions)
        hidden = functional.embedding(tokens, self.model.model.embed_tokens.weight).flatten(0, 1)
        if features is not None and self.features is not None:  # with_features, in two launches
            hidden.addmm_(functional.rms_norm(features.flatten(0, 1), features.shape[-1:]), self.features.t())
        cos, sin = at.turns.unbind(2)  # [batch, n, 1, width] each
        mask = at.mask[:, :, :, None].expand(-1, -1, -1, self.heads // self.shared + 2, -1).flatten(2, 3)  # for each query of a token
        places = at.places[:, :, None, None].expand(-1, -1, 2 * self.shared, self.width)
        for layer, held in zip(self.layers, self.held):
            mixed = functional.linear(functional.rms_norm(hidden, hidden.shape[-1:], layer.first, self.eps), layer.query_key_value)
            attended = self._attend(mixed.view(batch, n, -1, self.width), held, places, cos, sin, mask, layer.scaling)
            hidden.addmm_(attended, layer.out.t())
            gate, up = functional.linear(functional.rms_norm(hidden, hidden.shape[-1:], layer.second, self.eps), layer.gate_up).chunk(2, 1)
            hidden.addmm_(layer.act(gate) * up, layer.down.t())
        return functional.rms_norm(hidden, hidden.shape[-1:], self.model.model.norm.weight, self.eps).view(batch, n, -1)

    def at(self, positions) -> At:
        if isinstance(positions, At):
            return positions
        made = super().at(positions)
        return made._replace(turns=self.turns[made.places])

    def _attend(self, mixed, held, places, cos, sin, mask, scaling):
        """mixed [batch, n, heads + 2 shared, width]: query, key, value. Writes the cache; -> [batch * n, heads * width]. Heads are in the order
        of `_Layer`: all first queries of the shared keys, all second ones, ..."""
        batch, n, _, width = mixed.shape
        turned = mixed[:, :, :self.heads + self.shared]
        first, second = turned.chunk(2, 3)
        torch.addcmul(turned * cos, torch.cat([second, first], 3), sin, out=turned)
        held.scatter_(1, places, mixed[:, :, self.heads:])
        query = mixed.view(batch, -1, self.shared, width).transpose(1, 2)  # [batch, shared, n * (heads / shared + 2), width]
        keys, values = held.transpose(1, 2).split(self.shared, 1)
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)
        return attended.transpose(1, 2).reshape(batch * n, -1)[:, :self.heads * width]

    def clear(self) -> None:
        for held in self.held:
            held.zero_()


_JOINED = weakref.WeakKeyDictionary()  # model -> (the state of its weights, their layers)


def _joined(model):
    """The layers of a model, made once; again if its weights have been moved or changed in place since (but for changes by .data)."""
    state = [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in model.parameters()]
    if model not in _JOINED or _JOINED[model][0] != state:
        config = model.config
        _JOINED[model] = state, [_Layer(layer, config.num_key_value_heads) for layer in model.model.layers[:config.num_hidden_layers]]
    return _JOINED[model][1]


class _Layer:
    """Weights of one layer, those that meet the same input joined. Query heads, in a model ordered by the key that they share, are ordered
    by their place among those that share it: [heads / shared, shared]."""

    def __init__(self, layer, shared: int):
        attention, mlp = layer.self_attn, layer.mlp
        query, out = attention.q_proj.weight.detach(), attention.o_proj.weight.detach()
        by_place = lambda rows: rows.view(shared, -1, attention.head_dim, rows.shape[1]).transpose(0, 1).reshape(rows.shape)
        self.query_key_value = torch.cat([by_place(query), attention.k_proj.weight.detach(), attention.v_proj.weight.detach()])
        self.gate_up = torch.cat([part.weight.detach() for part in (mlp.gate_proj, mlp.up_proj)])
        self.out, self.down = by_place(out.t().contiguous()).t().contiguous(), mlp.down_proj.weight.detach()
        self.first, self.second = layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach()
        self.act, self.scaling = mlp.act_fn, attention.scaling


@torch.no_grad()
def _turns(inner, dtype, slots):
    """[slots, 2, 1, width]: cosine and sine by slot. The sign of rotate-half is in the sine: x cos + swapped(x) sin."""
    example = torch.zeros(1, dtype=dtype, device=inner.embed_tokens.weight.device)
    cos, sin = inner.rotary_emb(example, position_ids=torch.arange(-1, slots - 1, device=example.device)[None])
    sign = torch.ones_like(sin)
    sign[..., :sin.shape[-1] // 2] = -1
    return torch.stack([cos[0], (sin * sign)[0]], 1)[:, :, None]
