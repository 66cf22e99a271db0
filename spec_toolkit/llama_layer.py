"""A layer of a Llama over a static cache as one function of its arrays, in two forms: few launches as it stands, and fewer compiled.

What is joined in both: the matrices of query, key and value, and of gate and up; rotation of query and key; writing of key and value; each
residual sum with the product before it or the norm behind it. Heads that share keys are queries of one head, so that no key is repeated.

`lean` is written for a compiler that joins what goes over the same numbers. Of a single token a product is a sum over each row of the
weights: what stands before and behind it goes into the same launch. A norm's factor is one number for the token, so it is found beside every
sum and multiplied afterwards. Launched as it stands this form would be slow.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional


class Shape(NamedTuple):
    """What is the same in all layers of a model, and decides the code."""
    heads: int
    shared: int      # heads of keys and values
    width: int       # of a head
    eps: float
    scaling: float   # of queries times keys
    act: Callable


class Layer(NamedTuple):
    """Weights of one layer, those that meet the same input joined; [out, in] each. Query heads, in a model ordered by the key that they
    share, are ordered by their place among those that share it: [heads / shared, shared]."""
    first: torch.Tensor            # of the norm before attention
    query_key_value: torch.Tensor
    out: torch.Tensor
    second: torch.Tensor           # of the norm behind it
    gate_up: torch.Tensor
    down: torch.Tensor


class Places(NamedTuple):
    """Where the tokens of a forward are, for all layers."""
    texts: torch.Tensor  # [batch, 1] int64, from 0
    slots: torch.Tensor  # [batch, n] int64: where key and value go
    cos: torch.Tensor    # [batch, n, 1, width]
    sin: torch.Tensor    # the same, with the sign of rotate-half
    mask: torch.Tensor   # [batch, 1, n * queries, slots] additive, for each query of a token: `queries`


def queries(shape: Shape, lean: bool) -> int:
    """Queries of a token for each of its keys. Where they are not lean its key and value go with them, as queries that nobody asked: so
    attention reads the product where it lies, and the product behind reads attention's."""
    return shape.heads // shape.shared + (0 if lean else 2)


def read_layer(hidden, layer: Layer, held, places: Places, shape: Shape, lean: bool):
    """hidden [batch * n, model width] -> behind the layer; it may be changed. held [2, batch, shared, slots, width]: keys and values,
    written where the tokens are."""
    mixed = _normed_product(hidden, layer.first, layer.query_key_value, shape.eps, lean)
    hidden = _added_product(hidden, _attended(mixed, held, places, shape, lean), layer.out, lean)
    gate, up = _normed_product(hidden, layer.second, layer.gate_up, shape.eps, lean).chunk(2, 1)
    return _added_product(hidden, shape.act(gate) * up, layer.down, lean)


def read_words(tokens, embedding, features, matrix, lean: bool):
    """Tokens [batch, n] -> hidden [batch * n, width]: their embedding, and `matrix` times the normed features [batch * n, width], if
    there are any (features.with_features)."""
    hidden = functional.embedding(tokens, embedding).flatten(0, 1)
    if features is None:
        return hidden
    return _added_product(hidden, functional.rms_norm(features, features.shape[-1:]), matrix, lean)


def _normed_product(hidden, gain, weight, eps, lean):
    if not lean or len(hidden) > 1:
        return functional.linear(functional.rms_norm(hidden, hidden.shape[-1:], gain, eps), weight)
    row, scaled = hidden.float(), weight * gain.float()
    factor = torch.rsqrt((row * row).expand_as(scaled).mean(-1) + eps)
    return ((row * scaled).sum(-1) * factor).to(hidden.dtype)[None]


def _added_product(hidden, given, weight, lean):
    if not lean:
        return hidden.addmm_(given, weight.t())
    if len(hidden) > 1:
        return hidden + functional.linear(given, weight)
    return ((given.float() * weight).sum(-1) + hidden).to(hidden.dtype)


def _attended(mixed, held, places, shape, lean):
    """mixed [batch * n, (heads + 2 shared) * width]: query, key, value; -> [batch * n, heads * width]. Writes the cache."""
    heads, shared, width = shape[:3]
    batch, n = places.slots.shape
    mixed = mixed.view(batch, n, -1, width)
    turned = mixed[:, :, :heads + shared]
    first, second = turned.chunk(2, 3)
    swapped = torch.cat([second, first], 3)
    if lean:
        mixed = torch.cat([turned * places.cos + swapped * places.sin, mixed[:, :, heads + shared:]], 2)
    else:
        torch.addcmul(turned * places.cos, swapped, places.sin, out=turned)
    held[:, places.texts, :, places.slots] = mixed[:, :, heads:].view(batch, n, 2, shared, width)
    keys, values = held
    asked = mixed[:, :, :heads] if lean else mixed
    query = asked.reshape(batch, -1, shared, width).transpose(1, 2)  # [batch, shared, n * queries, width]
    if lean:
        scores = (query @ keys.transpose(2, 3)).float() * shape.scaling + places.mask
        attended = scores.softmax(-1).to(values.dtype) @ values
    else:
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=places.mask, scale=shape.scaling)
    return attended.transpose(1, 2).reshape(batch * n, -1)[:, :heads * width]


_JOINED = weakref.WeakKeyDictionary()  # model -> (the state of its weights, their layers)


def joined(model) -> list[Layer]:
    """The layers of a model, made once; again if its weights have been moved or changed in place since (but for changes by .data)."""
    state = [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in model.parameters()]
    if model not in _JOINED or _JOINED[model][0] != state:
        config = model.config
        _JOINED[model] = state, [_layer(layer, config.num_key_value_heads) for layer in model.model.layers[:config.num_hidden_layers]]
    return _JOINED[model][1]


def shape_of(model) -> Shape:
    config, first = model.config, model.model.layers[0]
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(config.num_attention_heads, config.num_key_value_heads, width, config.rms_norm_eps, first.self_attn.scaling, first.mlp.act_fn)


def _layer(layer, shared: int) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    by_place = lambda rows: rows.view(shared, -1, attention.head_dim, rows.shape[1]).transpose(0, 1).reshape(rows.shape)
    query, key, value, out = (part.weight.detach() for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj))
    return Layer(layer.input_layernorm.weight.detach(), torch.cat([by_place(query), key, value]), by_place(out.t().contiguous()).t().contiguous(),
                 layer.post_attention_layernorm.weight.detach(), torch.cat([part.weight.detach() for part in (mlp.gate_proj, mlp.up_proj)]),
                 mlp.down_proj.weight.detach())
