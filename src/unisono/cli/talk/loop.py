"""The turns of a chat: a line is read, and is a command or a question; what goes wrong is said, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Protocol

from unisono.cli.coloured import Painter
from unisono.cli.console import DEBUG_KEY, say, say_error
from unisono.cli.talk.answer import Answer
from unisono.cli.talk.commands import Commands, Effect, is_command, line_of, question_of
from unisono.cli.talk.screen import Screen
from unisono.cli.talk.session import Session
from unisono.errors import UnisonoError, shown


class LineReader(Protocol):
    """Where lines come from."""

    def read(self, offered: str = "") -> str:
        """The next line or lines. Raises `EOFError` after the last, and `KeyboardInterrupt` for Ctrl-C."""

    def meanwhile(self, heard: Callable[[], bool]) -> contextlib.AbstractContextManager[None]:
        """What holds while a line is taken: Ctrl-C calls ``heard``, see `hearing`."""


class Loop:
    """Answers lines until there are no more."""

    def __init__(self, session: Session, commands: Commands, reader: LineReader, screen: Screen) -> None:
        self._session = session
        self._commands = commands
        self._reader = reader
        self._screen = screen
        self._answer: Answer | None = None
        self._is_stopped = False
        self._is_keeping = False
        self.failed = 0
        """How many lines were refused, or could not be answered."""

    def run(self) -> None:
        """Take lines until there are no more, or one of them leaves. Ctrl-C ends it where there is no terminal."""
        if self._commands.shows_pieces:
            self._screen.legend(self._painter())
        if self._session.unanswered and not self._screen.is_terminal:  # nobody sees what is offered there
            question = shown(" ".join(self._session.unanswered.split()))
            self._screen.note(f"the last question has no answer: {question}; /retry as the first line answers it")
        offered: str | None = line_of(self._session.unanswered)
        while offered is not None:
            try:
                offered = self._take(self._reader.read(offered))
            except EOFError:
                return
            except UnisonoError as error:
                self._fail(error)
            except KeyboardInterrupt:
                if not self._screen.is_terminal:
                    raise
                self._session.give_up()
                self._screen.note("(Ctrl-D leaves)")
                offered = ""

    def _take(self, line: str) -> str | None:
        """Do what a line says; return what is offered for the next one, ``None`` to leave."""
        if not line.strip():
            return ""
        self._answer, self._is_stopped = None, False
        with self._reader.meanwhile(self._heard):
            try:
                if is_command(line):
                    return self._done(self._commands.run(line))
                return self._write(self._session.ask(question_of(line)))
            except BrokenPipeError:
                raise  # nobody reads what is written
            except Exception as error:
                self._fail(error)
        return "" if is_command(line) else line_of(self._session.unanswered)

    def _done(self, effect: Effect) -> str | None:
        if effect.leaves:
            return None
        if effect.table is not None:
            self._screen.table(effect.table)
        if effect.words:
            self._screen.note(effect.words)
        if effect.shown is not None:
            self._screen.show(effect.shown, self._painter(effect.shown))
        if effect.legend:
            self._screen.legend(self._painter())
        return line_of(effect.offered) if effect.answer is None else self._write(effect.answer)

    def _write(self, answer: Answer) -> str:
        """Let an answer be written. What is written of it is kept, whatever ends it."""
        self._answer = answer
        if self._is_stopped:
            answer.stop()
        try:
            self._screen.write(answer, self._painter(answer) if self._commands.shows_pieces else None)
        except KeyboardInterrupt:
            if not self._screen.is_terminal:
                raise
        finally:
            self._is_keeping = True  # no call before it: between two calls, Python hears no Ctrl-C
            try:
                self._session.keep(answer)
                self._commands.save_kept()
            finally:
                self._is_keeping = False
                answer.close()
        if self._is_stopped and not self._screen.is_terminal:
            raise KeyboardInterrupt
        self._screen.close(answer, self._session.method)
        return line_of(self._session.unanswered)

    def _painter(self, answer: Answer | None = None) -> Painter:
        return Painter(self._session.prepared.weights, self._session.method if answer is None else answer.method)

    def _heard(self) -> bool:
        """Do what Ctrl-C asks for, and tell whether it is to raise.

        The first one lets the answer end between two steps. A step may take long: it reads a long prompt, or asks a
        member that does not answer. So the next one raises within it, and without a terminal the first one does, which
        ends the program. None does while an answer is kept.
        """
        again, self._is_stopped = self._is_stopped, True
        if self._answer is not None:
            self._answer.stop()
        return not self._is_keeping and (again or not self._screen.is_terminal)

    def _fail(self, error: Exception) -> None:
        """Say what went wrong: a model's fault, or one of ours, is not worth the conversation."""
        self.failed += 1
        if isinstance(error, UnisonoError):
            say_error(error)
            return
        if os.environ.get(DEBUG_KEY):
            raise error
        say(f"unisono: {type(error).__name__}: {error}")
        say(f"  the conversation continues; {DEBUG_KEY}=1 shows where it happened")
