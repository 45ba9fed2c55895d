"""Keeps the ids of marks out of text: what a tokenizer's files call text there becomes a control token."""

from __future__ import annotations

from collections.abc import Iterable

from unisono.vocab.marks import MarkForms
from unisono.vocab.spelling import encode_plain
from unisono.vocab.tokenizer import Tokenizer, TokenTable


class MarkedTokenizer:
    """A tokenizer to which the ids of marks are control tokens, though its files call them text (``<think>``)."""

    def __init__(self, tokenizer: Tokenizer, ids: Iterable[int]) -> None:
        self.table = tokenizer.table.with_controls(ids)
        self._tokenizer = tokenizer
        self._texts = {token: self.table.texts[token] for token in ids}

    def encode(self, text: str) -> list[int]:
        return encode_plain(text, self._texts, self._tokenizer.encode, self._tokenizer.encode)

    def encode_prompt(self, text: str) -> list[int]:
        return encode_plain(text, self._texts, self._tokenizer.encode_prompt, self._tokenizer.encode)

    def encode_rendered(self, text: str) -> list[int]:
        return self._tokenizer.encode_rendered(text)


def reserve(tokenizer: Tokenizer, forms: MarkForms) -> Tokenizer:
    """A tokenizer that makes no text a mark: the added tokens of its forms become control tokens."""
    table: TokenTable = tokenizer.table
    ids = {token for form in (*forms.anywhere.values(), *forms.at_opening.values(), forms.seams) for token in form}
    added = sorted(token for token in ids if table.kinds[token] == "added")
    return MarkedTokenizer(tokenizer, added) if added else tokenizer
