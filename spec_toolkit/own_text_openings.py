"""What a model's own texts begin with: questions of ours, chats whose user it plays itself, pieces of Python's library and documentation.

Files are divided by their name, frames and subjects of questions by their place: a tenth is held out, and only texts that are for
measuring begin with these.
"""
from __future__ import annotations

import random
import sysconfig
import zlib
from functools import cache
from pathlib import Path

from . import own_text_questions
from .chat_format import chat_parts, encoded, turn_end
from .own_text import Turns

SOURCES = ("the model itself (chats, and texts from its first token), opened by questions made of frames and subjects "
           "(own_text_questions.py) and by pieces of Python's standard library and pydoc_data.topics")
# A chat that is asked a question of ours; one whose user begins as such a question does; one whose user the model plays from the first
# word; one whose user's message begins with a piece; a text from its first token; a piece alone.
SHARES = {"chat_asked": 0.75, "chat_begun": 0.08, "chat": 0.04, "chat_about": 0.04, "bare": 0.04, "piece": 0.05}
HELD_OUT = 10  # one file of so many


def openings(tokenizer, count: int, seed: int, held_out: bool = False) -> list[list[int]]:
    """`count` openings, lists of ids, in random order. One whose last id ends a turn is answered."""
    dice, encode = random.Random(seed), lambda text: encoded(tokenizer, text)
    before, texts, end = chat_prefix(tokenizer), pieces(held_out), turns(tokenizer).end
    kinds = dice.choices(list(SHARES), list(SHARES.values()), k=count)
    made = []
    for kind in kinds:
        ids = list(before) if kind.startswith("chat") else []
        if kind in ("chat_about", "piece"):
            ids += _piece(dice, texts, encode)
        if kind in ("chat_asked", "chat_begun"):
            ids += _question(dice, encode, held_out, begun=kind == "chat_begun", end=end)
        made.append(ids or [first_id(tokenizer)])
    return made


def chat_prefix(tokenizer) -> list[int]:
    """Ids up to the place of a user's first message; none where the tokenizer has no chat format."""
    parts = chat_parts(tokenizer)
    return encoded(tokenizer, parts[0]) if parts else []


def turns(tokenizer) -> Turns:
    """The marks of the tokenizer's chat format, read from a chat of three messages; Turns() where it has none."""
    parts, end = chat_parts(tokenizer), turn_end(tokenizer)
    return Turns() if end is None else Turns(end, tuple(tuple(encoded(tokenizer, part)[1:]) for part in parts[1:3]))


def first_id(tokenizer) -> int:
    """The id that a text may begin with: the one for beginnings, or for ends, or 0."""
    return next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), 0)


@cache
def pieces(held_out: bool) -> tuple[str, ...]:
    """Texts of Python's library, without its tests: those held out, or the others."""
    root = Path(sysconfig.get_paths()["stdlib"])
    without = {"site-packages", "dist-packages", "test", "tests", "idlelib"}
    files = [path for path in sorted(root.rglob("*.py")) if not without & set(path.parts)]
    named = {str(path.relative_to(root)): path.read_text(errors="replace") for path in files}
    try:
        from pydoc_data.topics import topics
        named |= {f"topic {name}": text for name, text in topics.items()}
    except ImportError:
        pass  # some systems pack it apart; the sources remain
    return tuple(text for name, text in named.items() if len(text) > 200 and (zlib.crc32(name.encode()) % HELD_OUT == 0) == held_out)


def _piece(dice, texts, encode):
    text = dice.choice(texts)
    start = dice.randrange(max(1, len(text) - 200))
    start = text.rfind("\n", 0, start) + 1  # a line's beginning
    return encode(text[start:start + 400])[:dice.randint(4, 48)]


def _question(dice, encode, held_out, begun, end):
    """A user's message: the first words of it, or the whole and the mark that ends it."""
    text = own_text_questions.message(dice, held_out)
    if begun:
        words = text.split()
        return encode(" ".join(words[:dice.randint(1, max(1, len(words) // 2))]))
    return encode(text) + [end] * (end >= 0)
