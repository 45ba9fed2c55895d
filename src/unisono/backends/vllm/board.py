"""Rows of logits in memory that a member's process shares with the processes of its engine.

Row and stamp belong together: whoever writes a row sets its stamp behind it, and whoever asked for it looks whether the
stamp is that of the pass which was asked. So a row that was not written is never taken for one that was.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = re.compile(r"[0-9a-f]{32}")
"""Names are not to be guessed: others who use the same engine can ask for rows, too."""
HEAD = 4096
"""Bytes before the stamps: how many rows, and how wide."""


class RowBoard:
    """So many rows of V float32 logits."""

    def __init__(self, name: str, file: int) -> None:
        """Take over an open file. Raises a `ValueError` where it is no board."""
        self.name = name
        size = os.fstat(file).st_size
        try:
            if size < HEAD:
                raise ValueError(f"{name} is no board")
            memory = mmap.mmap(file, size)
        finally:
            os.close(file)
        rows, width = (int(number) for number in np.frombuffer(memory, np.int64, 2))
        if rows < 1 or width < 1 or size != _bytes(rows, width):
            raise ValueError(f"{name} is no board")
        self.stamps_N: NDArray[np.int64] = np.frombuffer(memory, np.int64, rows, HEAD)
        self.logits_NV: NDArray[np.float32] = np.frombuffer(
            memory, np.float32, rows * width, HEAD + _stamps(rows)
        ).reshape(rows, width)

    @classmethod
    def create(cls, rows: int, width: int) -> RowBoard:
        name = secrets.token_hex(16)
        file = os.open(_path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.truncate(file, _bytes(rows, width))
        os.pwrite(file, np.array([rows, width], np.int64).tobytes(), 0)
        return cls(name, file)

    @classmethod
    def find(cls, name: object) -> RowBoard | None:
        """The board of a name; ``None`` where there is none."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            return None
        try:
            return cls(name, os.open(_path(name), os.O_RDWR | os.O_NOFOLLOW))
        except (OSError, ValueError):
            return None

    def forget_name(self) -> None:
        """Let nobody else find it. Whoever has it keeps it; the memory is free when all have ended."""
        with contextlib.suppress(OSError):
            _path(self.name).unlink()

    @property
    def rows(self) -> int:
        return len(self.stamps_N)

    @property
    def width(self) -> int:
        """V."""
        return int(self.logits_NV.shape[1])

    def has(self, row: int, count: int, ticket: int) -> bool:
        """Whether these rows were written for this ticket."""
        return bool((self.stamps_N[row : row + count] == ticket).all())

    def write(self, row: int, logits_NV: NDArray[Any], ticket: int) -> None:
        end = row + len(logits_NV)
        self.logits_NV[row:end] = logits_NV
        self.stamps_N[row:end] = ticket


def _path(name: str) -> Path:
    shared = Path("/dev/shm")
    return (shared if shared.is_dir() else Path(tempfile.gettempdir())) / f"unisono-{name}"


def _stamps(rows: int) -> int:
    return -(-rows * 8 // HEAD) * HEAD


def _bytes(rows: int, width: int) -> int:
    return HEAD + _stamps(rows) + rows * width * 4
