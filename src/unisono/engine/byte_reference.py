"""Bytes as written down: the sum over all cuts of a text, in float64, with nothing kept. It is the oracle of beams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Feed, dense
from unisono.engine.member import Member
from unisono.fusion.fold import bring
from unisono.vocab.union import without_space

Symbols = NDArray[np.float64]
Way = tuple[bytes | int, float, tuple[int, ...]]
"""A piece, mark or END by its place among the classes; its probability; and the ids as which the member reads it."""


class PlainBytes:
    """One member, whose rows are kept: the same are asked for again and again."""

    def __init__(self, member: Member, prompt: Sequence[int], *, opening: bool = False) -> None:
        """It has a free slot. ``opening`` tells that an answer begins behind the prompt, in a way of its own."""
        self._member = member
        self._prompt = tuple(prompt)
        self._opening = opening
        self._known: dict[tuple[int, ...], list[Way]] = {}

    def prefix(self, text: bytes, ids: tuple[int, ...] = ()) -> float:
        """The probability that what follows begins with a text: of all sequences whose last piece reaches its end."""
        if not text:
            return 1.0
        total = 0.0
        for piece, p, own in self._ways(ids):
            if isinstance(piece, bytes) and piece.startswith(text):
                total += p
            elif isinstance(piece, bytes) and text.startswith(piece):
                total += p * self.prefix(text[len(piece) :], (*ids, *own))
        return total

    def whole(self, text: bytes, place: int, ids: tuple[int, ...] = ()) -> float:
        """The probability of a text, and a mark or END behind it, by its place among the classes."""
        total = 0.0
        for piece, p, own in self._ways(ids):
            if isinstance(piece, int):
                total += p if piece == place and not text else 0.0
            elif text.startswith(piece):
                total += p * self.whole(text[len(piece) :], place, (*ids, *own))
        return total

    def next_symbols(self, text: bytes) -> Symbols:
        """The distribution over 256 bytes, marks and END behind a text."""
        q_C = self._following(text, ())
        return q_C / float(q_C.sum())

    def _following(self, text: bytes, ids: tuple[int, ...]) -> Symbols:
        """The probability of a text and each byte, mark or END behind it."""
        q_C = np.zeros(256 + len(self._member.map.marks) + 1)
        for piece, p, own in self._ways(ids):
            if isinstance(piece, int):
                q_C[256 + piece] += p * (not text)
            elif piece.startswith(text) and len(piece) > len(text):
                q_C[piece[len(text)]] += p
            elif text.startswith(piece):
                q_C += p * self._following(text[len(piece) :], (*ids, *own))
        return q_C

    def _ways(self, ids: tuple[int, ...]) -> list[Way]:
        if ids not in self._known:
            self._known[ids] = list(self._read(ids))
        return self._known[ids]

    def _read(self, ids: tuple[int, ...]) -> Iterator[Way]:
        member = self._member
        slot = member.backend.open()
        try:
            told = dense(member.backend.advance([Feed(slot, [*self._prompt, *ids])]))
            logits_V = bring(told[0], np.empty(0)).astype(np.float64) / member.temperature
        finally:
            member.backend.close(slot)
        first = self._opening and not ids
        column_V = member.map.first_column_V if first else member.map.column_V
        assert column_V is not None, "an answer begins in a way of the member's own"
        pieces, texts = member.speller.vocabulary.pieces, len(member.map.id_U) - len(member.map.marks) - 1
        ways: dict[bytes | int, float] = {}
        for token, piece in enumerate(pieces):
            if piece is not None:
                key: bytes | int = without_space(piece) if first else piece
            elif column_V[token] >= texts:
                key = int(column_V[token]) - texts
            else:
                continue
            ways[key] = ways.get(key, 0.0) + float(np.exp(logits_V[token] - logits_V.max()))
        total = sum(ways.values())
        for key, mass in ways.items():
            yield key, mass / total, member.spell_text(key, first=first) if isinstance(key, bytes) else ()
