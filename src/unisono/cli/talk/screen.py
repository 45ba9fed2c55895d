"""What a chat shows: answers on stdout; what is reasoned, and talk, on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from unisono.cli.answers import PaintedText, ShownText, closing, say_away
from unisono.cli.coloured import Painter
from unisono.cli.console import colours, murmur, plain_console, print_table, say
from unisono.cli.talk.answer import Answer
from unisono.cli.talk.commands import Table

if TYPE_CHECKING:
    from unisono.config.method import Method

STOPPED = "stopped: what is written stays; /continue goes on, /retry writes it again, /undo takes it back"
UNANSWERED = "stopped before an answer began: the question is taken back; /retry asks it again"
AS_BEFORE = "stopped before there was any text: the answer is as it was"
WAYS = {
    "length": "--max-new-tokens is reached; /continue goes on",
    "context": "a member's context is full; /forget leaves out the oldest turn, /undo takes back this one",
}
"""Why an answer was cut off, and what to do."""


class Screen:
    """Shows answers as they are written, and says what is to be said."""

    def __init__(self, *, is_terminal: bool, quiet: bool = False, as_json: bool = False) -> None:
        """Decorate on a terminal; elsewhere write answers alone, or a JSON object for each (``as_json``)."""
        self.is_terminal = is_terminal
        self._quiet = quiet
        self._as_json = as_json

    def note(self, words: str) -> None:
        """Say something that stands beside the text."""
        murmur(words + "\n") if self.is_terminal else say(words)

    def table(self, table: Table) -> None:
        print_table(plain_console(stderr=True), table.titles, table.rows, left=table.left, fold=True)

    def write(self, answer: Answer, painter: Painter | None = None) -> None:
        """Let an answer be written, and show it meanwhile, painted or not. Raises what its model raises, or Ctrl-C."""
        quiet = self._quiet or self._as_json
        shown = ShownText(quiet=quiet) if painter is None else PaintedText(painter, framed=False)
        try:
            for event in answer:
                if painter is not None:
                    painter.add(answer.steps)
                for part, text in () if self._as_json else event.parts:
                    shown(part, text)
        finally:
            if not self._as_json:
                shown.end()

    def legend(self, painter: Painter) -> None:
        """Say what the colours of pieces mean."""
        print(painter.legend(coloured=colours(sys.stdout)), flush=True)

    def show(self, answer: Answer, painter: Painter) -> None:
        """Show what happened to each piece of an answer, with a legend and a table."""
        painter.add(answer.steps)
        shown = PaintedText(painter)
        for part, text in answer.parts:
            shown(part, text)
        shown.end()

    def close(self, answer: Answer, method: Method) -> None:
        """Say how an answer ended."""
        generation = answer.generation
        if self._as_json:
            _print_json(answer)
        if generation is not None:
            say_away(generation)
        if self._quiet:
            return
        if generation is None:
            taken_back = UNANSWERED if answer.previous is None else AS_BEFORE
            self.note(f"[{STOPPED if answer.is_to_be_kept else taken_back}]")
            return
        if self.is_terminal:
            self.note(closing(generation, method))
        if way := WAYS.get(generation.finish_reason):
            self.note(f"[the answer is cut off: {way}]")


def _print_json(answer: Answer) -> None:
    turn, generation = answer.turn, answer.generation
    record = {} if generation is None else generation.to_json()
    record.pop("steps", None)
    print(json.dumps({**record, "text": turn.answer, "finish_reason": turn.ending}, ensure_ascii=False), flush=True)
