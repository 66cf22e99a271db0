"""One token further in many texts at once: a Llama's decode step over a cache of fixed size, made to be captured in a CUDA graph.

transformers' own step with a static cache copies every key and value once per query head of its group; here the queries of a
group are the rows of one small attention instead, so that a step reads its cache once. All texts are at the same place.
"""
from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# Named, so that the choice does not differ between warming up and capture: the first takes masks and plans nothing at run time.
ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class LlamaStep:
    """`model` (a LlamaForCausalLM) reading one token of each of `batch` texts of up to `length` tokens.

    Holds keys and values [layers, batch, key heads, length, head_dim] in the model's dtype. ValueError for another architecture.
    """

    def __init__(self, model, batch: int, length: int):
        config = model.config
        if config.model_type != "llama" or config.attention_bias or config.mlp_bias or config.hidden_act != "silu":
            raise ValueError(f"model: got {config.model_type} with attention_bias={getattr(config, 'attention_bias', None)}, accepted: "
                             "a llama without biases whose activation is silu")
        self.key_heads, self.heads, self.eps = config.num_key_value_heads, config.num_attention_heads, config.rms_norm_eps
        self.embedding, self.last_norm = model.model.embed_tokens.weight.detach(), model.model.norm.weight.detach()
        self.layers = [self._weights(layer) for layer in model.model.layers]
        self.head_dim = self.layers[0][1].shape[0] // (self.heads + 2 * self.key_heads)
        shape = len(self.layers), batch, self.key_heads, length, self.head_dim
        self.keys, self.values = (torch.zeros(shape, dtype=self.embedding.dtype, device=self.embedding.device) for _ in range(2))
        self.slots = torch.arange(length, device=self.embedding.device)
        cos, sin = model.model.rotary_emb(self.embedding[:1, None], self.slots[None])
        self.cos, self.sin = cos[0].detach(), sin[0].detach()  # [length, head_dim]

    @torch.no_grad()
    def read(self, tokens, place, end: int):
        """Read tokens [batch] int64 at `place` [1] int64 (on the device) -> hidden states behind the last norm [batch, width].

        end: slots that are looked at, more than `place`; a number of the host, for it makes the shapes.
        """
        x, batch = F.embedding(tokens, self.embedding), len(tokens)
        cos, sin = self.cos.index_select(0, place), self.sin.index_select(0, place)
        hidden_slots = torch.zeros(end, dtype=x.dtype, device=x.device).masked_fill_(self.slots[:end] > place, float("-inf"))
        mask = hidden_slots.expand(self.heads // self.key_heads, end).contiguous()
        for layer, (first_norm, qkv, out, second_norm, gate_up, down) in enumerate(self.layers):
            split = F.linear(self._norm(x, first_norm), qkv).view(batch, -1, self.head_dim)
            turned = rotated(split[:, :-self.key_heads], cos, sin)
            self.keys[layer].index_copy_(2, place, turned[:, self.heads:, None])
            self.values[layer].index_copy_(2, place, split[:, -self.key_heads:, None])
            queries = turned[:, :self.heads].reshape(batch, self.key_heads, -1, self.head_dim)
            with sdpa_kernel(ATTENTION):
                seen = F.scaled_dot_product_attention(queries, self.keys[layer][:, :, :end], self.values[layer][:, :, :end], attn_mask=mask)
            x = x + F.linear(seen.reshape(batch, -1), out)
            gate, up = F.linear(self._norm(x, second_norm), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, down)
        return self._norm(x, self.last_norm)

    def _norm(self, x, weight):
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def _weights(self, layer):
        """Of one layer, without gradients; matrices that read the same input are one."""
        attention, mlp = layer.self_attn, layer.mlp
        qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        weights = (layer.input_layernorm.weight, qkv, attention.o_proj.weight, layer.post_attention_layernorm.weight,
                   torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), mlp.down_proj.weight)
        return [weight.detach() for weight in weights]


def rotated(x, cos, sin):
    """x [.., head_dim], turned to its position: halves paired, as Llama's weights expect."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin
