"""From pieces to token ids: how a member writes bytes that others chose."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from unisono.vocab.pieces import Vocabulary


class Speller:
    """Spells any piece in one member's vocabulary, exactly or not at all.

    The canonical id of the piece comes first; then the tokenizer's own encoding of the bytes, when it
    gives them back byte for byte; then the greedy longest match over the vocabulary's pieces.
    """

    def __init__(self, vocabulary: Vocabulary, encode: Callable[[str], list[int]]) -> None:
        """Bind a vocabulary to its tokenizer's plain `encode` (nothing added, no control tokens)."""
        self.vocabulary = vocabulary
        self._encode = encode
        self._known: dict[bytes, tuple[int, ...] | None] = {}

    def spell(self, piece: bytes) -> tuple[int, ...] | None:
        """Return the ids that spell ``piece``, or ``None`` when this vocabulary cannot spell it."""
        if piece not in self._known:
            self._known[piece] = self._spell(piece)
        return self._known[piece]

    def _spell(self, piece: bytes) -> tuple[int, ...] | None:
        canonical = self.vocabulary.canonical.get(piece)
        if canonical is not None:
            return (canonical,)
        return self.own_encoding(piece) or self.longest_match(piece)

    def own_encoding(self, piece: bytes) -> tuple[int, ...] | None:
        """Return the tokenizer's own ids for the bytes, or ``None`` unless they are exact."""
        try:
            ids = self._encode(piece.decode("utf-8"))
        except UnicodeDecodeError:
            return None
        return tuple(ids) if self.is_exact(ids, piece) else None

    def is_exact(self, ids: list[int], data: bytes) -> bool:
        """Whether every id is a piece and together they are ``data``."""
        pieces = self.vocabulary.pieces
        parts = [pieces[i] if 0 <= i < len(pieces) else None for i in ids]
        return None not in parts and b"".join(part for part in parts if part is not None) == data

    def longest_match(self, piece: bytes) -> tuple[int, ...] | None:
        """Return ids by greedy longest match over the canonical pieces, or ``None`` at a dead end."""
        canonical = self.vocabulary.canonical
        ids: list[int] = []
        start = 0
        while start < len(piece):
            for end in range(min(len(piece), start + self._longest), start, -1):
                token = canonical.get(piece[start:end])
                if token is not None:
                    ids.append(token)
                    start = end
                    break
            else:
                return None
        return tuple(ids)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.vocabulary.canonical), default=0)
