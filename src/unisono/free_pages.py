"""Memory that is free, and that the C library keeps: it goes back to the system while a server runs, and with a model.

glibc gives back what lies at the end of its arenas, and no page below it. A large grammar is compiled in 100 MB, and a
small object that was made meanwhile keeps all of that: in ten minutes of the fuzzing kit, a server that used 50 MB more
than at its start held 270 MB more. Of two small models that were loaded and unloaded, 1.4 GB were kept.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

GROWTH = 32 * 2**20
"""Bytes by which the process has to have grown before it looks for free pages, which takes milliseconds."""


class FreePages:
    """Gives free pages back, where the C library can be told to (glibc)."""

    def __init__(self, held: Callable[[], int | None] | None = None, trim: Callable[[int], int] | None = None) -> None:
        """Without arguments, of this process: the bytes that it holds, and glibc's ``malloc_trim``."""
        self._held = held or _held
        self._trim = trim or _trim()
        self._after: int | None = None

    def give_back(self) -> bool:
        """Give free pages back if the process has grown since; whether it was tried. May be called in any thread."""
        held = None if self._trim is None else self._held()
        if self._trim is None or held is None:
            return False
        if self._after is not None and held - self._after < GROWTH:
            self._after = min(self._after, held)
            return False
        self._trim(0)
        self._after = self._held()
        return True


def _held() -> int | None:
    """The bytes of this process that are in memory; ``None`` where the system does not say so."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    import resource

    return pages * resource.getpagesize()


def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim  # calls it without the interpreter's lock
    except (OSError, AttributeError):
        return None
    return found


PROCESS = FreePages()
"""Those of this process."""
