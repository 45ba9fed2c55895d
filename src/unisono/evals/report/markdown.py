"""A document as Markdown in the dialect of GitHub; its plots are files beside it."""

from __future__ import annotations

import re

from unisono.evals.report.document import Block, Bullets, Document, Heading, Listing, Paragraph, Picture, Row, Table
from unisono.evals.report.text import one_line, visible

PLOTS = "plots"
"""The folder of the plots, beside the page."""

_SPECIAL = re.compile(r"[\\`*_\[\]|~$#!@{}]")
_FIRST = re.compile(r"^(\d+)([.)])|^([-+=])")
_ADDRESS = re.compile(r"://|\bwww\.", re.IGNORECASE)


def as_markdown(document: Document) -> str:
    """The page."""
    title = f"# {_escaped(document.title)}"
    return "\n\n".join([title, f"**{_escaped(document.headline)}**", *map(_block, document.blocks)]) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_escaped(text)}"
        case Paragraph(text):
            return _escaped(text)
        case Bullets(items):
            return "\n".join(f"- {_escaped(item)}" for item in items)
        case Listing(title, text):
            text = visible(text)
            # Longer than any row of backticks within, so that nothing in the text ends it.
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{_escaped(title)}:\n\n{fence}text\n{text}\n{fence}"
        case Picture(name, title, alt):
            return f"![{_escaped(alt)}]({PLOTS}/{name}.svg)\n\n{_escaped(title)}."
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    heads = _line(Row(tuple(column.title for column in table.columns)))
    rule = "|" + "|".join(" ---: " if column.numeric else " --- " for column in table.columns) + "|"
    return "\n".join([f"{_escaped(table.caption)}:", "", heads, rule, *map(_line, table.rows)])


def _line(row: Row) -> str:
    cells = [_escaped(cell) for cell in row.cells]
    if row.strong:
        cells = [f"**{cell}**" if cell else "" for cell in cells]
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    """The text on one line, with nothing in it that Markdown or HTML would take for more than text."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = _SPECIAL.sub(r"\\\g<0>", plain)
    plain = _FIRST.sub(lambda found: f"{found[1]}\\{found[2]}" if found[1] else f"\\{found[3]}", plain)
    return _ADDRESS.sub(lambda found: found[0].replace(":", "&#58;").replace(".", "&#46;"), plain)
