"""One file that holds the page and a trace, and opens without any server."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from unisono.page.files import page_files, recorded_start
from unisono.page.trace_reader import Trace

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z_]+\.js)";\n', re.M)
_EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const) ([A-Za-z_]+))", re.M)
_STYLE = re.compile(r'<link rel="stylesheet" href="/page/([a-z_.]+)">\n')
_SCRIPT = '<script type="module" src="/page/main.js"></script>\n'
_MADE = '<meta name="generator" content="unisono show">\n'
_ICON = re.compile(r'<link rel="icon"[^>]*>\n')


def single_file(trace: Trace) -> str:
    """The page with a trace inside. Its Content-Security-Policy allows its own script and styles, by their hashes."""
    page = recorded_start().content.decode()
    styles = [page_files()[name].content.decode() for name in _STYLE.findall(page)]
    script = bundle("main.js")
    allowed = f"script-src {_hash(script)}; style-src {' '.join(map(_hash, styles))}"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    data = trace.to_json().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    page = _ICON.sub("", _STYLE.sub("", page))
    page = page.replace(_SCRIPT, "".join(f"<style>{style}</style>\n" for style in styles), 1)
    page = page.replace(
        '<meta charset="utf-8">\n',
        f'<meta charset="utf-8">\n{_MADE}<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
        1,
    )
    ending = f'<script type="application/json" id="trace">{data}</script>\n<script type="module">{script}</script>\n'
    return page.replace("</body>", ending + "</body>", 1)


def is_single_file(path: Path) -> bool:
    """Whether a file begins as those of `single_file` do. Raises an `OSError`."""
    with path.open("rb") as file:
        return _MADE.encode() in file.read(1000)


def bundle(start: str) -> str:
    """A module and all that it imports as one script: each in a function of its own, after those that it needs."""
    done: list[str] = []
    parts: list[str] = []

    def add(name: str) -> None:
        if name in done:
            return
        done.append(name)
        source = page_files()[name].content.decode()
        for _, other in _IMPORT.findall(source):
            add(other)
        body = _IMPORT.sub(lambda found: f"const {{{_renamed(found[1])}}} = {_module(found[2])};\n", source)
        names = ", ".join(exported for _, exported in _EXPORT.findall(body))
        inside = _EXPORT.sub(r"\1", body)
        parts.append(f"const {_module(name)} = (() => {{\n{inside}\nreturn {{ {names} }};\n}})();\n")

    add(start)
    return "\n".join(parts)


def _renamed(names: str) -> str:
    return names.replace(" as ", ": ")


def _module(name: str) -> str:
    return f"from_{name.removesuffix('.js')}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
