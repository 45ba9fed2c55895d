"""A hook of MkDocs: pages of the site that lie outside of docs/, and the promise that it loads nothing from elsewhere.

README, ARCHITECTURE and others are read where GitHub shows them, and have pages here. Links in all pages are those of
the repository; what they point to outside of docs/ is a page of the site, a file that is copied into it, or an error.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Pages by their path in the repository."""
COPIED = ("examples/*.yaml", "examples/*.py", "examples/*.json", "examples/ray/*.yaml", "LICENSE")
"""Files that pages may point to."""
NOT_SEARCHED = re.compile(r"results/[^/]+/|changelog\.md")
"""Pages of thousands of figures or lines, which would hide what is looked for."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
CODE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//", re.IGNORECASE)


def on_config(config: MkDocsConfig) -> None:
    """Write ``FOLDER/*.md`` in the nav out."""
    config.nav = _written_out(config.nav)


def _written_out(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_written_out(each) for each in entry]
    if isinstance(entry, dict):
        return {title: _written_out(each) for title, each in entry.items()}
    if "*" not in entry:
        return entry
    return [path.relative_to(ROOT / "docs").as_posix() for path in sorted((ROOT / "docs").glob(entry))]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what lies outside of docs/."""
    from mkdocs.structure.files import File

    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text()))
    for pattern in COPIED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links that lead out of docs/, or start outside of it, lead to pages of the site."""
    target = page.file.src_uri
    if NOT_SEARCHED.match(target):
        page.meta["search"] = {"exclude": True}
    source = next((path for path, site in PAGES.items() if site == target), f"docs/{target}")
    pieces = CODE.split(markdown)
    pieces[::2] = [LINK.sub(lambda link: _link(link[1], source, target), piece) for piece in pieces[::2]]
    return "".join(pieces)


def _link(link: str, source: str, target: str) -> str:
    """A link of the repository's file ``source`` as the site's page ``target`` has it."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if path in {"docs/adr", "docs/results"}:
        path = "docs/adr/0001-pieces-are-bytes-and-end-is-last.md" if path == "docs/adr" else "docs/results/README.md"
    site = PAGES.get(path, path.removeprefix("docs/"))
    return posixpath.relpath(site, posixpath.dirname(target) or ".")


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that would load something from another host."""
    from mkdocs.exceptions import PluginError

    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {found[0]}")
    return output
