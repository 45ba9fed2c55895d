"""How texts were read that an adapter was trained on: by the chat template and the tokens in its folder.

Those who train save the tokenizer beside the adapter, as PEFT's users are told to, and may have changed it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.backends.bounded_files import LONGEST_HEADER, MOST_IN_TOKENIZER, parse_json
from unisono.errors import shown
from unisono.garbage_collection import garbage_collection_paused
from unisono.user_files import DOCUMENT, read_bytes
from unisono.vocab.tokenizer import TokenTable


def trained_otherwise(folder: Path, table: TokenTable, *, template_given: bool) -> tuple[str, ...]:
    """What an adapter was trained with and its model, with the tokens of ``table``, does not have or use.

    In words that follow "the adapter of NAME". A template that the spec gives is meant.
    """
    trained, found = _reading(folder), list[str]()
    known = {_spaced(text) for text in (*table.texts, *(text for text, _ in table.beyond))} if trained.tokens else ()
    if new := [token for token in trained.tokens if _spaced(token) not in known]:
        what, are = ("token", "it is") if len(new) == 1 else ("tokens", "they are")
        found.append(
            f"was trained with {len(new):,} {what} that its model does not have "
            f"({', '.join(map(shown, new[:4]))}{' …' if len(new) > 4 else ''}): {are} read as ordinary text"
        )
    own = (table.chat_template or table.named_templates.get("default") or "").strip()
    if not template_given and trained.template is not None and trained.template.strip() != own:
        what = "its model's, which is used" if own else "none, which its model has"
        found.append(f"was trained with another chat template than {what}: give it, of {folder}, as chat_template")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Reading:
    template: str | None = None
    """The chat template; ``None`` where there is none, or several."""
    tokens: tuple[str, ...] = ()
    """The tokens that were added to a vocabulary, by the model's own makers too, without one that only pads."""


def _spaced(token: str) -> str:
    """A token with spaces as text has them: llama.cpp's converter writes Gemma's added tokens so, and others with ▁."""
    return token.replace("▁", " ")


@garbage_collection_paused()
def _reading(folder: Path) -> _Reading:
    """What a folder of PEFT's has of a tokenizer; files that cannot be read count as absent."""
    config = _json(folder / "tokenizer_config.json")
    whole = {} if config.get("added_tokens_decoder") else _json(folder / "tokenizer.json")
    template = _text(folder / "chat_template.jinja") or config.get("chat_template")
    tokens = list(dict.fromkeys((*_json(folder / "added_tokens.json"), *_contents(config), *_contents(whole))))
    padding, end = (_content(config.get(key)) for key in ("pad_token", "eos_token"))
    if padding != end:  # trainers add one, and what is read holds none
        tokens = [token for token in tokens if token != padding]
    return _Reading(template if isinstance(template, str) else None, tuple(tokens))


def _contents(settings: Mapping[str, Any]) -> Iterator[str]:
    added, decoder = settings.get("added_tokens"), settings.get("added_tokens_decoder")
    entries = [*(added if isinstance(added, list) else ()), *(decoder.values() if isinstance(decoder, dict) else ())]
    for entry in entries:
        if isinstance(entry, Mapping) and (content := _content(entry)) is not None:
            yield content


def _content(token: object) -> str | None:
    """The text of a token, which is written as itself or as a table with a ``content``."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _json(file: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_bytes(file, LONGEST_HEADER), MOST_IN_TOKENIZER)
    except (OSError, ValueError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(file: Path) -> str | None:
    try:
        return read_bytes(file, DOCUMENT).decode("utf-8")
    except (OSError, ValueError):
        return None
