"""That work is bounded: its processor time, in seconds of an ordinary machine, however slow this one is now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

ORDINARY = 0.01
"""Seconds that an idle desktop takes for `_gauge`."""


@contextmanager
def at_once(seconds: float) -> Iterator[None]:
    """What is inside takes at most so long in this thread: for bounds that a fault passes many times over.

    Where it took longer, the machine is gauged, and the bound is stretched by as much as it is slower.
    """
    began = time.thread_time()
    yield
    taken = time.thread_time() - began
    if taken >= seconds:
        slower = _gauge() / ORDINARY
        assert taken < seconds * slower, f"{taken:.2f} s of processor time on a machine {slower:.1f} times as slow"


def _gauge() -> float:
    began = time.thread_time()
    for size in range(1, 31):
        _ = ["x" * 99 for _ in range(size * 1_000)]
    return time.thread_time() - began
