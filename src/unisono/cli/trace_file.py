"""A trace in a file: the steps of a text, each written as soon as it has happened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

from unisono.errors import SpecError
from unisono.user_files import write_line

if TYPE_CHECKING:
    from unisono.chat.messages import Prompt
    from unisono.step_records import StepRecord


BEGINS = (b'{"about": ', b'{"bytes": ')
"""How traces begin: of today, and of earlier versions."""


class TraceFile:
    """The steps of a text, each written once it has happened.

    A step that cannot be written stops the trace and not the text: `close` tells it.
    """

    def __init__(self, path: Path) -> None:
        """Make sure that it can be written; what it holds stays until `begin`.

        Raises a `SpecError`, also where there is a file that is no trace.
        """
        self._path = path
        self._file = self._open() if _exists(path) else None
        self._written = 0
        self._failure: SpecError | None = None
        self._prompt: Prompt | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, prompt: Prompt | None = None) -> None:
        """Take away what an earlier text has left; the first step will tell the prompt.

        Raises a `SpecError` when the file cannot be created.
        """
        if prompt is not None:
            self._prompt = prompt
        if self._file is None:
            self._file = self._open()
        if self._path.is_file():
            self._file.truncate(0)

    def write(self, steps: Sequence[StepRecord]) -> None:
        """Add those of a text's steps that are not written yet; nothing before `begin`."""
        try:
            while self._file is not None and self._failure is None and self._written < len(steps):
                write_line(self._file, self._line(steps[self._written]))
                self._written += 1
        except SpecError as failure:
            self._failure = failure

    def _line(self, step: StepRecord) -> Mapping[str, object]:
        return step.to_json() if self._prompt is None else with_prompt(step.to_json(), self._prompt)

    def close(self) -> None:
        """Raises the `SpecError` that ended the trace too early."""
        if self._file is not None:
            self._file.close()
        if self._failure is not None:
            raise self._failure

    def _open(self) -> FileIO:
        try:
            return FileIO(self._path, "ab")
        except OSError as error:
            raise _unwritable(self._path, error.strerror) from error


def with_prompt(step: dict[str, object], prompt: Prompt) -> dict[str, object]:
    """The first step of a trace with what was asked; other steps as they are."""
    about = step.get("about")
    if not isinstance(about, dict):
        return step
    return {**step, "about": {**about, "prompt": prompt.text if prompt.messages is None else prompt.messages}}


def _exists(path: Path) -> bool:
    """Whether a file is there already. Raises a `SpecError` where none could be created, or another one is there."""
    try:
        path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise _unwritable(path, "there is no such folder") from None
        if not os.access(path.parent, os.W_OK):
            raise _unwritable(path, "its folder cannot be written to") from None
        return False
    except (OSError, ValueError) as error:
        raise _unwritable(path, getattr(error, "strerror", None) or str(error)) from error
    if path.is_file() and not _is_trace(path):
        hint = "choose another file: --trace replaces earlier traces alone"
        raise SpecError(f"--trace is {str(path)!r}, which is there already and is no trace", hint=hint)
    return True


def _is_trace(path: Path) -> bool:
    """Whether a file begins as a trace does, or is empty. Raises a `SpecError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            begin = file.read(max(map(len, BEGINS)))
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    return not begin or begin.startswith(BEGINS)


def _unwritable(path: Path, why: str | None) -> SpecError:
    return SpecError(f"cannot write the trace to {str(path)!r}: {why}", hint="choose another file")
