"""Memory that a client and an actor of one node both map: answers of megabytes are written there once, and read there.

The client offers it with a call. An actor that cannot see it, because it stands on another node or belongs to another
user, answers by value. Ray's object store would copy the same bytes once more, and make fresh pages for them each time.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/dev/shm")
SIGN = 32
"""Random bytes at its beginning: those of the offer, where it is the same memory."""
START = 64
"""Where an answer begins."""
LEAST = 1 << 16
"""Bytes of an answer that is worth it."""
MOST = 1 << 26
"""Bytes of an answer for which memory is kept."""


@dataclass(frozen=True, slots=True)
class Offer:
    path: str
    sign: bytes


class Window:
    """The client's side. One answer at a time is in it."""

    def __init__(self, size: int) -> None:
        """Raises an `OSError` where there is no such memory, or not enough of it."""
        path = FOLDER / f"unisono-{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            os.posix_fallocate(descriptor, 0, START + size)  # a page that is missing later would end the process
            self._map = mmap.mmap(descriptor, START + size)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        sign = secrets.token_bytes(SIGN)
        self._map[:SIGN] = sign
        self.size = size
        self.offer = Offer(str(path), sign)

    def read(self, length: int) -> memoryview:
        """The answer, until there is another one."""
        return memoryview(self._map)[START : START + length]

    def close(self) -> None:
        """Take its name away; the memory goes with the last who reads it."""
        with contextlib.suppress(OSError):
            os.unlink(self.offer.path)


class Windows:
    """The actor's side: the memory that its clients have offered, as far as it can be seen from here."""

    KEPT = 64

    def __init__(self) -> None:
        self._maps: dict[Offer, mmap.mmap | None] = {}

    def write(self, offer: Offer, parts: Sequence[memoryview]) -> int | None:
        """Write an answer, and return its length; ``None`` where it cannot be written."""
        memory, length = self._map(offer), sum(map(len, parts))
        if memory is None or START + length > len(memory):
            return None
        at = START
        for part in parts:
            memory[at : at + len(part)] = part
            at += len(part)
        return length

    def _map(self, offer: Offer) -> mmap.mmap | None:
        if offer not in self._maps:
            if len(self._maps) >= self.KEPT:
                del self._maps[next(iter(self._maps))]
            self._maps[offer] = _mapped(offer)
        return self._maps[offer]


def _mapped(offer: Offer) -> mmap.mmap | None:
    try:
        with open(offer.path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
    except (OSError, ValueError):
        return None
    return memory if memory[:SIGN] == offer.sign else None
