"""The beginning of a text that is given, in pieces: every member reads them as if they had just been chosen."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.constraints.grammar import Parse
from unisono.engine.calls import Calls
from unisono.engine.member import Member
from unisono.errors import MemberUnavailable, PromptError, SpecError, nearest, shown
from unisono.records import is_unicode
from unisono.step_records import StepRecord
from unisono.vocab.marks import MARKS, SEAMS
from unisono.vocab.union import UnionVocabulary

GivenPiece = bytes | str | StepRecord | Mapping[str, Any]
"""A piece by its bytes or its text, or a step as it is traced, of which ``bytes`` and ``mark`` count."""

_HINT = 'write text, or a list of pieces: bytes, text, {"bytes": [32, 116]}, or {"mark": "reasoning_begin"}'


class BeginningError(PromptError):
    """What a text is to begin with cannot be read, or may not be written."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a text begins with: the answer's first words as ``text``, or all that was chosen so far as ``pieces``."""

    text: str | None = None
    """Cut by the lead's tokenizer. Nothing is reasoned before an answer that is begun so."""
    pieces: tuple[bytes | str, ...] = ()
    """Reasoning and its marks included; a mark is a `str`, its name."""

    @classmethod
    def parse(cls, given: object, called: str = "begin") -> Beginning | None:
        """Read a text or a list of `GivenPiece`; ``None`` where nothing is given. Raises a `SpecError`."""
        if isinstance(given, Beginning):
            return given
        if given is None or (isinstance(given, str | bytes | list | tuple) and not given):
            return None
        if isinstance(given, str):
            return cls(text=_unicode(given, called))
        if isinstance(given, bytes):
            return cls(pieces=(given,))
        if not isinstance(given, list | tuple):
            raise SpecError(f"{called} is {shown(given)}", hint=_HINT)
        return cls(pieces=tuple(_piece(each, f"{called}[{number}]") for number, each in enumerate(given)))

    @property
    def length(self) -> int:
        """About how many characters it has."""
        return len(self.text or "") + sum(map(len, self.pieces))

    @property
    def shown(self) -> str:
        """The whole characters of the answer that is begun; nothing of what is reasoned."""
        return self.text or _whole(self._parts[0])

    @property
    def reasoned(self) -> str:
        """The whole characters of the reasoning that is begun."""
        return _whole(self._parts[1])

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(each for each in self.pieces if isinstance(each, str))

    @property
    def pending(self) -> bytes:
        """The bytes of a character that the answer ends within. What follows begins with all of that character."""
        return pending_of(self._parts[0])

    @property
    def _parts(self) -> tuple[bytes, bytes]:
        """The bytes of the answer, and of the reasoning, without the white space behind their marks.

        What stands before a first mark that ends reasoning was reasoned: the prompt began that.
        """
        said, thought = bytearray(), bytearray()
        inside, marked, stripped = False, False, False
        for each in self.pieces:
            if isinstance(each, bytes):
                (thought if inside else said).extend(each)
            elif each in ("reasoning_begin", "reasoning_end"):
                if each == "reasoning_end" and not marked:
                    said, thought = thought, said
                inside, marked, stripped = each == "reasoning_begin", True, stripped or not said.strip()
        return bytes(said.lstrip() if stripped else said), bytes(thought.lstrip())


def _whole(data: bytes) -> str:
    return data[: len(data) - len(pending_of(data))].decode(errors="replace")


def pending_of(data: bytes) -> bytes:
    """The bytes at the end of a text that are a character's first ones."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return decoder.getstate()[0]


def _piece(given: object, name: str) -> bytes | str:
    if isinstance(given, StepRecord):
        given = {"mark": given.mark} if given.mark else given.piece
    elif isinstance(given, Mapping):
        if given.get("mark") is None:
            given = _data(given, name)
    elif isinstance(given, str):
        given = _unicode(given, name).encode()
    if isinstance(given, Mapping):
        mark = given["mark"]
        if mark not in MARKS:
            near = nearest(mark, MARKS) if isinstance(mark, str) else ""
            raise SpecError(f"{name} is the mark {shown(mark)}{near}", hint=f"known marks: {', '.join(MARKS)}")
        return str(mark)
    if given is None:
        raise SpecError(f"{name} is END, which nothing follows", hint="leave it out")
    if not isinstance(given, bytes) or not given:
        raise SpecError(f"{name} is {shown(given)}, no piece", hint=_HINT)
    return given


def _data(given: Mapping[str, Any], name: str) -> object:
    """The bytes of a piece that is written as a step of the trace; ``None`` for END."""
    data = given.get("bytes", given)
    if data is None or isinstance(data, bytes):
        return data
    numbers = data if isinstance(data, list | tuple) else []
    if not numbers or not all(type(each) is int and 0 <= each < 256 for each in numbers):
        raise SpecError(f"{name} is {shown(dict(given))}, no piece", hint=_HINT)
    return bytes(numbers)


def _unicode(text: str, name: str) -> str:
    if not is_unicode(text):
        raise SpecError(f"{name} has a lone surrogate", hint="such text is not Unicode; repair its encoding")
    return text


def columns_of(
    beginning: Beginning, lead: Member, members: Sequence[Member], union: UnionVocabulary
) -> tuple[int, ...]:
    """The columns of a beginning. What is no piece of the union is cut as the lead's tokenizer cuts it.

    Raises a `BeginningError` where a member cannot spell it, or no member writes one of its marks.
    """
    if beginning.text is not None:
        return tuple(_cut(lead, members, union, beginning.text.encode()))
    columns: list[int] = []
    marks: list[str] = [*union.marks]
    for each in beginning.pieces:
        if isinstance(each, bytes):
            column = _column(each, members, union)
            columns += _cut(lead, members, union, each) if column is None else [column]
        elif each in marks:
            columns.append(union.texts + marks.index(each))
        else:
            known = ", ".join(union.marks) or "none"
            raise BeginningError(
                f"the beginning has the mark {each}, which no member of this ensemble writes",
                hint=f"leave it out; its members write {known}",
            )
    return tuple(columns)


def _column(piece: bytes, members: Sequence[Member], union: UnionVocabulary) -> int | None:
    for member in members:
        for form, column_V in ((piece, member.map.column_V), (b" " + piece, member.map.first_column_V)):
            token = member.speller.vocabulary.canonical.get(form)
            if token is None or column_V is None:
                continue
            column = int(column_V[token])
            if 0 <= column < union.texts and union.piece(column) == piece:
                return column
    return None


def _cut(lead: Member, members: Sequence[Member], union: UnionVocabulary, data: bytes) -> Iterator[int]:
    ids = lead.speller.own_encoding(data) or lead.speller.longest_match(data) or ()
    pieces = [lead.speller.vocabulary.pieces[token] for token in ids]
    if b"".join(piece or b"" for piece in pieces) != data:
        raise _unspelled(lead, data)
    for piece in pieces:
        column = None if piece is None else _column(piece, members, union)
        if column is None:  # it was left out of the union, as some member lacks bytes of it
            raise _unspelled(next((each for each in members if not _spells(each, piece)), lead), data)
        yield column


def _spells(member: Member, piece: bytes | None) -> bool:
    return piece is not None and member.speller.spell(piece) is not None


def _unspelled(member: Member, data: bytes) -> BeginningError:
    missing = ", ".join(f"{byte:02X}" for byte in sorted(set(data) & member.speller.vocabulary.missing_bytes))
    lacks = f": its vocabulary has no token for the bytes {missing}" if missing else ""
    return BeginningError(
        f"member {member.name!r} cannot represent the beginning {shown(data)}{lacks}",
        hint="begin with other text; `unisono doctor` lists the bytes that are missing",
    )


@dataclass(frozen=True, slots=True)
class BegunWith:
    """Columns that a text begins with, and how members read them."""

    columns: tuple[int, ...]
    union: UnionVocabulary
    opens: bool
    """Whether an answer begins with them."""
    off: bool
    """Whether that may not reason first; see `Member.opens`."""
    by_seams: bool
    """Whether its calls are written by seams."""

    def ids(self, member: Member) -> list[int]:
        """What a member reads for them."""
        ids: list[int] = []
        first, calls = self.opens and member.opens(off=self.off), Calls() if self.by_seams else None
        for column in self.columns:
            piece, mark = self.union.piece(column) or b"", self.union.mark(column)
            try:
                ids += member.spell(column, piece, first=first, calls=calls)
            except MemberUnavailable:  # its tokenizer is away: as its vocabulary shows
                ids += member.spell(column, piece, first=first, calls=calls, unaided=True)
            calls = calls.behind(mark) if calls is not None and mark in SEAMS else calls
            first = mark is not None and member.opens_behind(mark, opening=first, calls=calls)
        return ids

    def consume(self, parse: Parse | None) -> None:
        """Bring a grammar to the place behind them. Raises a `BeginningError` where it does not allow them."""
        for number, column in enumerate(self.columns if parse is not None else ()):
            assert parse is not None
            if not parse.accepts(column):
                piece = self.union.mark(column) or self.union.piece(column)
                what = piece if isinstance(piece, str) else shown((piece or b"").decode(errors="replace"))
                raise BeginningError(
                    f"the beginning has {what} as piece {number + 1}, which the constraint does not allow there",
                    hint="begin with what the constraint and the limit of reasoning allow",
                )
            parse.consume(column)
