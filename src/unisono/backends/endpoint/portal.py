"""One asyncio thread for all endpoints of a process. Any other thread runs coroutines on it, and waits."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""By process: a fork has none of its parent's threads."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. An exception in the thread that waits, such as Ctrl-C, cancels it."""
    future = start(coroutine)
    try:
        while True:
            try:
                return future.result(timeout=1)
            except TimeoutError:  # woken up so that Ctrl-C is heard on every system
                if future.done():
                    raise
    except BaseException:
        future.cancel()
        raise


def start(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine, and do not wait for it."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop())


def loop() -> asyncio.AbstractEventLoop:
    """The loop of this process, started when it is first wanted."""
    with _lock:
        own = _loops.get(os.getpid())
        if own is None:
            own = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=own.run_forever, name="unisono endpoints", daemon=True).start()
        return own
