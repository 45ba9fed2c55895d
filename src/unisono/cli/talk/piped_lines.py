"""Questions and commands from stdin where it is no terminal: one line each."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable

from unisono.cli.talk.interruption import hearing
from unisono.errors import PromptError
from unisono.user_files import DOCUMENT


class PipedLines:
    """Reads lines from stdin, as `loop.LineReader`. Ctrl-C ends the program, as everywhere without a terminal."""

    def __init__(self) -> None:
        self._number = 0

    def read(self, offered: str = "") -> str:
        """The next line. Raises `EOFError` after the last one, and a `PromptError` for one that is not UTF-8."""
        data = sys.stdin.buffer.readline(DOCUMENT)
        self._number += 1
        if not data:
            raise EOFError
        if len(data) == DOCUMENT and not data.endswith(b"\n"):
            while data and not data.endswith(b"\n"):
                data = sys.stdin.buffer.readline(DOCUMENT)
            raise PromptError(
                f"line {self._number} of stdin is longer than {DOCUMENT:,} bytes", hint="ask less at once"
            )
        try:
            return data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            words = f"line {self._number} of stdin is not UTF-8: {error.reason} at byte {error.start}"
            raise PromptError(words, hint="save it as UTF-8") from error

    def meanwhile(self, heard: Callable[[], bool]) -> contextlib.AbstractContextManager[None]:
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell
            return contextlib.nullcontext()
        return hearing(heard)
