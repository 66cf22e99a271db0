"""A draft that is the first layers of its target, sharing its embedding and head: cut from it, and kept on disk without what is shared.

A folder holds safetensors files of at most SHARD bytes and provenance.json: how the weights came to be, and the files' hashes.
"""
from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import torch

from .features import attach
from .paths import PACKAGE
from .pretrained import ModelError
from .results import write_atomically

FOLDER = PACKAGE / "weights" / "smollm2_draft"
PROVENANCE = "provenance.json"
SHARD = 12_000_000  # bytes of a file, at most
AIM = 0.65  # acceptance at temperature 1 on held-out texts of the target's own: what this project set itself


def cut(target, layers: int, features: bool = False):
    """The first `layers` layers of a Llama as a model of its own; embedding, head and nothing else are shared with it.

    features: it also takes the target's hidden states (features.py), by a matrix that is zero at first.
    """
    config = copy.deepcopy(target.config)
    if not 1 <= layers <= config.num_hidden_layers:
        raise ValueError(f"layers: got {layers}, accepted: 1 to {config.num_hidden_layers}")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # how the target's file was read; this model has plain weights
    draft = type(target)(config)
    draft.model.embed_tokens, draft.lm_head = target.model.embed_tokens, target.lm_head
    draft.model.layers.load_state_dict(target.model.layers[:layers].state_dict())
    draft.model.norm.load_state_dict(target.model.norm.state_dict())
    for module in (draft.model.layers, draft.model.norm):
        module.to(target.dtype)  # not the whole model: its rotary frequencies stay float32
    if features:
        attach(draft)
    return draft.to(target.device).eval()


def own_weights(draft) -> dict[str, torch.Tensor]:
    """What the draft does not share: {name in its state_dict: tensor}."""
    return {name: weight for name, weight in draft.state_dict().items() if name.startswith(("model.layers.", "model.norm.", "features."))}


def save(folder, draft, provenance: dict, dtype=torch.bfloat16) -> dict:
    """Write the draft's own weights and provenance.json; the provenance with the files' hashes. Each file appears whole or not at all."""
    from safetensors.torch import save as to_bytes
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards({name: weight.detach().to("cpu", dtype).contiguous() for name, weight in own_weights(draft).items()})
    contents = {f"draft-{i}-of-{len(shards)}.safetensors": to_bytes(shard) for i, shard in enumerate(shards, 1)}
    for name, content in contents.items():
        write_atomically(folder / name, content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    provenance = {**provenance, "layers": len(draft.model.layers), "dtype": str(dtype).removeprefix("torch."), "files": hashes}
    write_atomically(folder / PROVENANCE, json.dumps(provenance, indent=1) + "\n")
    return provenance


def note(folder, **more) -> dict:
    """Add to the provenance of weights that are written; the whole of it."""
    provenance = {**provenance_of(folder), **more}
    write_atomically(Path(folder) / PROVENANCE, json.dumps(provenance, indent=1) + "\n")
    return provenance


def provenance_of(folder=None) -> dict:
    """How the weights in a folder (default: those that are kept) came to be; ModelError where there are none."""
    folder = folder or FOLDER
    path = Path(folder) / PROVENANCE
    if not path.is_file():
        raise ModelError(f"smollm2-draft: no trained weights in {folder}. On a GPU, minutes: "
                         f"spec-toolkit distill --out {folder} --seconds 420")
    return json.loads(path.read_text())


def load(target, folder=None):
    """The draft of `target` with the weights of a folder, in the target's dtype and on its device. ModelError: none, not these, damaged."""
    from safetensors.torch import load as from_bytes
    folder = folder or FOLDER
    said, weights = provenance_of(folder), {}
    for name, digest in said["files"].items():
        path = Path(folder) / name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != digest:
            raise ModelError(f"{path}: not the file that {PROVENANCE} speaks of (missing, damaged, or of another training); take the whole "
                             "folder again")
        weights |= from_bytes(content)
    try:
        draft = cut(target, said["layers"], features="features.weight" in weights)
        own = own_weights(draft)
        if own.keys() != weights.keys():
            raise ValueError(f"weights: got {len(weights)}, accepted: {len(own)}")
        draft.load_state_dict(weights, strict=False)
    except (ValueError, RuntimeError) as error:
        name = said.get("target", {}).get("name")
        raise ModelError(f"{folder}: weights of a draft of {name}, which do not fit this target: {error}") from error
    return draft


def _shards(weights):
    shards, size = [{}], 0
    for name, weight in weights.items():
        bytes_ = weight.numel() * weight.element_size()
        if shards[-1] and size + bytes_ > SHARD - 100_000:  # names and shapes stand in the file too
            shards.append({})
            size = 0
        shards[-1][name] = weight
        size += bytes_
    return shards
