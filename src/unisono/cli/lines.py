"""JSON lines that survive us: answers and traces, each line in the file as soon as it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.types import StepRecord


def write_line(file: FileIO, record: Mapping[str, Any]) -> None:
    """Write one JSON line to an unbuffered file, so that it survives us.

    Raises:
        SpecError: it cannot be written; nothing is left behind to fail again when the file is closed.
    """
    data = memoryview((json.dumps(record, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise SpecError(
            f"cannot write to {str(file.name)!r}: {error.strerror}", hint="make room, or choose another file"
        ) from error


class TraceFile:
    """The steps of a text, each written once it has happened.

    A step that cannot be written stops the trace and not the text: `close` tells it.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; what it holds stays until `begin`. Raises a `SpecError` when it cannot be written."""
        try:
            self._file = FileIO(path, "ab")
        except OSError as error:
            raise SpecError(f"cannot write the trace to {str(path)!r}: {error.strerror}") from error
        self._is_file = path.is_file()
        self._written = 0
        self._failure: SpecError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self) -> None:
        """Take away what an earlier text has left."""
        if self._is_file:
            self._file.truncate(0)

    def write(self, steps: Sequence[StepRecord]) -> None:
        """Add those of a text's steps that are not written yet."""
        try:
            while self._failure is None and self._written < len(steps):
                write_line(self._file, steps[self._written].to_json())
                self._written += 1
        except SpecError as failure:
            self._failure = failure

    def close(self) -> None:
        """Close the file. Raises the `SpecError` that ended the trace too early."""
        self._file.close()
        if self._failure is not None:
            raise self._failure
