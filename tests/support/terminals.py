"""A user at a pseudo-terminal: what is shown, what is pressed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pexpect

WAIT = 60
ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"


class Terminal:
    """A program at a terminal of 60 columns, whose user's folder is ``home``."""

    def __init__(self, command: Sequence[str], home: Path) -> None:
        environment = {**os.environ, "XDG_STATE_HOME": str(home), "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        environment["PROMPT_TOOLKIT_NO_CPR"] = "1"  # nobody tells where the cursor is
        environment.pop("NO_COLOR", None)
        program, *words = command
        self._child = pexpect.spawn(
            program, words, env=environment, encoding="utf-8", dimensions=(24, 60), timeout=WAIT
        )
        self._child.delaybeforesend = None

    def see(self, words: str) -> str:
        """Wait until some words are shown; return what came before them."""
        self._child.expect_exact(words)
        return str(self._child.before)

    def ready(self) -> None:
        """Wait for the prompt, which comes with the switch to bracketed paste."""
        self.see("\x1b[?2004h")
        self.see(">")

    def busy(self) -> None:
        """Wait until what was sent is being answered: keys that come with it are the line editor's."""
        self.see("\x1b[?2004h")

    def press(self, keys: str) -> None:
        self._child.send(keys)

    def ask(self, line: str) -> None:
        self.press(line + ENTER)

    def resize(self, columns: int) -> None:
        self._child.setwinsize(24, columns)

    def leave(self) -> int:
        self.press(CTRL_D)
        self._child.expect(pexpect.EOF)
        self._child.close()
        return int(self._child.exitstatus or 0)
