"""What the settings beside a tokenizer say, and the library does not do, or does otherwise than another file says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unisono.backends.transformers.model_folder import JINJA, TOKENIZER
from unisono.errors import ModelUnsupported, shown
from unisono.vocab.pieces import END_NAMES
from unisono.vocab.tokenizer import TokenTable

SPLITS = (
    "its tokenizer_config.json says split_special_tokens, with which transformers reads the control tokens of its chat "
    "template as text; here they are control tokens"
)
SPECIALS = "special_tokens_map.json"
NAMED = ("bos_token", "eos_token")


def bos_in_vain(stated: Mapping[str, Any], bos: int | None, *, adds: bool) -> str:
    """A warning where a ``stated`` tokenizer_config.json wants a BOS or none, and the library does otherwise."""
    wants = stated.get("add_bos_token")
    if bos is None or not isinstance(wants, bool) or wants is adds:
        return ""
    does = "adds one, as its tokenizer.json says" if adds else "adds none, as its tokenizer.json says none"
    return (
        f"its tokenizer_config.json says add_bos_token {shown(wants)}, and transformers {does}: raw prompts begin so; "
        "chat templates write their own"
    )


def bos_twice(opening: list[int], bos: int | None) -> str:
    """A warning where a tokenizer begins texts with two BOS; ``opening`` is what stands before them."""
    if bos is None or opening.count(bos) < 2:
        return ""
    return f"its tokenizer begins raw prompts with {opening.count(bos)} BOS, as its post_processor says: one is usual"


def empty_template(stated: Mapping[str, Any], place: str | None) -> str:
    """A warning where an empty file hides the template in a ``stated`` tokenizer_config.json, as the library has it."""
    if place is None or Path(place).stat().st_size or not stated.get("chat_template"):
        return ""
    return (
        f"its {JINJA} is empty, and transformers takes that for its chat template, not the one in "
        f"tokenizer_config.json: it has none. Delete {JINJA}, or give the member a chat_template"
    )


def other_template(stated: Mapping[str, Any], place: str | None, used: object) -> str:
    """A warning where the template in a ``stated`` tokenizer_config.json is not the one in the file beside it."""
    own = stated.get("chat_template")
    if place is None or not isinstance(own, str) or not isinstance(used, str) or not used.strip():
        return ""
    if own.strip() == used.strip():
        return ""
    return (
        f"its {TOKENIZER} has another chat template than {JINJA}, which is used: delete the one that is not meant, or "
        "give the member a chat_template"
    )


def other_specials(stated: Mapping[str, Any], mapped: Mapping[str, Any], table: TokenTable) -> Iterator[str]:
    """Warnings where a ``stated`` tokenizer_config.json and a ``mapped`` special_tokens_map.json contradict each other.

    Two ends that both end texts are none.
    """
    ends = {table.texts[i] for i in table.declared_end_ids if i < len(table.texts)} | END_NAMES
    for key in NAMED:
        said = {name: text_of(each.get(key)) for name, each in ((TOKENIZER, stated), (SPECIALS, mapped))}
        texts = {text for text in said.values() if text is not None}
        if len(texts) < 2 or (key == "eos_token" and texts <= ends):
            continue
        own = table.special_texts.get(key)
        told = " and ".join(f"its {name} says {key} {shown(text)}" for name, text in said.items())
        yield f"{told}: transformers takes {'none' if own is None else shown(own)}"


def text_of(token: object) -> str | None:
    """The text of a token, which is written as itself or as a table with a ``content``."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def stated_ids(stated: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, int]:
    """The ids of tokens by a tokenizer_config.json, or else an added_tokens.json."""
    decoder = stated.get("added_tokens_decoder")
    if not isinstance(decoder, Mapping):
        return {text: i for text, i in added.items() if isinstance(i, int)}
    tokens = ((text_of(token), i) for i, token in decoder.items())
    return {text: int(i) for text, i in tokens if text is not None and i.isdecimal()}


def named_otherwise(
    ids: Mapping[str, int],
    named: Mapping[str, str | None],
    filed: bytes,
    id_of: Callable[[str], int | None],
    library: str,
    who: str,
) -> Iterator[str]:
    """Warnings of tokens that settings name and a tokenizer.json, the bytes ``filed``, does not have, or has otherwise.

    ``ids`` are those that the settings give, and ``named`` the special tokens by their keys. Raises `ModelUnsupported`
    where the library gives a token that only the settings have another id.
    """
    for text, wanted in ids.items():
        found = id_of(text)
        if found in (None, wanted):
            continue
        words = f"the id of {shown(text)} is {wanted} by {TOKENIZER} or added_tokens.json"
        if not _holds(filed, text):
            raise ModelUnsupported(
                f"{who}: {words}, and {library} makes it {found}",
                hint="its tokenizer.json lacks that token: download the tokenizer's files again, all of one model",
            )
        yield f"{words}, and {found} by its tokenizer.json, which is used"
    for key, name in named.items():
        if filed and name is not None and name not in ids and not _holds(filed, name):
            yield (
                f"its tokenizer.json has no token {shown(name)}, which its settings name as {key}: {library} gives it "
                f"the id {id_of(name)}, of a row that was not trained for it"
            )


def _holds(filed: bytes, text: str) -> bool:
    forms = {json.dumps(text, ensure_ascii=plain)[1:-1].encode("utf-8", "replace") for plain in (True, False)}
    return any(form in filed for form in forms)
