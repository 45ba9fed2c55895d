"""Seams: where a text may be cut so that a tokenizer encodes what follows as it would within the whole.

A seam is a place at which, whatever is written later, the encoding of the whole text is some ids for what
stands before it, the same ever after, and then the encoding of what stands behind it, taken by itself.
Nothing but the vocabulary tells where one is; the tokenizer is a black box. Two things are asked of a place:

1. *No piece goes across it*: no piece of the vocabulary holds the two characters on its sides next to one
   another, nor a part of the one and a part of the other. Then no merge of a BPE goes across, the merges on
   one side do not see those on the other, and a longest match ends there. The best path of a Unigram model is
   made of the best paths of the sides. Pieces that do exist rule out what they must: ``> </`` of Gemma every
   seam between ``>`` and a space, `` = `` of DeepSeek Coder those between ``=`` and a space. Added tokens,
   which are cut out of a text before anything else, are pieces like all others.
2. *The expressions that split a text before it is merged begin anew there*, or pass it in a state that does not
   depend on what stands before. This holds, for those of GPT-2, cl100k, o200k (Llama 4, tekken), Llama 3,
   Qwen, DeepSeek, Falcon, StarCoder, Command R, for splits at spaces (Metaspace) and for none at all (Gemma,
   Llama 2), at these places:

   - before a space behind a character that is no whitespace: no expression goes on from such a character to
     a space. Behind whitespace it fails: how a run of it is split depends on its length and on what follows it;
   - between a line feed and a letter or a digit. Not before ``/``, which o200k takes along with the line feed;
   - between two letters without case (Chinese, kana, Hangul, Thai …), when no letter with case stands before
     them in the same run of letters: behind ``ab`` o200k ends a run before a capital letter, while one that
     begins with 本 takes ``本Cd`` along, where a vocabulary may have ``本C``;
   - between such a letter and CJK punctuation, on either side of it. Not between two such punctuation marks:
     cl100k takes the last one along with the letters behind it only when it is alone. With that, Llama 3
     (``、本``) and tekken (``。戴``) are found to differ.

Digits are no such place, as they go in threes counted from the first. Letters with case, symbols, marks and
control characters are none either: where a text is made of these alone (base64, URLs), it has no seam.

In a Unigram model scores are added up in floating point, and where two paths have the same pieces in another
order (``aaa``), rounding may choose between them by what stands before. Spaces are then the only seams: most
such tokenizers split there first, and scores of a SentencePiece model, which are of single precision, add up
without rounding in the double precision of `tokenizers` and llama.cpp.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Literal

from unisono.vocab.pieces import Vocabulary

REACH = 64
"""How many characters before the end of a text are searched: what is missed is no seam, which is safe."""
_CJK_PUNCTUATION = 0x3001
"""From here on punctuation is of full width."""

Class = Literal["plain", "letter", "neutral", "cased", "digit", "cjk", "none"]
"""``letter``: without case. ``neutral``: a mark or modifier, within a run of letters. ``cjk``: CJK punctuation.
``plain``: any other character that a space may follow. ``none``: white, control, or not known for long."""


class Seams:
    """Finds the seams of texts for one vocabulary. Reading the vocabulary takes up to a second, once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Bind a vocabulary."""
        self.vocabulary = vocabulary
        family = vocabulary.family
        self._only_spaces = "Unigram" in family or family == "SentencePiece"  # of the latter the kind is not told

    def last(self, text: str) -> int | None:
        """Return where the last seam is inside a text that itself begins at one, or ``None``.

        Args:
            text: as it stands since a seam, or since its beginning. Bytes that are no UTF-8 are lone
                surrogates, as ``errors="surrogateescape"`` decodes them.
        """
        first = max(1, len(text) - REACH)
        return next((place for place in range(len(text) - 1, first - 1, -1) if self._is_seam(text, place)), None)

    def _is_seam(self, text: str, place: int) -> bool:
        before, after = text[place - 1], text[place]
        if after == " ":
            return class_of(before) != "none" and not self._are_joined(before, after)
        if self._only_spaces:
            return False
        after_class = class_of(after)
        if before == "\n":
            return after_class in ("letter", "cased", "digit") and not self._are_joined(before, after)
        match class_of(before), after_class:
            case ("letter", "letter"):
                return not self._are_joined(before, after) and _is_caseless_run(text, place)
            case ("letter", "cjk") | ("cjk", "letter"):
                return not self._are_joined(before, after)
        return False

    def _are_joined(self, before: str, after: str) -> bool:
        """Whether a piece holds both characters, or parts of them, next to one another."""
        if before + after in self._pairs:
            return True
        left, right = before.encode(errors="surrogateescape"), after.encode(errors="surrogateescape")
        if len(left) == len(right) == 1 or not self._fragments:
            return False
        ends = [left[start:] for start in range(len(left))]
        return any(end + right[:size] in self._fragments for end in ends for size in range(1, len(right) + 1))

    @cached_property
    def _pairs(self) -> frozenset[str]:
        """Neighbouring characters within pieces."""
        pairs: set[str] = set()
        for piece in self._telling:
            text = piece.decode(errors="ignore")
            pairs.update(map("".join, itertools.pairwise(text)))
        return frozenset(pairs)

    @cached_property
    def _fragments(self) -> frozenset[bytes]:
        """As `_pairs`, where a piece begins inside the first character or ends inside the second."""
        fragments: set[bytes] = set()
        for piece in self._telling:
            try:
                piece.decode()
            except UnicodeDecodeError:
                fragments.update(_joints(piece))
        return frozenset(fragments)

    @property
    def _telling(self) -> Iterable[bytes]:
        """The pieces that may go across a place of the kinds above."""
        for piece in self.vocabulary.canonical:
            if len(piece) > 1 and (not piece.isascii() or b" " in piece[1:] or b"\n" in piece):
                yield piece


@lru_cache(65536)
def class_of(character: str) -> Class:
    """What a character is here. Tokenizers know Unicode of various years: one that is young is ``none``."""
    young, old = unicodedata.category(character), unicodedata.ucd_3_2_0.category(character)
    if young[0] in "CZ" or old[0] in "CZ" or character.isspace():
        return "none"
    if young == old == "Lo":
        return "letter"
    if young[0] == old[0] == "P" and ord(character) >= _CJK_PUNCTUATION:
        return "cjk"
    if {young, old} <= {"Lm", "Mn", "Mc", "Me"}:
        return "neutral"
    if young[0] == old[0] == "N":
        return "digit"
    return "cased" if young[0] == old[0] == "L" else "plain"


def _is_caseless_run(text: str, place: int) -> bool:
    """Whether the run of letters before a place, marks included, has no letter with case."""
    for index in range(place - 1, -1, -1):
        kind = class_of(text[index])
        if kind not in ("letter", "neutral"):
            return kind != "cased" and unicodedata.category(text[index])[0] not in "LM"
    return True


def _joints(piece: bytes) -> Iterable[bytes]:
    """The two characters, or what there is of them, at every place inside a piece where a character begins."""
    begins = [place for place in range(1, len(piece)) if piece[place] & 0xC0 != 0x80]
    for before, after in zip([0, *begins], [*begins[1:], len(piece)], strict=False):
        yield piece[before:after]
