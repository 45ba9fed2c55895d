"""Keeping what a member has read spelled as its own tokenizer would have written it.

A member takes pieces that others chose one by one, so that its context may hold `` th`` and ``e`` where every
text it was trained on has `` the``. Models give such token sequences too little or misplaced probability, and
what they say next is biased by a token's end that is none: tokenization bias (Phan et al., "Understanding and
Mitigating Tokenization Bias in Language Models", arXiv 2406.16829; for ensembles by bytes: "Exact Byte-Level
Probabilities from Tokenized Language Models for FIM-Tasks and Model Ensembles", arXiv 2410.09303). That the one
encoding a tokenizer gives, the canonical one, ought to be kept at every step of generation: Chatzi et al.,
"Canonical Autoregressive Generation", arXiv 2506.06446, and Vieira et al., "Language Models over Canonical
Byte-Pair Encodings", arXiv 2506.07956. How much other encodings of a text weigh: Geh et al., "Where is the
signal in tokenization space?", arXiv 2408.08541. The older remedy at the end of a prompt is known as token
healing (the `guidance` library). There a model is kept from writing other encodings; here it did not write
them, and what others wrote is encoded anew, as far back as a later byte can still change it.

How far back that is, `unisono.vocab.seam` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unisono.vocab.seam import Seams
from unisono.vocab.spelling import Speller


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of what was generated, as a member has it, that may still be respelled.

    What stands before it is frozen: the tails of one text's steps tell all that is needed to go back to any of
    them, which is to keep its first ``frozen`` generated ids and append ``ids``.
    """

    data: bytes = b""
    """Bytes since a seam, or since the first byte generated."""
    ids: tuple[int, ...] = ()
    """The ids as which the member has them."""
    frozen: int = 0
    """How many generated ids stand before them."""
    seam: int = 0
    """Where the last seam inside ``data`` is, in bytes; 0 when none is known."""


@dataclass(frozen=True, slots=True)
class Respelling:
    """What one more piece changes."""

    forget: int
    """How many of the last ids are taken away."""
    append: tuple[int, ...]
    """The ids that are then put at the end; never empty, as their last one ends the piece."""
    tail: Tail | None
    """The end of the text with the piece; ``None`` where nothing is respelled."""


class Respeller:
    """Adds pieces to a text so that it stays as one member's own tokenizer encodes it.

    The law: frozen ids and the tail's ids together are the tokenizer's own encoding of all bytes generated,
    whenever these are whole characters that it encodes exactly (see `Speller.own_encoding`). While they are not,
    pieces stay as they were spelled. Bytes that can never be encoded exactly are left as they are as soon as
    what stands behind a seam after them can be.
    """

    def __init__(self, speller: Speller) -> None:
        """Bind a member's speller."""
        self.speller = speller
        self._seams = Seams(speller.vocabulary)

    def extend(self, tail: Tail, piece: bytes, spelled: Sequence[int]) -> Respelling:
        """Add a piece.

        Args:
            tail: the end of the text so far; ``Tail()`` where nothing has been generated.
            piece: what was chosen, as the member takes it (with the space that its answers begin with, if any).
            spelled: the piece alone as the member's ids (`Speller.spell`).
        """
        data = tail.data + piece
        own = self.speller.own_encoding(data)
        if own is None:
            ids = (*tail.ids, *spelled)
            moved = self._after_inexact(Tail(data, ids, tail.frozen, tail.seam))
        else:
            ids = own
            moved = self._move_on(Tail(data, ids, tail.frozen, tail.seam))
        ids = (*ids[: moved.frozen - tail.frozen], *moved.ids)
        kept = _common(tail.ids, ids)
        return Respelling(len(tail.ids) - kept, ids[kept:], moved)

    def _move_on(self, tail: Tail) -> Tail:
        """Freeze what stands before the seam known so far when there is one behind it.

        The tail keeps the text between two seams, so that a seam is believed only when, with all that stands
        behind it up to the next, the tokenizer gives the same ids with and without what stands before.
        """
        found = self._last_seam(tail)
        if found is None:
            return tail
        if tail.seam:
            rest = tail.data[tail.seam :]
            border = self._border(tail.ids, tail.seam)
            if border is not None and self.speller.own_encoding(rest) == tail.ids[border:]:
                return Tail(rest, tail.ids[border:], tail.frozen + border, found - tail.seam)
        return Tail(tail.data, tail.ids, tail.frozen, found)

    def _after_inexact(self, tail: Tail) -> Tail:
        """Begin anew behind bytes that are not encoded exactly, where what follows them is.

        As a seam parts the two, the bytes before it are what the tokenizer does not give back, and nothing
        that follows will change that.
        """
        for seam in filter(None, (self._last_seam(tail), tail.seam)):
            border = self._border(tail.ids, seam)
            own = self.speller.own_encoding(tail.data[seam:])
            if border is not None and own is not None:
                return Tail(tail.data[seam:], own, tail.frozen + border)
        return tail

    def _last_seam(self, tail: Tail) -> int | None:
        """Where the last seam behind the known one is, in bytes."""
        text = tail.data[tail.seam :].decode(errors="surrogateescape")
        place = self._seams.last(text)
        return None if place is None else len(tail.data) - len(text[place:].encode(errors="surrogateescape"))

    def _border(self, ids: Sequence[int], place: int) -> int | None:
        """How many of the ids spell the first ``place`` bytes, or ``None`` where one goes across."""
        length = 0
        for count, token in enumerate(ids):
            if length >= place:
                return count if length == place else None
            length += len(self.speller.vocabulary.pieces[token] or b"")
        return len(ids) if length == place else None


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids at the beginning are the same."""
    pairs = zip(left, right, strict=False)
    return next((count for count, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))
