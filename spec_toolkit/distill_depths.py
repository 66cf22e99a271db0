"""All drafts of all steps at once: what a draft with features computes in decoding, for every position of whole texts (EAGLE-3's
training-time test).

In decoding a step begins behind some position: the draft has read all tokens up to there with the target's features, which is depth 1, and
then reads each token it drafts with its own state as the feature, depth 2 and on. Here each depth reads all positions:

    depth 1 at t:  embedding + features(target's state at t - 1),         attends to depth 1 up to t
    depth d at t:  embedding + features(own state of depth d - 1 at t - 1), attends to depth 1 up to t - d + 1, and of its own step
                   to depth j at t - d + j, j = 2 to d

so that a depth is one attention over the keys of all depths up to it, under a constant mask. Tokens are the text's own: that of drafts
that were accepted. Positions before d - 1 are no step's depth d, and what stands there says nothing.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .features import takes_features, with_features
from .own_text_step import rotated

MASKED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # those that take any mask


def before(x, norm, query, key, value, cos, sin, eps: float):
    """x [n, length, width] -> queries, keys, values [n, heads, length, head_dim], turned to their positions."""
    normed = F.rms_norm(x, x.shape[-1:], norm, eps)
    queries, keys, values = (F.linear(normed, matrix).unflatten(-1, (-1, cos.shape[-1])).transpose(1, 2) for matrix in (query, key, value))
    return rotated(queries, cos, sin), rotated(keys, cos, sin), values


def behind(x, attended, out, norm, gate, up, down, eps: float):
    """x [n, length, width] and what its heads attended to [n, length, heads * head_dim] -> the layer's output."""
    x = x + F.linear(attended, out)
    normed = F.rms_norm(x, x.shape[-1:], norm, eps)
    return x + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down)


@dataclass
class Parts:
    """The two halves of a layer around its attention: as they stand, or compiled."""
    before: object = before
    behind: object = behind


def unrolled(draft, tokens, hidden=None, depth: int = 1, dtype=torch.float32, parts=Parts()):
    """The draft's states behind its last norm, a list by depth of [n, length, width] in `dtype`.

    draft: a Llama without biases. tokens [n, length] int64. hidden [n, length, width]: the target's states behind its last norm where each
    token was read, all zeros for a text that is to be read without features; None where the draft takes none. Float32 weights work in
    bfloat16 if `dtype` is.
    """
    inner, length = draft.model, tokens.shape[1]
    embedded = inner.embed_tokens(tokens).to(inner.norm.weight.dtype)
    mixed = embedded.dtype == torch.float32 and dtype == torch.bfloat16
    states, keys, values = [], [[] for _ in inner.layers], [[] for _ in inner.layers]
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=mixed):
        turn = inner.rotary_emb(embedded, position_ids=torch.arange(length, device=tokens.device)[None])
        cos, sin = (each[0].to(dtype) for each in turn)
        for d in range(1, depth + 1):
            x = with_features(embedded, _later(hidden), draft.features.weight) if hidden is not None else embedded
            for layer, its_keys, its_values in zip(inner.layers, keys, values):
                x = _read(layer, x, cos, sin, its_keys, its_values, d, parts)
            hidden = F.rms_norm(x, x.shape[-1:], inner.norm.weight, draft.config.rms_norm_eps).to(dtype)
            states.append(hidden)
    return states


def features_of(draft, pool):
    """What `unrolled` takes as `hidden` for the texts of a Pool: its states if the draft takes features, else None."""
    return pool.hidden if takes_features(draft) else None


def _read(layer, x, cos, sin, keys, values, depth, parts):
    """One layer at one depth; its keys and values [n, key heads, length, head_dim] are added to those of the depths before."""
    attention, mlp, eps = layer.self_attn, layer.mlp, layer.input_layernorm.variance_epsilon
    queries, key, value = parts.before(x, layer.input_layernorm.weight, attention.q_proj.weight, attention.k_proj.weight,
                                       attention.v_proj.weight, cos, sin, eps)
    keys.append(key), values.append(value)
    if depth == 1:
        attended = F.scaled_dot_product_attention(queries, key, value, is_causal=True, enable_gqa=True)
    else:
        n, heads, length, width = queries.shape
        shared = key.shape[1]
        rows = queries.reshape(n, shared, heads // shared * length, width)  # queries of one head, those that share its keys
        with sdpa_kernel(MASKED):
            attended = F.scaled_dot_product_attention(rows, torch.cat(keys, 2), torch.cat(values, 2),
                                                      attn_mask=_mask(length, depth, heads // shared, queries.dtype, str(queries.device)))
        attended = attended.reshape(n, heads, length, width)  # the kernel may hand out its own order
    return parts.behind(x, attended.transpose(1, 2).flatten(2), attention.o_proj.weight, layer.post_attention_layernorm.weight,
                        mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, eps)


@cache
def _mask(length, depth, repeats, dtype, device):
    """[repeats * length, depth * length], 0 where a query of `depth` may look, else -inf; a query before any step looks at itself."""
    place = torch.arange(length, device=device)
    back = place[:, None] - place
    seen = torch.cat([back >= depth - 1, *(back == depth - j for j in range(2, depth + 1))], 1)
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, float("-inf")).repeat(repeats, 1)


def _later(hidden):
    """[n, length, width], one position further on; zeros at the first."""
    return F.pad(hidden[:, :-1], (0, 0, 1, 0))
