"""The files of the page as they are served, and the headers that let nothing run but them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

START = "index.html"
LIVE, RECORDED = 'data-mode="live"', 'data-mode="recorded"'
KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""By the ending of a file's name, the content type."""

_NOTHING_ELSE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
POLICY = f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; {_NOTHING_ELSE}"
"""Scripts, styles, pictures and calls of the page's own server; nothing that stands in a text may run."""
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    content: bytes
    kind: str
    """Its content type."""


@functools.cache
def page_files() -> Mapping[str, PageFile]:
    """The files of the page by name, read once."""
    found = {}
    for file in files("unisono.page").joinpath("static").iterdir():
        kind = KINDS.get(file.name.rpartition(".")[2])
        if kind is not None:
            found[file.name] = PageFile(file.read_bytes(), kind)
    return found


def recorded_start() -> PageFile:
    """The first file, of a page that shows a trace and asks no server."""
    start = page_files()[START]
    return PageFile(start.content.replace(LIVE.encode(), RECORDED.encode(), 1), start.kind)
