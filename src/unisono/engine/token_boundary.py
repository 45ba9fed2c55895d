"""Whether a text ends inside a token that another member would write: no place to ask that member."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping

from unisono.vocab.spelling import Speller

LONGEST_CHARACTER = 4  # bytes in UTF-8, at most
REACH = 48  # bytes before the end of a text that are read, at most
_LAST_WORD = re.compile(rb"\s*\S*\Z")
_new_decoder = codecs.getincrementaldecoder("utf-8")


def first_inside(text: bytes, following: bytes, spellers: Mapping[str, Speller]) -> str | None:
    """The first member (of those other than the lead) inside whose token ``text`` ends, or ``None``."""
    return next((name for name, speller in spellers.items() if ends_inside_token(text, following, speller)), None)


def ends_inside_token(text: bytes, following: bytes, speller: Speller) -> bool:
    """Whether the member, reading the end of the text and what follows as one, has a token across the border.

    Asked there, a member would go on from a token that it would not have written itself: an "OOV-like" token of SAFE
    (arXiv 2510.15346), which looks for them in what the lead drafted. Here the piece that the lead would write next
    (nothing for END) is the look-ahead. For a member that sees ``Sofia`` as one token the text ``" So"`` ends inside it
    when ``fia`` follows, and does not when a space follows.

    The end of the text is its last word with all whitespace before it, as tokens carry leading spaces; of a long one,
    the last `REACH` bytes, from a whole character on. Of what follows only whole characters are read; where there is
    none, or where the tokenizer does not give the bytes back, no token is known to go across. A text that ends inside a
    character is inside a token; an empty one is not.
    """
    if unfinished(text):
        return True
    whole = following[: len(following) - unfinished(following)]
    if not text or not whole:
        return False
    tail = _tail(text)
    ids = speller.own_encoding(tail + whole)
    return ids is not None and not _has_border(speller, ids, len(tail))


def is_inside_character(byte: int) -> bool:
    """Whether a byte of UTF-8 goes on with a character."""
    return byte & 0xC0 == 0x80


def unfinished(data: bytes) -> int:
    """How many bytes at the end begin a character without ending it."""
    decoder = _new_decoder("ignore")
    decoder.decode(data[-3:])  # one that lacks a byte has three at most
    return len(decoder.getstate()[0])


def _tail(text: bytes) -> bytes:
    start = max(0, len(text) - REACH)
    while start and start < len(text) and is_inside_character(text[start]):
        start += 1
    match = _LAST_WORD.search(text, start)
    return match.group() if match else b""


def _has_border(speller: Speller, ids: tuple[int, ...], place: int) -> bool:
    length = 0
    for token in ids:
        if length >= place:
            break
        length += len(speller.vocabulary.pieces[token] or b"")
    return length == place
