"""``unisono show``: a recorded trace in the browser, or as one file to send to somebody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import say
from unisono.cli.flags import optional, verb_app
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.page.trace_reader import Trace


_OTHER = "choose another file"


def show(
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            help="A file that `unisono run --trace` wrote, or answers with their traces.",
            show_default=False,
        ),
    ],
    html: Annotated[
        Path | None, optional(metavar="FILE", help="Write one file with the page and the trace, and exit.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Listen on this port; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Show a recorded trace on the page of `unisono serve`, until Ctrl-C."""
    from unisono.page.trace_reader import read_trace

    found = read_trace(trace)
    for note in found.notes:
        say(f"unisono: {note}")
    if html is None:
        _serve(found, port, browser=browser)
        return
    if html.resolve() == trace.resolve():
        raise SpecError(f"--html is the trace {str(trace)!r} itself", hint="write the page to another file")
    _write(found, html)


app = verb_app(show)


def _write(found: Trace, html: Path) -> None:
    """Write the page; it replaces an earlier one, and no other file."""
    from unisono.page.single_file import is_single_file, single_file

    try:
        if html.is_file() and html.stat().st_size and not is_single_file(html):
            raise SpecError(f"--html: {str(html)!r} is there already, and no page of `unisono show`", hint=_OTHER)
        html.write_text(single_file(found), encoding="utf-8")
    except OSError as error:
        words = f"cannot write the page to {str(html)!r}: {error.strerror}"
        raise SpecError(words, hint=_OTHER) from None


def _serve(found: Trace, port: int, *, browser: bool) -> None:
    import webbrowser
    from threading import Thread

    from unisono.page.trace_server import trace_server

    with trace_server(found, port) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        print(url, flush=True)
        say("Ctrl-C ends it")
        serving = Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            if browser:
                webbrowser.open(url)  # of a terminal's browser, it returns when that is left
            while serving.is_alive():
                serving.join(1)
        finally:
            server.shutdown()
