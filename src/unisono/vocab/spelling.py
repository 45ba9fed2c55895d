"""Token ids for pieces that other members chose, and for plain text without control tokens."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from functools import cached_property

from unisono.vocab.pieces import Vocabulary

Encode = Callable[[str], list[int]]


class Speller:
    """Spells any piece in one member's vocabulary, exactly or not at all.

    It tries the piece's canonical id, then the tokenizer's own encoding if it is exact byte for byte, then the greedy
    longest match over the vocabulary's pieces.
    """

    def __init__(self, vocabulary: Vocabulary, encode: Encode) -> None:
        """``encode`` is the tokenizer's plain encoding: no additions, no control tokens."""
        self.vocabulary = vocabulary
        self._encode = encode
        self._known: dict[bytes, tuple[int, ...] | None] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return Speller, (self.vocabulary, self._encode)  # without what is known, which grows meanwhile

    def spell(self, piece: bytes, *, unaided: bool = False) -> tuple[int, ...] | None:
        """Its ids; ``unaided`` leaves out the tokenizer's own encoding of a piece that is not known yet."""
        if piece not in self._known:
            canonical = self.vocabulary.canonical.get(piece)
            own = None if canonical is None else (canonical,)
            if own is None and unaided:
                return self.longest_match(piece)
            self._known[piece] = own or self.own_encoding(piece) or self.longest_match(piece)
        return self._known[piece]

    def own_encoding(self, piece: bytes) -> tuple[int, ...] | None:
        """Return the tokenizer's own ids for the bytes, or ``None`` unless they are exact."""
        try:
            ids = self._encode(piece.decode("utf-8"))
        except UnicodeDecodeError:
            return None
        return tuple(ids) if self.is_exact(ids, piece) else None

    def is_exact(self, ids: list[int], data: bytes) -> bool:
        pieces = self.vocabulary.pieces
        known = all(0 <= i < len(pieces) and pieces[i] is not None for i in ids)
        return known and self.vocabulary.join(ids) == data

    def longest_match(self, piece: bytes) -> tuple[int, ...] | None:
        """Return ids by greedy longest match over the canonical pieces, or ``None`` at a dead end."""
        canonical = self.vocabulary.canonical
        ids: list[int] = []
        start = 0
        while start < len(piece):
            ends = range(min(len(piece), start + self._longest), start, -1)
            end = next((end for end in ends if piece[start:end] in canonical), None)
            if end is None:
                return None
            ids.append(canonical[piece[start:end]])
            start = end
        return tuple(ids)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.vocabulary.canonical), default=0)


def encode_plain(text: str, controls: Mapping[int, str], first: Encode, rest: Encode) -> list[int]:
    """Encode plain text with a library that still recognises some control tokens.

    A Unigram model lists some among its ordinary pieces; llama.cpp reclassifies some as user-defined by their names.
    Such a text is cut after the first character of the token's name, and the parts are encoded separately. A token that
    cannot be cut is left out; callers detect inexact ids by joining the pieces.

    ``controls`` maps ids to texts, without the unknown token. ``first`` encodes the beginning, ``rest`` the middle.
    """
    ids = first(text)
    spelled = controls.keys() & set(ids)
    if not spelled:
        return ids
    names = "|".join(re.escape(controls[token]) for token in sorted(spelled))
    cuts = [match.start() + 1 for match in re.finditer(f"(?={names})", text)]
    if not cuts or cuts == [len(text)]:
        return [token for token in ids if token not in spelled]
    bounds = [0, *cuts, len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    encoded = encode_plain(parts[0], controls, first, rest)
    for part in parts[1:]:
        encoded += encode_plain(part, controls, rest, rest)
    return encoded
