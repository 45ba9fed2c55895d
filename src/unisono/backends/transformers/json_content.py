"""A parsed `tokenizer.json`: its table of tokens, and its content without what adds to a text or loses of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from unisono.backends.model_facts import check_ids
from unisono.backends.transformers.json_scheme import has_byte_tokens, json_scheme
from unisono.errors import ModelCorrupt
from unisono.vocab.pieces import BYTE_TOKEN
from unisono.vocab.tokenizer import Kind, TokenTable

EXACT_NORMALIZERS = frozenset({"ByteLevel"})
"""Lossless normalizers. Replacing a space by ``▁`` is also allowed."""
LOSSY_PRETOKENIZERS = frozenset({"Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit"})
"""Pre-tokenizers that drop characters."""


def read_json_table(content: Mapping[str, Any], special_ids: Iterable[int], **facts: Any) -> TokenTable:
    """Read the token table of a parsed `tokenizer.json`.

    ``special_ids`` are control tokens by the configuration; ``facts`` are further `TokenTable` fields. Raises
    `ModelUnsupported` or `ModelCorrupt` when tokens are missing or do not spell bytes.
    """
    model = content.get("model") or {}
    scheme, family = json_scheme(content)
    vocab = model.get("vocab")
    if not vocab:
        raise ModelCorrupt("the tokenizer has no vocabulary", hint="download its files again")
    ids = vocab if isinstance(vocab, dict) else {text: i for i, (text, _) in enumerate(vocab)}
    added = {int(token["id"]): token for token in content.get("added_tokens") or ()}
    check_ids((*ids.values(), *added), len(ids) + len(added), "the tokenizer")
    length = max([*ids.values(), *added]) + 1
    texts = [""] * length
    kinds: list[Kind] = ["unused"] * length
    fallback = scheme == "sentencepiece" and has_byte_tokens(content)
    for text, i in ids.items():
        texts[i], kinds[i] = text, "byte" if fallback and BYTE_TOKEN.fullmatch(text) else "normal"
    if not isinstance(vocab, dict):  # a Unigram list may name one text twice: each row keeps its own
        texts[: len(vocab)] = [text for text, _ in vocab]
    for i, token in added.items():
        texts[i], kinds[i] = token["content"], "control" if token["special"] else "added"
    for i in (*special_ids, *unknown_ids(model)):
        if 0 <= i < length:
            kinds[i] = "control"
    facts["strips"] = {
        i: sides for i, token in added.items() if any(sides := (bool(token.get("lstrip")), bool(token.get("rstrip"))))
    }
    facts["words"] = frozenset(i for i, token in added.items() if token.get("single_word"))
    return TokenTable(scheme=scheme, family=family, texts=tuple(texts), kinds=tuple(kinds), **facts)


def unknown_ids(model: Mapping[str, Any]) -> list[int]:
    if model.get("unk_id") is not None:
        return [int(model["unk_id"])]
    vocab = model["vocab"]
    unknown = vocab.get(model.get("unk_token") or "") if isinstance(vocab, dict) else None
    return [] if unknown is None else [int(unknown)]


def with_settled_controls(table: TokenTable, content: Mapping[str, Any]) -> dict[str, Any]:
    """Mark every added control token as special, so plain text never becomes one."""
    added = [
        token | {"special": token["special"] or table.kinds[token["id"]] == "control"}
        for token in content.get("added_tokens") or ()
    ]
    own = {"truncation": None, "padding": None, "post_processor": None}
    return {**content, **own, "model": without_dropout(content["model"]), "added_tokens": added}


def without_dropout(model: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's model without dropout, which is for training: it merges otherwise each time."""
    return {**model, "dropout": None} if model.get("dropout") else dict(model)


def lossless(content: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer without additions to the text or losses."""
    added = [token | {"lstrip": False, "rstrip": False} for token in content["added_tokens"]]
    return content | {
        "added_tokens": added,
        "normalizer": _kept(content.get("normalizer"), "normalizers", _exact_normalizer),
        "pre_tokenizer": _kept(content.get("pre_tokenizer"), "pretokenizers", _exact_pretokenizer),
    }


def _exact_normalizer(part: dict[str, Any]) -> dict[str, Any] | None:
    spaces = part["type"] == "Replace" and part["pattern"] == {"String": " "}
    return part if spaces or part["type"] in EXACT_NORMALIZERS else None


def _exact_pretokenizer(part: dict[str, Any]) -> dict[str, Any] | None:
    if part["type"] in LOSSY_PRETOKENIZERS:
        return None
    if part["type"] == "Metaspace":
        kept = {"replacement": part.get("replacement", "▁"), "split": part.get("split", True)}
        return {"type": "Metaspace", "prepend_scheme": "never", **kept}
    return part | {"add_prefix_space": False} if part["type"] == "ByteLevel" else part


def _kept(part: dict[str, Any] | None, key: str, exact: Callable[[dict[str, Any]], Any]) -> dict[str, Any] | None:
    """The part, or the members of a sequence, that ``exact`` keeps."""
    if part is None or part["type"] != "Sequence":
        return part and exact(part)
    kept = [each for each in (_kept(inner, key, exact) for inner in part[key]) if each]
    return part | {key: kept} if kept else None
