"""Warnings of members, given both by `doctor` and when their models are loaded, in the same words."""

from __future__ import annotations

from collections.abc import Sequence


def words_uncased(name: str) -> str:
    return (
        f"the tokenizer of {name} reads texts in lower case, prompts too; capital letters that other members write "
        "reach its model unchanged, in pieces that it has rarely seen"
    )


def words_taken_away(name: str, what: Sequence[str]) -> str:
    return f"the tokenizer of {name} takes {' and '.join(what)} away of chats: its model reads them without"


def words_deaf(name: str) -> str:
    return f"the chat template of {name} writes the same whatever is asked: it never sees the question"


def words_endless(name: str) -> str:
    return f"{name} has no token that ends a text: it never votes to stop"


def words_beyond(name: str, rows: int, beyond: Sequence[str]) -> str:
    """Say that a member's tokenizer has tokens for which its model has no row."""
    examples = ", ".join(filter(None, beyond[:4])) + (" …" if len(beyond) > 4 else "")
    tokens = f"{len(beyond):,} {'token' if len(beyond) == 1 else 'tokens'} ({examples})"
    return (
        f"the tokenizer of {name} is larger than its model by {tokens}: the model has {rows:,} rows, "
        "and further tokens are spelled as ordinary text"
    )
