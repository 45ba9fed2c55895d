"""The turns of a chat: what Ctrl-C ends, and that what was shown of an answer is kept whenever it comes."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.chats import make_talkers, session_of
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.cli.coloured import Painter
from unisono.cli.talk.answer import Answer
from unisono.cli.talk.commands import Commands
from unisono.cli.talk.interruption import hearing
from unisono.cli.talk.loop import Loop
from unisono.cli.talk.screen import Screen
from unisono.cli.talk.transcript import read_transcript


@pytest.fixture(autouse=True)
def talkers() -> Iterator[None]:
    make_talkers()
    yield
    FAKE_MODELS.clear()


class Lines:
    """Gives some lines, and hears Ctrl-C meanwhile."""

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)

    def read(self, offered: str = "") -> str:
        if not self._lines:
            raise EOFError
        return self._lines.pop(0)

    def meanwhile(self, heard: Callable[[], bool]) -> contextlib.AbstractContextManager[None]:
        return hearing(heard)


class PressedScreen(Screen):
    """Presses Ctrl-C after some events of an answer."""

    def __init__(self, times: int, *, is_terminal: bool) -> None:
        super().__init__(is_terminal=is_terminal, quiet=True)
        self._times = times

    def write(self, answer: Answer, painter: Painter | None = None) -> None:
        for number, _ in enumerate(answer, 1):
            if number == 5:
                press(self._times)


class PressedCommands(Commands):
    """Presses Ctrl-C again and again while an answer is kept."""

    def save_kept(self) -> None:
        press(3)
        super().save_kept()
        press(3)


def press(times: int) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def kept_after(file: Path, times: int, *, is_terminal: bool) -> list[tuple[str, str]]:
    """Press Ctrl-C so often while one answer is written, and more often while it is kept; return what the file has."""
    session = session_of()
    loop = Loop(session, PressedCommands(session, file), Lines("Count"), PressedScreen(times, is_terminal=is_terminal))
    before = signal.getsignal(signal.SIGINT)
    try:
        with contextlib.nullcontext() if is_terminal else pytest.raises(KeyboardInterrupt):
            loop.run()
    finally:
        assert signal.getsignal(signal.SIGINT) == before
    turns = read_transcript(file).conversation.turns
    assert turns == session.conversation.turns
    return [(turn.answer, turn.ending) for turn in turns]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_was_shown_is_kept_however_often_ctrl_c_is_pressed(tmp_path: Path, times: int, is_terminal: bool) -> None:
    assert kept_after(tmp_path / "talk.json", times, is_terminal=is_terminal) == [(" one" * 5, "stopped")]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_ctrl_c_while_a_whole_answer_is_kept_loses_nothing(tmp_path: Path, is_terminal: bool) -> None:
    """At a terminal it is too late, and in a pipe it ends the program once the answer is kept."""
    assert kept_after(tmp_path / "talk.json", 0, is_terminal=is_terminal) == [(" one" * 40, "end")]


def test_a_second_ctrl_c_raises_within_a_step_and_the_conversation_goes_on() -> None:
    heard = [False, True]
    with hearing(lambda: heard.pop(0)):
        press(1)
        with pytest.raises(KeyboardInterrupt):
            press(1)
    assert not heard
