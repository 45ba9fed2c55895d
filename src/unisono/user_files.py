"""Reads the files that users name, whole and bounded, and writes JSON lines that survive a crash.

A pipe or a device has no end, or never begins: it is refused unread, but for a pipe (or stdin) that a user has named as
the input. So is a file larger than its kind ever is. What is wrong is an `OSError` whose ``strerror`` says it, as for a
file that cannot be opened.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Mapping, Sequence
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from unisono.errors import SpecError, shown

SETTINGS = 500_000
"""The most bytes of an ensemble file, a configuration or a file of keys."""
DOCUMENT = 16_000_000
"""The most bytes of a schema, or of what a run notes about itself."""
DATA = 1_000_000_000
"""The most bytes of prompts, questions and answers: they are read whole."""

UTF16 = "it is UTF-16: save it as UTF-8"
LONGEST_NUMBER = 400
"""Characters of a number in JSON: to read one with a point takes time by the square of its length."""

_GZIP = b"\x1f\x8b"
_SOME = 1_000_000
"""Bytes of a file of /proc, which says that it is empty; and of those at which a file shows whether it is text."""
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def read_bytes(path: Path, most: int, *, named: bool = False) -> bytes:
    """The content of a regular file of at most ``most`` bytes; ``named``: or of a pipe. Raises an `OSError`.

    What a user has named may be a pipe, such as ``<(command)`` and ``/dev/stdin``. It is waited for, as commands do.
    """
    with path.open("rb") if named and _is_stream(path) else open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = bytearray()
        while size <= most and len(data) <= most and (part := file.read(min(most + 1 - len(data), max(size, _SOME)))):
            data += part
        if max(size, len(data)) <= most:
            return bytes(data)
    raise OSError(errno.EFBIG, f"it has {max(size, most + 1):,} bytes, and at most {most:,} are read", str(path))


def read_data(path: Path, most: int = DATA, *, named: bool = False) -> bytes:
    """The content of a file of lines, as `read_bytes` reads it. Raises an `OSError` where it is no text in UTF-8.

    Single lines may still be wrong; whoever reads them says so.
    """
    data = read_bytes(path, most, named=named)
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise OSError(errno.EINVAL, UTF16, str(path))
    if data.startswith(_GZIP):
        raise OSError(errno.EINVAL, "it is compressed: unpack it (gunzip)", str(path))
    if b"\0" in data[:_SOME]:
        raise OSError(errno.EINVAL, "it is binary, and not text", str(path))
    return data


def short_float(text: str) -> float:
    """A number, for `json.loads` to read those with a point. Raises a `ValueError` where it is too long."""
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number has {len(text):,} characters, more than {LONGEST_NUMBER}")
    return float(text)


def read_text(path: Path, most: int, encoding: str = "utf-8", *, named: bool = False) -> str:
    """The text of what `read_bytes` reads, its line ends newlines. Raises an `OSError` or a `UnicodeDecodeError`."""
    return read_bytes(path, most, named=named).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def why_unread(error: OSError | UnicodeDecodeError) -> str:
    """Why `read_text` has failed, with what to do where the file is in another encoding."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if error.object.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return UTF16
    line = error.object.count(b"\n", 0, error.start) + 1
    return f"it is not UTF-8, at byte {error.start}, in line {line}: save it as UTF-8"


def read_json(words: bytes | str) -> Any:
    """The JSON of a line. Raises a `ValueError` or a `RecursionError`; also where an object has a key twice.

    Readers differ in which of the two they take.
    """
    return json.loads(words, object_pairs_hook=unique_keys)


class RepeatedKeyError(ValueError):
    """An object has a key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {shown(key)} stands twice")
        self.key = key


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object, as a hook of `json.loads` is given it. Raises a `RepeatedKeyError`."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RepeatedKeyError(key)
        found[key] = value
    return found


def why_no_json(error: ValueError | RecursionError) -> str:
    """Why `json.loads` has failed at the bytes of a line."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8, at its byte {error.start}: save the file as UTF-8"
    if isinstance(error, RepeatedKeyError):
        return str(error)
    return f"it is no JSON: {error}"


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe, or the terminal that stdin is."""
    found = os.stat(path)
    return stat.S_ISFIFO(found.st_mode) or (os.isatty(0) and os.path.samestat(found, os.fstat(0)))


def open_plain(path: Path) -> BufferedReader:
    """Open a regular file for reading, without ever waiting for it. Raises an `OSError`."""
    check_plain(path, os.stat(path))
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        check_plain(path, os.fstat(handle))  # it may have been another file a moment ago
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_plain(path: Path, found: os.stat_result) -> None:
    """Raise an `OSError` where what was ``found`` at a path is no regular file."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"it is {special(found) or 'no file'}, and only files are read", str(path))


def special(found: os.stat_result) -> str | None:
    """What a pipe, a device or a socket is, in words; ``None`` for files and folders."""
    return next((words for is_one, words in _KINDS if is_one(found.st_mode)), None)


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
