"""How the tokens of a `tokenizer.json` spell bytes: by GPT-2's alphabet, or as SentencePiece's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from unisono.errors import ModelUnsupported
from unisono.vocab.tokenizer import Scheme

SPACE = "▁"
"""How SentencePiece writes a space."""


def json_scheme(content: Mapping[str, Any]) -> tuple[Scheme, str]:
    """The scheme and family of a `tokenizer.json`. Raises a `ModelUnsupported` if its tokens do not spell bytes."""
    model = content.get("model") or {}
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    marked = model.get("end_of_word_suffix") or model.get("continuing_subword_prefix")
    if kind not in ("BPE", "Unigram") or marked:
        reason = f"BPE with word marks {marked!r}" if kind in ("BPE", "Unigram") else kind
        raise ModelUnsupported(
            f"its tokenizer is of the kind {reason}, which splits text into words and loses the spaces between",
            hint="use a model with a byte-level BPE, SentencePiece or tiktoken tokenizer",
        )
    parts = _parts(content)
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        return "byte-level", f"byte-level {kind}"
    if (mark := next((mark for mark in map(_space_mark, parts) if mark not in ("", SPACE)), "")) != "":
        raise ModelUnsupported(
            f"its tokenizer writes spaces as {mark!r} and not as {SPACE!r}, so that tokens do not say which are text",
            hint="use a model with a byte-level BPE, SentencePiece or tiktoken tokenizer",
        )
    spaced = "Metaspace" in kinds or SPACE in json.dumps(parts, ensure_ascii=False)
    if spaced or "ByteFallback" in kinds or model.get("byte_fallback"):
        return "sentencepiece", "SentencePiece BPE" if kind == "BPE" else "Unigram"
    raise ModelUnsupported(
        f"its tokenizer, a {kind} without a byte alphabet or '▁', does not say how tokens spell bytes",
        hint="use a model with a byte-level BPE, SentencePiece or tiktoken tokenizer",
    )


def has_byte_tokens(content: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` reads or writes tokens like ``<0x0A>`` as bytes: some write them alone."""
    model = content.get("model") or {}
    return bool(model.get("byte_fallback")) or any(part.get("type") == "ByteFallback" for part in _parts(content))


def _space_mark(part: Mapping[str, Any]) -> str:
    """What a part writes in the place of a space; empty where it leaves them alone, or a decoder writes them."""
    if part.get("type") == "Metaspace":
        return str(part.get("replacement", SPACE))
    spaces = part.get("type") == "Replace" and part.get("pattern") == {"String": " "}
    content = str(part.get("content", "")) if spaces else ""
    return content if content.strip() else ""


def _parts(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [content.get(key) or {} for key in ("normalizer", "pre_tokenizer", "decoder")]
    for part in found:  # which grows
        for key in ("normalizers", "pretokenizers", "decoders"):
            found += part.get(key) or ()
    return [part for part in found if part.get("type") not in (None, "Sequence")]
