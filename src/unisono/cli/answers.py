"""How `run` and `chat` show an answer: the text on stdout, and on stderr what is reasoned and how it was written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from unisono.cli.coloured import Painter
from unisono.cli.console import TEXT_LINE, colours, harmless, murmur, say
from unisono.step_records import Part

if TYPE_CHECKING:
    from unisono.config.method import Method
    from unisono.records import Generation


class ShownText:
    """Writes an answer to stdout, and to stderr what is reasoned before it.

    On a terminal it is `harmless`; elsewhere it is what the models wrote.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """Show reasoning unless ``quiet``."""
        self._quiet = quiet
        self._reasons = False
        self._is_terminal = sys.stdout.isatty()

    def __call__(self, part: Part, text: str) -> None:
        if part == "answer":
            self._begin_answer()
            _write(harmless(text) if self._is_terminal else text)
        elif not self._quiet:
            self._reasons = self._reasons or bool(text)
            murmur(text)

    def end(self) -> None:
        """End the line."""
        self._begin_answer()
        _write("\n")

    def _begin_answer(self) -> None:
        """Leave a blank line below reasoning."""
        if self._reasons:
            say("\n")
        self._reasons = False


class PaintedText:
    """The same with each piece painted by what happened at it; a legend stands before it, and a table after it."""

    def __init__(self, painter: Painter, *, framed: bool = True) -> None:
        """Paint by a painter to which steps are added before their text; without legend and table if not ``framed``."""
        self._painter = painter
        self._framed = framed
        self._streams: dict[Part, TextIO] = {"answer": sys.stdout, "reasoning": sys.stderr}
        self._part: Part = "answer"
        if framed:
            print(painter.legend(coloured=colours(sys.stdout)), end="\n\n", flush=True)

    def __call__(self, part: Part, text: str) -> None:
        if part != self._part:
            self._close("\n\n" if self._part == "reasoning" else "")
            self._part = part
        stream = self._streams[part]
        stream.write(self._painter.paint(part, text, coloured=colours(stream)))
        stream.flush()
        TEXT_LINE.follow(text)

    def end(self) -> None:
        """End the line, and print the table."""
        self._close("\n\n" if self._framed else "\n")
        if self._framed:
            self._painter.print_table()

    def _close(self, after: str) -> None:
        stream = self._streams[self._part]
        stream.write(self._painter.end(self._part, coloured=colours(stream)) + after)
        stream.flush()
        TEXT_LINE.follow(after)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
    TEXT_LINE.follow(text)


def say_away(generation: Generation) -> None:
    """Say without which members a text was written, however quiet it is to be."""
    for name, count in (generation.usage.degraded or {}).items():
        of = generation.usage.pieces + (generation.finish_reason == "end")
        say(f"unisono: member {name!r} was away from {count} of {of} choices")


def closing(generation: Generation, method: Method) -> str:
    """The line after a text: how fast it was, and what the gate and the drafts have saved."""
    usage, seconds = generation.usage, generation.seconds.total
    parts = [f"{usage.pieces} pieces in {seconds:.1f} s, {usage.pieces / seconds:.1f} a second"]
    if not method.gate.always_open and usage.pieces:
        parts.append(f"{100 * usage.ensembled / usage.pieces:.0f} % ensembled")
    for name, count in (usage.unasked or {}).items():
        parts.append(f"certain without {name} at {count}")
    if method.speculate is not None:
        drafted = f"{usage.accepted} of {usage.drafted} drafted pieces accepted"
        parts.append(drafted if usage.drafted else "nothing drafted")
    if usage.parted is not None:
        parts.append(f"cuts parted at {usage.parted}")
    if usage.uncertain is not None:
        parts.append(f"{usage.uncertain} uncertain")
    if generation.seed is not None:
        parts.append(f"seed:{generation.seed}")
    return f"[{'; '.join((*parts, generation.finish_reason))}]"
