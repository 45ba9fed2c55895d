"""The union vocabulary: one numbering of all members' pieces and marks.

It is built at every start, which takes a third of a second for 300,000 pieces. To check a file that kept it, piece by
piece, would take as long.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from unisono.errors import VocabularyError
from unisono.vocab.marks import MARKS, Mark, Turn
from unisono.vocab.pieces import ESSENTIAL_BYTES
from unisono.vocab.spelling import Speller

ABSENT = -1

Indices = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class UnionMember:
    name: str
    speller: Speller
    leading_space: bool = False
    """Whether its answers begin with a space, which the first step removes."""
    turns: Mapping[Turn, Mapping[int, Mark | None]] = field(default_factory=dict)
    """By place in a call by seams, ids that are marks there, or END (``None``)."""

    @property
    def ends_reasoning_as_texts(self) -> bool:
        """Whether one id ends its reasoning and, outside of it, its texts."""
        vocabulary = self.speller.vocabulary
        return vocabulary.marks.anywhere.get("reasoning_end", (ABSENT,))[0] in vocabulary.end_ids


@dataclass(frozen=True, slots=True, eq=False)
class MemberMap:
    """The mapping between one member's ids and the union's columns."""

    column_V: Indices
    """The column of each id; `ABSENT` for excluded ids and left-out pieces."""
    first_column_V: Indices | None
    """The same for an answer's first step, where the leading space is removed, or an answer begins with a mark."""
    id_U: Indices
    """The canonical id of each column's piece; `ABSENT` where the member lacks it, and for marks and END."""
    marks: tuple[Mark, ...] = ()
    """The union's; their columns are the last ones before END's."""
    inside_column_V: Indices | None = None
    """The column of each id in reasoning, where an END that `reasoning_end` begins with is that mark."""
    turns: Mapping[Turn, Indices] = field(default_factory=dict)
    """The column of each id in the places of calls by seams."""


@dataclass(frozen=True, slots=True, eq=False)
class UnionVocabulary:
    """All pieces that every member can spell, marks, and END.

    Columns follow the order of members, then of ids; a piece keeps its first number. Pieces that occur only without
    their leading space follow, then the marks for which some member votes. END is last.
    """

    maps: tuple[MemberMap, ...]
    data: bytes
    """All pieces, concatenated."""
    offset_U: NDArray[np.int64]
    """The start of each piece in ``data``, one entry per column; those of marks and END are ``len(data)``."""
    left_out: tuple[bytes, ...]
    """Pieces that some member cannot spell. No member may choose them."""
    marks: tuple[Mark, ...] = ()
    """Those of some member, in the order of their columns."""

    @property
    def size(self) -> int:
        """U: the number of columns, marks and END included."""
        return len(self.offset_U)

    @property
    def texts(self) -> int:
        """The number of columns that are text; they come first."""
        return self.size - 1 - len(self.marks)

    @property
    def end(self) -> int:
        return self.size - 1

    def piece(self, column: int) -> bytes | None:
        """The bytes of a column: none of a mark, or ``None`` for END."""
        offset_U = self.offset_U
        return None if column == len(offset_U) - 1 else self.data[offset_U[column] : offset_U[column + 1]]

    def mark(self, column: int) -> Mark | None:
        """The mark of a column; ``None`` for a piece and for END."""
        place = column - self.size + 1 + len(self.marks)
        return self.marks[place] if 0 <= place < len(self.marks) else None

    def columns(self, pieces: Collection[bytes]) -> dict[bytes, int]:
        """The columns of the given pieces that exist. Scans all columns, so it is too slow for every step."""
        found = ((self.piece(column), column) for column in range(self.texts))
        return {piece: column for piece, column in found if piece is not None and piece in pieces}


def build_union(members: Sequence[UnionMember]) -> UnionVocabulary:
    """Number the union of the members' pieces and map every member to it. Raises a `VocabularyError`."""
    for member in members:
        check_essentials(member)
    left_out = frozenset(_unspellable(members))
    found = dict.fromkeys(itertools.chain.from_iterable(member.speller.vocabulary.pieces for member in members))
    for piece in (None, *left_out):
        found.pop(piece, None)
    columns = {piece: column for column, piece in enumerate(found) if piece is not None}
    for member in members:
        for _, piece in _spaced(member.speller.vocabulary.pieces) if member.leading_space else ():
            if piece in columns:
                columns.setdefault(without_space(piece), len(columns))
    known = {mark for member in members for mark in member.speller.vocabulary.marks.known}
    marks = tuple(mark for mark in MARKS if mark in known)
    lengths = np.fromiter(map(len, columns), dtype=np.int64, count=len(columns))
    offset_U = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return UnionVocabulary(
        maps=tuple(_map_member(member, columns, marks) for member in members),
        data=b"".join(columns),
        offset_U=np.concatenate([offset_U, np.full(len(marks), offset_U[-1])]),
        left_out=tuple(sorted(left_out)),
        marks=marks,
    )


def union_of_bytes(marks: tuple[Mark, ...]) -> UnionVocabulary:
    """A numbering of all 256 bytes, the marks of a union, and END: what grammars are made over where bytes are written.

    No member is mapped to it.
    """
    offset_U = np.concatenate([np.arange(256), np.full(len(marks) + 1, 256)]).astype(np.int64)
    return UnionVocabulary((), bytes(range(256)), offset_U, (), marks)


def check_essentials(member: UnionMember) -> None:
    """Raise a `VocabularyError` for a vocabulary that cannot spell printable ASCII, space and newline."""
    lacking = [byte for byte in sorted(ESSENTIAL_BYTES) if member.speller.spell(bytes([byte])) is None]
    if lacking:
        shown = ", ".join(f"{byte:02X}" for byte in lacking[:8]) + (" …" if len(lacking) > 8 else "")
        raise VocabularyError(
            f"the vocabulary of member {member.name!r} cannot spell {len(lacking)} bytes of plain text: {shown}",
            hint="a member must be able to write printable ASCII, space and newline; choose another model",
        )


def without_space(piece: bytes) -> bytes:
    """The piece without its leading space; a bare space stays."""
    return piece[1:] if len(piece) > 1 and piece.startswith(b" ") else piece


def _unspellable(members: Sequence[UnionMember]) -> Iterator[bytes]:
    """The pieces that some member cannot spell. Each has a byte without a token in that member."""
    for member in members:
        missing = bytes(sorted(member.speller.vocabulary.missing_bytes))
        for other in members if missing else ():
            for piece in other.speller.vocabulary.pieces:
                if piece and len(piece.translate(None, missing)) < len(piece) and member.speller.spell(piece) is None:
                    yield piece


def _map_member(member: UnionMember, columns: dict[bytes, int], marks: tuple[Mark, ...]) -> MemberMap:
    vocabulary, forms = member.speller.vocabulary, member.speller.vocabulary.marks
    column_V = _columns_of(vocabulary.pieces, columns)
    column_by_mark = {mark: column for column, mark in enumerate(marks, len(columns))}
    end = len(columns) + len(marks)
    _set_marks(column_V, forms.anywhere, column_by_mark)
    column_V[list(vocabulary.end_ids)] = end
    first_column_V = None
    if forms.at_opening:
        first_column_V = np.full_like(column_V, ABSENT)
        first_column_V[list(vocabulary.end_ids)] = end
        _set_marks(first_column_V, forms.at_opening, column_by_mark)
    elif member.leading_space:
        first_column_V = column_V.copy()
        for token, piece in _spaced(vocabulary.pieces):
            if column_V[token] != ABSENT:
                first_column_V[token] = columns[without_space(piece)]
    inside_column_V = None
    if member.ends_reasoning_as_texts:
        inside_column_V = column_V.copy()
        _set_marks(inside_column_V, {"reasoning_end": forms.anywhere["reasoning_end"]}, column_by_mark)
    id_U = np.full(end + 1, ABSENT, np.int32)
    canonical = vocabulary.canonical
    place_N, id_N = _columns_of(canonical, columns), np.fromiter(canonical.values(), np.int32, len(canonical))
    id_U[place_N[place_N != ABSENT]] = id_N[place_N != ABSENT]
    turns = dict[Turn, Indices]()
    for turn, ids in member.turns.items():
        base_V = first_column_V if turn == "calling_first" else column_V
        if ids and base_V is not None:
            turns[turn] = base_V.copy()
            for token, turned in ids.items():
                turns[turn][token] = end if turned is None else column_by_mark[turned]
    return MemberMap(column_V, first_column_V, id_U, marks, inside_column_V, turns)


def _columns_of(pieces: Collection[bytes | None], columns: Mapping[bytes, int]) -> Indices:
    """The column of each piece; `ABSENT` where it has none. No loop of Python's: there are hundreds of thousands."""
    look_up = cast(Callable[[bytes | None, int], int], columns.get)
    looked_up = map(look_up, pieces, itertools.repeat(ABSENT))
    return np.fromiter(looked_up, np.int32, len(pieces))


def _spaced(pieces: Sequence[bytes | None]) -> list[tuple[int, bytes]]:
    """The pieces that `without_space` changes, with their ids."""
    return [(token, piece) for token, piece in enumerate(pieces) if piece and piece[0] == 0x20 and len(piece) > 1]


def _set_marks(column_V: Indices, forms: Mapping[Mark, Sequence[int]], column_by_mark: Mapping[Mark, int]) -> None:
    for mark in sorted(forms, key=MARKS.index, reverse=True):  # of those that begin alike the first has the id
        column_V[forms[mark][0]] = column_by_mark[mark]
