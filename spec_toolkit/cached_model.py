"""A causal language model of `transformers` with its KV cache, over a batch whose requests progress unevenly.

The cache has one row of slots per request, and all rows have the same number of slots. `held` says which slots hold a token
of the request: a token that was taken back leaves a hole, which no later query attends to, and each token has the position it
has in its own text. So a request's rows depend on its own text alone (up to rounding), whatever the others do. Slots at the
end that are holes in every row are cut off; one request alone thus never has a hole.

A copy of `held` is kept on the host, so that nothing here waits for the device.
"""
from __future__ import annotations

import contextlib

import torch


class CachedModel:
    """`model` reading `batch` texts. `lengths`: how many tokens of each text the cache holds, a list of ints.

    model: returns .logits [batch, n, vocab]; takes input_ids, attention_mask (4D, additive), position_ids, past_key_values.
    Raises ValueError for a model whose cache cannot be taken back (sliding windows, recurrent states).
    """

    def __init__(self, model, batch: int):
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer
        self.model, self.cache, self.lengths = model, DynamicCache(config=model.config), [0] * batch
        kinds = {type(layer).__name__ for layer in self.cache.layers if type(layer) is not DynamicLayer}
        if kinds:
            raise ValueError(f"{type(model).__name__}: got a cache with {', '.join(sorted(kinds))}, accepted: full attention in every "
                             "layer, whose cache can be taken back to any length")
        self.device, self.dtype = model.device, model.dtype
        self.held_here = torch.zeros(batch, 0, dtype=torch.bool)  # on the host
        self.held = self.held_here.to(self.device)                # [batch, slots]
        self.next_position = torch.zeros(batch, 1, dtype=torch.int64, device=self.device)

    def read_both(self, tokens, counts=None, keep: int = 0):
        """As `read` -> (logits, hidden states of all columns behind the last norm [batch, n, width])."""
        with last_states(self.model) as states:
            logits = self.read(tokens, counts, keep)
        return logits, states[0]

    @torch.no_grad()
    def read(self, tokens, counts=None, keep: int = 0):
        """Read the next tokens of each text -> logits [batch, n, vocab] (of the last `keep` columns, where keep is not 0).

        tokens [batch, n] int64 on the model's device. counts: a list, of row b only the first counts[b] are read (None: all n).
        """
        batch, n = tokens.shape
        new_here = torch.ones(batch, n, dtype=torch.bool)
        new = torch.ones(batch, n, dtype=torch.bool, device=self.device)
        if counts is not None:
            new_here = torch.arange(n) < torch.tensor(counts)[:, None]
            new = new_here.to(self.device)
        self.held_here, self.held = torch.cat([self.held_here, new_here], 1), torch.cat([self.held, new], 1)
        column = torch.arange(n, device=self.device)
        logits = self.model(input_ids=tokens, position_ids=self.next_position + column, attention_mask=self._mask(n), use_cache=True,
                            past_key_values=self.cache, logits_to_keep=keep).logits
        self.next_position = self.next_position + new.sum(1, keepdim=True)
        self.lengths = [length + count for length, count in zip(self.lengths, [n] * batch if counts is None else counts)]
        return logits

    def take_back(self, lengths: list[int]) -> None:
        """Forget all but the first lengths[b] tokens of each text; a text that is held no further stays as it is."""
        self.lengths = [min(pair) for pair in zip(self.lengths, lengths)]
        kept = torch.tensor(self.lengths)[:, None]
        self.held_here = self.held_here & (self.held_here.cumsum(1) <= kept)
        used = self.held_here.any(0).nonzero()
        slots = int(used[-1]) + 1 if len(used) else 0
        if slots < self.held_here.shape[1]:
            self.cache.crop(slots - self.held_here.shape[1])  # a negative number: so many slots fewer
        self.held_here = self.held_here[:, :slots].contiguous()
        self.held, self.next_position = self.held_here.to(self.device), kept.to(self.device)

    def _mask(self, n):
        """[batch, 1, n, slots], 0 where a query may look: slots that are held, up to its own; else the dtype's least number.

        Additive and four-dimensional: transformers takes it as it is, where a mask of two dimensions makes it look at the host.
        The least number and not -inf: a query that may look nowhere (padding) then gives no NaN.
        """
        slots = self.held.shape[1]
        column = torch.arange(slots, device=self.device)
        seen = self.held[:, None, None, :] & (column <= column[slots - n:, None])
        return torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(~seen, torch.finfo(self.dtype).min)


@contextlib.contextmanager
def last_states(model):
    """A list that receives, of each forward inside, the hidden states which the head of a causal language model is given."""
    found = []
    hook = model.base_model.register_forward_hook(lambda module, given, out: found.append(out.last_hidden_state))
    try:
        yield found
    finally:
        hook.remove()


def read_prompts(reader: CachedModel, prompts, both: bool = False):
    """Read each prompt but for its last token, which the first step feeds. both: -> hidden states as of `read_both`, of no meaning behind
    a prompt's end; None if there is nothing to read."""
    counts = [len(prompt) - 1 for prompt in prompts]
    if not max(counts):
        return None
    tokens = padded([prompt[:-1] for prompt in prompts], reader.device)
    if both:
        return reader.read_both(tokens, counts, keep=1)[1]
    reader.read(tokens, counts, keep=1)
    return None


def padded(rows, device):
    """Lists of ids -> [batch, longest] int64 on `device`, filled up with zeros behind."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.int64).to(device)
