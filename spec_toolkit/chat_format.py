"""A tokenizer's chat format, read from its template: what stands around messages, and the mark that ends one.

Not from `eos_token`: what transformers takes for that in a .gguf file differs from version to version (5.17 has SmolLM2's opening mark).
"""
from __future__ import annotations

MESSAGE = "\0"  # stands for a message in the template


def chat_parts(tokenizer) -> list[str] | None:
    """The text before, between and behind the messages of a chat user, assistant, user: four parts; None without a format."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    chat = [{"role": role, "content": MESSAGE} for role in ("user", "assistant", "user")]
    parts = tokenizer.apply_chat_template(chat, tokenize=False).split(MESSAGE)
    return parts if len(parts) == 4 else None


def turn_end(tokenizer) -> int | None:
    """The id that ends a message: an added token that the parts between messages begin with; None if there is none."""
    if not (parts := chat_parts(tokenizer)):
        return None
    firsts = {tuple(encoded(tokenizer, part)[:1]) for part in parts[1:3]}
    added = {(token,) for token in tokenizer.get_added_vocab().values()}
    return firsts.pop()[0] if len(firsts) == 1 and firsts <= added else None


def encoded(tokenizer, text: str) -> list[int]:
    """The ids of a text alone, nothing added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]
