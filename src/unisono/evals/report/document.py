"""What a report consists of, whatever it is written as: blocks of plain text, each escaped by whoever writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heading:
    """Begins a part; of level 2 to 4."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """Points of a list."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    numeric: bool = True
    """Whether it is set flush right."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; its first cell is its head."""

    cells: tuple[str, ...]
    strong: bool = False
    """Whether it is the one to look at."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; each row has a cell for each column."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        """Check that rows and columns fit."""
        for row in self.rows:
            assert len(row.cells) == len(self.columns), (self.caption, row)


@dataclass(frozen=True, slots=True)
class Listing:
    """Text that is shown as it is, line by line."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot."""

    name: str
    """Of its file, without ending: ASCII letters, digits, ``-`` and ``_``."""
    title: str
    alt: str
    """What can be seen in it, in words."""
    svg: str
    """An ``svg`` element; what is drawn in ``currentColor`` has the colour of the text around it."""


Block = Heading | Paragraph | Bullets | Table | Listing | Picture
Pictures = Mapping[tuple[str, str | None], Picture]
"""By what they show, and of which task; ``None`` for all."""


@dataclass(frozen=True, slots=True)
class Document:
    """A report, ready to be written."""

    title: str
    headline: str
    blocks: Sequence[Block]
