"""Fits a tokenizer to a model that has rows for only some of its ids."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Protocol, runtime_checkable

from unisono.vocab.pieces import read_vocabulary, token_bytes
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import Tokenizer


@runtime_checkable
class Shrinking(Protocol):
    """A tokenizer that can do without some of its added tokens, and then splits text as if it had never had them."""

    def without_added(self, rows: int) -> Tokenizer:
        """The tokenizer without the added tokens of the ids ``rows`` and up."""
        ...


def within_rows(tokenizer: Tokenizer, rows: int) -> Tokenizer:
    """Return a tokenizer that gives only ids below ``rows``; the same one where it has no others."""
    if len(tokenizer.table.texts) <= rows:
        return tokenizer
    return BoundedTokenizer(tokenizer.without_added(rows) if isinstance(tokenizer, Shrinking) else tokenizer, rows)


class BoundedTokenizer:
    """Spells the tokens for which the model has no row with those for which it has.

    People add tokens to a tokenizer and forget to resize the model. Text that names such a token is ordinary text,
    and a BOS without a row is not added.
    """

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        self.table = tokenizer.table.first(rows)
        self._tokenizer = tokenizer
        self._rows = rows

    def encode(self, text: str) -> list[int]:
        return self._within(self._tokenizer.encode(text))

    def encode_prompt(self, text: str) -> list[int]:
        ids, bos = self._tokenizer.encode_prompt(text), self._tokenizer.table.bos_id
        return self._within(ids[1:] if ids and bos is not None and ids[0] == bos >= self._rows else ids)

    def encode_rendered(self, text: str) -> list[int]:
        return self._within(self._tokenizer.encode_rendered(text))

    def _within(self, ids: list[int]) -> list[int]:
        return ids if max(ids, default=0) < self._rows else list(self._respelled(ids))

    def _respelled(self, ids: list[int]) -> Iterator[int]:
        """Bytes that no token spells are left out; callers notice by joining the pieces."""
        for has_row, run in itertools.groupby(ids, lambda token: token < self._rows):
            if has_row:
                yield from run
            else:
                data = b"".join(map(self._bytes, run))
                yield from self._speller.own_encoding(data) or self._speller.longest_match(data) or ()

    def _bytes(self, token: int) -> bytes:
        table = self._tokenizer.table
        kind = table.kinds[token]
        return token_bytes(table.texts[token], "added" if kind == "control" else kind, table.scheme) or b""

    @cached_property
    def _speller(self) -> Speller:
        """An encoding that holds a token without a row is not exact for it."""
        return Speller(read_vocabulary(self.table, ()), self._tokenizer.encode)
