"""The line editor of a chat, by prompt_toolkit: history, several lines, keys that wait while an answer is written."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.utils import is_dumb_terminal

from unisono.cli.talk.interruption import hearing
from unisono.records import is_unicode

PROMPT, CONTINUATION = "> ", "… "
BRACKETED_PASTE = "\x1b[?2004"
"""With ``h`` or ``l``: whether a terminal marks what is pasted, so that its line ends send nothing."""


class LineEditor:
    """Reads questions and commands from a terminal.

    Enter sends. Alt-Enter, or a backslash before Enter, begins another line, and so do line ends that are pasted.
    """

    def __init__(self, commands: Sequence[str], history: Path | None = None) -> None:
        """Complete these commands; keep what was sent in the file ``history``, or as long as the program runs."""
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=lambda width, number, wraps: CONTINUATION[:width].rjust(width),
            history=InMemoryHistory() if history is None else _open_history(history),
            completer=_completer(commands),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            key_bindings=_keys(),
            enable_open_in_editor=True,
            enable_suspend=True,
        )

    def read(self, offered: str = "") -> str:
        """The next thing that is sent; ``offered`` stands there to be edited.

        Raises:
            EOFError: Ctrl-D was pressed.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        return self._session.prompt(default=offered)

    @contextlib.contextmanager
    def meanwhile(self, heard: Callable[[], bool]) -> Iterator[None]:
        """Keys that are pressed meanwhile are not shown and wait for `read`, but for Ctrl-C; see `hearing`."""
        with hearing(heard), self._waiting_keys():
            yield

    @contextlib.contextmanager
    def _waiting_keys(self) -> Iterator[None]:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        meanwhile = termios.tcgetattr(terminal)
        meanwhile[0] &= ~termios.ICRNL
        meanwhile[3] = (meanwhile[3] & ~(termios.ECHO | termios.ICANON)) | termios.ISIG | termios.NOFLSH
        termios.tcsetattr(terminal, termios.TCSADRAIN, meanwhile)
        _write(BRACKETED_PASTE + "h")
        try:
            yield
        finally:
            _write(BRACKETED_PASTE + "l")
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _write(sequence: str) -> None:
    if is_dumb_terminal():
        return
    sys.stdout.write(sequence)
    sys.stdout.flush()


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def begin_a_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


def _completer(commands: Sequence[str]) -> Completer:
    return WordCompleter([f"/{name}" for name in commands], sentence=True)


class _KeptHistory(FileHistory):
    """What was sent, in a file that nobody else can read; what cannot be written to it is remembered all the same."""

    def load_history_strings(self) -> Iterator[str]:
        try:
            yield from super().load_history_strings()
        except OSError:
            return

    def store_string(self, string: str) -> None:
        if is_unicode(string):
            with contextlib.suppress(OSError):
                super().store_string(string)


def _open_history(path: Path) -> History:
    """The history in a file, which is made where there is none; one in memory where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(str(path))
