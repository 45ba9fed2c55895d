"""JSON lines that survive a crash: each is in the file once written, and an incomplete last line is detected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from unisono.errors import SpecError
from unisono.user_files import DATA, read_bytes


def write_line(file: FileIO, record: Mapping[str, Any]) -> None:
    write_lines(file, [record])


def write_lines(file: FileIO, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines to an unbuffered file, so that they survive us. Raises a `SpecError` where that fails."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    data = memoryview(text.encode(errors="backslashreplace"))
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise SpecError(
            f"cannot write to {str(file.name)!r}: {error.strerror}", hint="make room, or choose another file"
        ) from error


def complete_lines(path: Path, key: str, *, what: str, line_is: str) -> tuple[list[dict[str, Any]], int]:
    """The records of a file that `write_line` has written, and the length of their lines; the last may be cut off.

    ``key`` is the first key of every record. Errors call the file ``what`` (the output of a run) and a line of it
    ``line_is`` (an answer). Raises a `SpecError` where the file is something else, or cannot be read.
    """
    begins = json.dumps({key: ""})[: len(key) + 4].encode() + b" "
    records: list[dict[str, Any]] = []
    length = 0
    try:
        lines = read_bytes(path, DATA).splitlines(keepends=True)
    except OSError as error:
        raise SpecError(f"cannot read {str(path)!r}: {error.strerror}", hint="check the file") from error
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") and (records or begins.startswith(line[: len(begins)])):
            break
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or key not in record:
            raise SpecError(
                f"{str(path)!r} is not {what}: line {number} is not {line_is}",
                hint="check the name of the file; nothing in it was changed",
            )
        records.append(record)
        length += len(line)
    return records, length
