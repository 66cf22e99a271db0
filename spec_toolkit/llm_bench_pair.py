"""A pair of models that decode together, the prompts as ids, and what a record says of them.

    pair = load_pair("smollm2", "smollm2-draft", device="cuda")    # by name, as pretrained.py has them
    pair = tiny_pair()                                             # random, on the CPU, for notebooks and tests
"""
from __future__ import annotations

import copy
import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import draft_weights, pretrained
from .features import takes_features
from .llm_prompts import PROMPTS
from .loop_law import moved, tiny_model

NGRAM = "ngram"


@dataclass
class Pair:
    """Target and draft (None: n-grams), prompts as lists of ids, the ids that end a text, and what the records say of them."""
    target: torch.nn.Module
    draft: torch.nn.Module | None
    prompts: list[list[int]]
    stop: set[int] = field(default_factory=set)
    names: dict = field(default_factory=dict)

    @property
    def vocab(self) -> int:
        return self.target.get_output_embeddings().weight.shape[0]

    @property
    def features(self) -> bool:
        return self.draft is not None and takes_features(self.draft)

    @functools.cached_property
    def bare(self) -> torch.nn.Module:
        """The same draft, of the same weights, without the matrix of its features: the plain model that transformers sees in it."""
        found = copy.copy(self.draft)
        found._modules = {name: module for name, module in self.draft._modules.items() if name != "features"}
        return found


def load_pair(target: str, draft: str, device="cpu", dtype=None, prompts=PROMPTS) -> Pair:
    """Models by name (pretrained.py). pretrained.ModelError if one cannot be had, or does not share the tokenizer."""
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    model, tokenizer = pretrained.load(target, dtype, device)
    drafter = None
    if draft != NGRAM:
        drafter, draft_tokenizer = pretrained.load(draft, dtype, device, target=(model, tokenizer))
        pretrained.require_shared_ids(tokenizer, draft_tokenizer)
    ids = [pretrained.encode(tokenizer, text) for text in prompts]
    pair = make_pair(model, drafter, ids, pretrained.stop_ids(model, tokenizer), target, draft)
    pair.names["draft_provenance"] = _provenance(draft)
    return pair


def _provenance(draft: str) -> dict | None:
    """What the folder of a trained draft says of how it came to be; None for another model."""
    folder = draft_weights.FOLDER if draft == pretrained.SMOLLM2_DRAFT else Path(draft)
    return draft_weights.provenance_of(folder) if (folder / draft_weights.PROVENANCE).is_file() else None


def make_pair(target, draft, prompts, stop=(), target_name="target", draft_name="draft") -> Pair:
    """A pair of models that are there; its names hold sizes and hashes of the weights, so that a record says what it is of."""
    names = {"target": target_name, "draft": draft_name, "dtype": str(target.dtype).removeprefix("torch."),
             "target_parameters": _parameters(target), "draft_parameters": draft and _parameters(draft),
             "draft_own_parameters": draft and _parameters(draft, besides=target),
             "draft_features": draft is not None and takes_features(draft),
             "target_hash": weights_hash(target), "draft_hash": draft and weights_hash(draft),
             "vocab": target.get_output_embeddings().weight.shape[0],
             "prompts_hash": hashlib.sha256(repr(prompts).encode()).hexdigest()[:12]}
    return Pair(target, draft, prompts, set(stop), names)


def _parameters(model, besides=None) -> int:
    """Numbers in the weights; `besides`: a model whose weights do not count, where they are shared."""
    shared = {id(weight) for weight in besides.parameters()} if besides else set()
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in shared)


def weights_hash(model) -> str:
    """Twelve digits of the weights, by name and value."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def tiny_pair(prompts: int = 8, features: float = 0.1) -> Pair:
    """A random model of two layers and a draft near it (loop_law.moved), in float64 on the CPU, with random prompts."""
    model, draw = tiny_model(), torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 97, (3 + i,), generator=draw).tolist() for i in range(prompts)]
    return make_pair(model, moved(model, features=features), texts, (), "tiny random Llama", "the same, moved")
