"""Memory in which a worker leaves rows for a client on the same machine: a row of a megabyte is not sent.

The worker makes it, of a size that nobody can change afterwards, and tells its process, its file, its name and its
size. A client that runs as the same user on the same kernel opens that file under ``/proc``, and only if it has that
name, which is random, and that size. Nobody opens a path that the other side writes, and nothing is left behind when a
process ends. Linux alone has it; elsewhere, and wherever the client cannot open it, rows are sent.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import sys
import weakref

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Array
from unisono.backends.wire import Frame, FrameError

LARGEST = 1 << 26
"""The most bytes of a memory. Its pages are taken as they are written."""
NAME = re.compile(r"unisono-rows-[0-9a-f]{32}")
POSSIBLE = sys.platform == "linux" and hasattr(os, "memfd_create")
if sys.platform == "linux":
    import fcntl

    _SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

Offer = tuple[int, int, str, int]
"""What the worker tells of a memory: its process, its file, its name and its size."""


class MadeMemory:
    """The worker's side, which writes."""

    def __init__(self, size: int) -> None:
        """Raises an `OSError`."""
        self.name = f"unisono-rows-{secrets.token_hex(16)}"
        self.size = size
        own = os.memfd_create(self.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(own, size)
            fcntl.fcntl(own, fcntl.F_ADD_SEALS, _SEALS)
            self._bytes = np.frombuffer(mmap.mmap(own, size), np.uint8)
        except BaseException:
            os.close(own)
            raise
        self.offer: Offer = os.getpid(), own, self.name, size
        self._end = weakref.finalize(self, os.close, own)

    def write(self, rows_NV: Array) -> None:
        """Leave rows, where there is room for them."""
        host_NV = rows_NV.detach().cpu() if hasattr(rows_NV, "detach") else rows_NV
        np.copyto(_rows(self._bytes, *rows_NV.shape), host_NV)

    def close(self) -> None:
        """A client that has opened it may still read it."""
        self._end()


class OpenedMemory:
    """The client's side, which reads."""

    def __init__(self, offer: object) -> None:
        """Raises an `OSError` or a `ValueError` where this machine and user have no such memory."""
        match offer:
            case [int(process), int(file), str(name), int(size)] if NAME.fullmatch(name) and 0 < size <= LARGEST:
                self.name = name
            case _:
                raise ValueError("this is no memory for rows")
        path = f"/proc/{process}/fd/{file}"
        if os.readlink(path) != f"/memfd:{name} (deleted)":
            raise ValueError("it has another name")
        own = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, own)
            if fcntl.fcntl(own, fcntl.F_GET_SEALS) & _SEALS != _SEALS or os.fstat(own).st_size != size:
                raise ValueError("it could be made shorter")
            self._bytes = np.frombuffer(mmap.mmap(own, size, prot=mmap.PROT_READ), np.uint8)

    def read(self, count: int, rows: int) -> NDArray[np.float32] | None:
        """So many rows over so many ids, until they are overwritten; ``None`` where it is too small for them."""
        return None if 4 * count * rows > len(self._bytes) else _rows(self._bytes, count, rows)


class ClientMemory:
    """The memory of one client of a worker, if they share one."""

    def __init__(self, near: bool) -> None:
        """``near`` says whether the worker may be on this machine."""
        self._possible = POSSIBLE and near
        self._opened: OpenedMemory | None = None

    @property
    def name(self) -> str | None:
        """What a call says of it: see `Call.memory`."""
        if not self._possible:
            return None
        return "" if self._opened is None else self._opened.name

    def read(self, frame: Frame, count: int, rows: int) -> NDArray[np.float32] | None:
        """The rows that an answer says are here; ``None`` where it holds them itself. Raises a `FrameError`.

        What the worker offers is opened for the next call, or, where that cannot be, nothing more is asked of it.
        """
        if self._possible and (offer := frame.head.get("offer")) is not None:
            try:
                self._opened = OpenedMemory(offer)
            except (OSError, ValueError):
                self._possible, self._opened = False, None
        if "memory" not in frame.head:
            return None
        if self._opened is None or frame.head["memory"] != self._opened.name or frame.head.get("rows") != rows:
            raise FrameError("its distributions are in a memory that is not shared, or over other ids")
        found = self._opened.read(count, rows)
        if found is None:
            raise FrameError("its distributions are said to be in a memory that is too small for them")
        return found


def _rows(memory: NDArray[np.uint8], count: int, rows: int) -> NDArray[np.float32]:
    return memory[: 4 * count * rows].view(np.float32).reshape(count, rows)
