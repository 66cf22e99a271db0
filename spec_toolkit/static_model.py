"""A causal language model of `transformers` over a cache of fixed shape: nothing in a forward depends on numbers of the host.

The keys and values of a token lie in the slot of its position, in arrays of `slots` slots that are never moved. Where each token
goes and what it may see follows from `positions`, on the device. So a forward can be captured in a CUDA graph, and forgetting
tokens costs nothing: the next ones are read at earlier positions, over what lay there, and no query looks beyond its own position.

Slot 0 belongs to no token; position p has slot p + 1. Something read at position -1 goes there and is seen by nobody: a loop that
always reads two tokens can thus begin with a text of one.
"""
from __future__ import annotations

from typing import NamedTuple

import torch

from .cached_model import last_states

ATTENTION = ("sdpa", "eager")     # these take an additive mask as it is
ROUND_SLOTS = 64                  # slots are a multiple: rows of masks are then aligned, as attention on a GPU wants them
MOVING_ROPE = ("dynamic", "longrope")  # these look at the positions on the host, or change with them


class At(NamedTuple):
    """What follows from positions [batch, n] alone, for any number of forwards; `columns` of it are views."""
    positions: torch.Tensor  # [batch, n] int64
    places: torch.Tensor     # [batch, n] the slots
    mask: torch.Tensor       # [batch, 1, n, slots] additive
    turns: torch.Tensor | None = None  # [batch, n, 2, 1, width] cosine and sine of StaticLlama

    def columns(self, start: int, stop: int) -> At:
        return At(self.positions[:, start:stop], self.places[:, start:stop], self.mask[:, :, start:stop],
                  None if self.turns is None else self.turns[:, start:stop])


class StaticModel:
    """`model` reading `batch` texts, each at positions of its own, up to slots - 2.

    model: returns .logits [batch, n, vocab]; takes input_ids, attention_mask (4D, additive), position_ids, past_key_values.
    Raises ValueError for a model whose forward is not a function of tokens, positions and full attention alone.
    """

    def __init__(self, model, batch: int, slots: int):
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer
        self.model, self.batch, self.slots, self.device = model, batch, slots, model.device
        _require_static(model, DynamicCache(config=model.config).layers, DynamicLayer)
        self.cache = _static_cache(model.config.num_hidden_layers, slots)
        column = torch.arange(-1, slots - 1, device=self.device)  # the position of each slot
        column[0] = torch.iinfo(torch.int64).max                  # slot 0 is behind every query
        self.column = column
        self.seen = torch.zeros((), dtype=model.dtype, device=self.device)
        # The least number and not -inf: a query that may look nowhere (position -1) then gives no NaN.
        self.unseen = torch.full((), torch.finfo(model.dtype).min, dtype=model.dtype, device=self.device)

    @torch.no_grad()
    def read(self, tokens, positions, keep: int = 0):
        """Read tokens [batch, n] (integers) at positions [batch, n] int64, or At -> logits [batch, n, vocab] (the last `keep`, if not 0).

        Each text's positions are distinct (but for those below 0, which share slot 0) and end where its text does; what the cache held
        there is overwritten.
        """
        at = self.at(positions)
        self.cache.places = at.places[:, None, :, None]
        return self.model(input_ids=tokens, position_ids=at.positions, attention_mask=at.mask, use_cache=True,
                          past_key_values=self.cache, logits_to_keep=keep).logits

    def read_both(self, tokens, positions, keep: int = 0):
        """As `read` -> (logits, hidden states of all tokens behind the last norm [batch, n, width])."""
        with last_states(self.model) as states:
            logits = self.read(tokens, positions, keep)
        return logits, states[0]

    def at(self, positions) -> At:
        """Slots and mask of positions [batch, n] int64; At as it is."""
        if isinstance(positions, At):
            return positions
        mask = torch.where(self.column <= positions[:, None, :, None], self.seen, self.unseen)
        return At(positions, (positions + 1).clamp_(min=0), mask)

    def clear(self) -> None:
        """Zero what the cache holds. Not needed for what follows, unless a NaN was read: 0 times NaN is NaN, seen or not."""
        for layer in self.cache.layers:
            layer.reset()


def _require_static(model, layers, full):
    kinds = {type(layer).__name__ for layer in layers if type(layer) is not full}
    if kinds:
        raise ValueError(f"{type(model).__name__}: got a cache with {', '.join(sorted(kinds))}, accepted: full attention in every layer")
    attention = getattr(model.config, "_attn_implementation", "eager")
    if attention not in ATTENTION:
        raise ValueError(f"{type(model).__name__}: got attention {attention!r}, accepted: {', '.join(ATTENTION)} "
                         "(from_pretrained(..., attn_implementation=...)), which take a mask as it is")
    if (rope := _rope_type(getattr(model.config, "rope_parameters", None))) in MOVING_ROPE:
        raise ValueError(f"{type(model).__name__}: got rope type {rope!r}, accepted: one that is the same for texts of every length")


def _rope_type(parameters):
    return parameters.get("rope_type") if isinstance(parameters, dict) else None


def _static_cache(layers: int, slots: int):
    """transformers' cache of `layers` layers of `slots` slots; `places` [batch, 1, n, 1]: the slots that the next update writes."""
    from transformers.cache_utils import Cache, CacheLayerMixin

    class StaticSlots(CacheLayerMixin):
        """Keys and values [batch, heads, slots, width] of one layer; allocated at the first update, which tells heads and width."""
        is_sliding = False

        def lazy_initialization(self, key_states, value_states):
            room = lambda states: states.new_zeros(*states.shape[:2], slots, states.shape[3])
            self.keys, self.values, self.is_initialized = room(key_states), room(value_states), True

        def update(self, key_states, value_states, *args, **kwargs):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            for held, new in ((self.keys, key_states), (self.values, value_states)):
                held.scatter_(2, cache.places.expand_as(new), new)
            return self.keys, self.values

        def get_mask_sizes(self, query_length):
            return slots, 0

        def get_seq_length(self):
            return slots

        def get_max_length(self):
            return slots

    cache = Cache(layers=[StaticSlots() for _ in range(layers)])
    return cache
