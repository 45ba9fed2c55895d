"""Tokenizers without a `tokenizer.json`: tekken and SentencePiece, with or without mistral-common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unisono.errors import ModelUnsupported
from unisono.vocab.tokenizer import Kind, Tokenizer, TokenTable


class NativeTokenizer:
    """A tokenizer for plain text only; control tokens are cut out of rendered text first."""

    def __init__(
        self, table: TokenTable, middle: Callable[[str], list[int]], whole: Callable[[str], list[int]]
    ) -> None:
        """``middle`` encodes plain text inside a text, ``whole`` at its beginning."""
        self.table = table
        self._middle = middle
        self._whole = whole

    def encode(self, text: str) -> list[int]:
        return self._middle(text)

    def encode_prompt(self, text: str) -> list[int]:
        return self.table.opening + self._whole(text)

    def encode_rendered(self, text: str) -> list[int]:
        ids: list[int] = []
        for part, control in self.table.controls.cut(text):
            ids += self._whole(part) if control is None else [control]
        return ids


def read_native(tokenizer: Any, facts: Mapping[str, Any], who: str) -> Tokenizer:
    """Read a tokenizer without a `tokenizer.json`. Raises `ModelUnsupported` for an unknown kind."""
    inner = getattr(getattr(getattr(tokenizer, "tokenizer", None), "instruct_tokenizer", None), "tokenizer", None)
    if hasattr(inner, "id_to_byte_piece") and hasattr(inner, "num_special_tokens"):
        return _tekken(inner, facts)
    processor = getattr(inner, "_model", None) or getattr(tokenizer, "sp_model", None)
    if processor is not None and hasattr(processor, "id_to_piece"):
        return _sentencepiece(processor, tokenizer, inner is not None, facts)
    raise ModelUnsupported(
        f"{who}: its tokenizer ({type(tokenizer).__name__}) does not tell how its tokens spell bytes",
        hint="use a model with a tokenizer.json, a SentencePiece model or a tekken.json",
    )


def _tekken(inner: Any, facts: Mapping[str, Any]) -> Tokenizer:
    """Special tokens come first, then one row per byte string."""
    special, size = int(inner.num_special_tokens), int(inner.n_words)
    texts = [inner.id_to_piece(i) for i in range(special)]
    texts += [inner.id_to_byte_piece(i).decode("latin-1") for i in range(special, size)]
    kinds: list[Kind] = ["control" if i < special else "normal" for i in range(size)]
    table = TokenTable(scheme="bytes", family="tekken", texts=tuple(texts), kinds=tuple(kinds), adds_bos=True, **facts)

    def plain(text: str) -> list[int]:
        return list(inner.encode(text, bos=False, eos=False))

    return NativeTokenizer(table, plain, plain)


def _sentencepiece(processor: Any, tokenizer: Any, mistral: bool, facts: Mapping[str, Any]) -> Tokenizer:
    size = int(processor.get_piece_size())
    texts = [processor.id_to_piece(i) for i in range(size)]
    kinds: list[Kind] = ["normal"] * size
    for i in range(size):
        if processor.is_byte(i):
            kinds[i] = "byte"
        elif processor.is_control(i) or processor.is_unknown(i):
            kinds[i] = "control"
        elif processor.is_unused(i):
            kinds[i], texts[i] = "unused", ""
    if not mistral and any(tokenizer.convert_ids_to_tokens(i) != texts[i] for i in (size // 2, size - 1)):
        raise ModelUnsupported(
            f"its tokenizer ({type(tokenizer).__name__}) numbers tokens otherwise than its SentencePiece model",
            hint="save it as a fast tokenizer (tokenizer.json)",
        )
    table = TokenTable(
        scheme="sentencepiece",
        family="SentencePiece",
        texts=tuple(texts),
        kinds=tuple(kinds),
        adds_bos=facts.get("bos_id") is not None,
        **facts,
    )
    newline = list(processor.encode("\n"))

    def middle(text: str) -> list[int]:
        """A newline never merges with what follows. Encoded in front of the text, it takes the leading space."""
        ids = list(processor.encode("\n" + text))
        return ids[len(newline) :] if ids[: len(newline)] == newline else list(processor.encode(text))

    return NativeTokenizer(table, middle, lambda text: list(processor.encode(text)))
