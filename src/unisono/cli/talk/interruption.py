"""Ctrl-C while an answer is written: it stops the answer, and not the program."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def hearing(heard: Callable[[], bool]) -> Iterator[None]:
    """Let each Ctrl-C call ``heard``, which tells whether it raises a `KeyboardInterrupt` where the program is."""

    def hear(number: int, frame: FrameType | None) -> None:
        if heard():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
