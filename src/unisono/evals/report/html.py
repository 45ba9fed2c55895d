"""A document as one page of HTML that needs nothing else: no script, no network, no file beside it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib import resources

from unisono.evals.report.document import Block, Bullets, Document, Heading, Listing, Paragraph, Picture, Row, Table
from unisono.evals.report.text import one_line, visible

# Nothing is loaded and nothing runs, even if a text should find a way out of its element.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def as_html(document: Document) -> str:
    """The page."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    sections = [block for block in document.blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<li><a href="#{_anchor(each.text)}">{_escaped(each.text)}</a></li>\n' for each in sections)
    body = "\n".join(_block(block) for block in document.blocks)
    title = _escaped(document.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="headline">{_escaped(document.headline)}</p>
<nav aria-label="Parts of this page"><ul>
{links}</ul></nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _block(block: Block) -> str:
    match block:
        case Heading(level, text):
            anchor = f' id="{_anchor(text)}"' if level == 2 else ""
            return f"<h{level}{anchor}>{_escaped(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_escaped(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "".join(f"<li>{_escaped(item)}</li>\n" for item in items) + "</ul>"
        case Listing(title, text):
            # The line end behind <pre> is dropped by parsers; one that the text begins with is not.
            head, text = f"<figcaption>{_escaped(title)}</figcaption>", html.escape(visible(text))
            return f'<figure class="listing">{head}<pre dir="auto">\n{text}</pre></figure>'
        case Picture():
            return _picture(block)
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    sides = ["number" if column.numeric else "words" for column in table.columns]
    heads = "".join(
        f'<th scope="col" class="{side}">{_escaped(column.title)}</th>'
        for column, side in zip(table.columns, sides, strict=True)
    )
    rows = "\n".join(_row(row, sides) for row in table.rows)
    caption = _escaped(table.caption)
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table>\n<caption>{caption}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _row(row: Row, sides: Sequence[str]) -> str:
    first, *others = (f"<bdi>{_escaped(cell)}</bdi>" for cell in row.cells)
    cells = "".join(f'<td class="{side}">{cell}</td>' for cell, side in zip(others, sides[1:], strict=True))
    strong = ' class="strong"' if row.strong else ""
    return f'<tr{strong}><th scope="row" class="{sides[0]}">{first}</th>{cells}</tr>'


def _picture(picture: Picture) -> str:
    # Several drawings share the page: their inner names must not meet.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{picture.name}-\1"', picture.svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{picture.name}-", svg)
    label = html.escape(visible(picture.alt))
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{svg}<figcaption>{_escaped(picture.title)}. {_escaped(picture.alt)}</figcaption></figure>"


def _escaped(text: str) -> str:
    return html.escape(one_line(text))


def _anchor(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))
