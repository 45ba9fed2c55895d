"""A process beside the server for work that may take too much, or crash: asked a line, it answers a line.

It is started when it is first needed, ended when it is late, and replaced when it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from unisono.server.errors import no_process, shutting_down
from unisono.server.telemetry import say

LIMITS = ("SIGPROF", "SIGSEGV", "SIGBUS", "SIGABRT")
"""The signals that end a process whose work takes too much time, stack or memory."""


T = TypeVar("T")


class TooMuch(Exception):
    """A process ended at its limits."""

    def __init__(self, *, lasts: bool) -> None:
        """``lasts`` tells whether the same would come of the same line again."""
        super().__init__(f"lasts: {lasts}")
        self.lasts = lasts


class HelperProcess:
    """One process, and a thread for what has to do with it; one thread at a time asks."""

    def __init__(
        self,
        name: str,
        start: Callable[[], subprocess.Popen[bytes]],
        patience: float,
        longest: int = 2**16,
    ) -> None:
        """Start nothing yet.

        Args:
            name: for the log.
            start: starts a process.
            patience: seconds for an answer, on a machine however busy.
            longest: bytes of an answer.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"unisono-{name}")
        self._name = name
        self._longest = longest
        self._start = start
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def run(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Do some work in the thread, behind what waits for that. Raises a `Refusal` where it is closed."""
        try:
            return asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except RuntimeError:
            raise shutting_down() from None

    def exchange(self, line: bytes) -> Any:
        """What the process answers to a line, in JSON.

        Where it ends and no limit says why, a fresh one is asked: the line may be innocent.

        Raises:
            TooMuch: the line takes more than the process may.
            Refusal: no process can work.
        """
        for last in (False, True):
            found, late = self._answer(line)
            if found.endswith(b"\n"):  # which counts, even if the process is killed for its lateness now
                return json.loads(found)
            status = self.end()
            if self._closed:
                raise shutting_down()
            say(self._name, ended=status, late=late or None, characters=len(line))
            if last and status == 1:  # Python's own: it does not start, or has a bug
                raise no_process("it ends with status 1")
            if late or status in _statuses(LIMITS) or last:
                raise TooMuch(lasts=status not in _statuses(("SIGKILL",)))
        raise AssertionError

    def _answer(self, line: bytes) -> tuple[bytes, bool]:
        """What a process says of a line, and whether it was killed for its lateness."""
        process = self._alive()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        found, clock = b"", threading.Timer(self._patience, give_up)
        clock.start()
        with contextlib.suppress(OSError):
            process.stdin.write(line)
            process.stdin.flush()
            found = process.stdout.readline(self._longest)
        clock.cancel()
        return found, late.is_set()

    def _alive(self) -> subprocess.Popen[bytes]:
        """The process, or another one where it has ended since. Raises a `Refusal`."""
        if self._process is not None and self._process.poll() is not None:
            self.end()
        if self._closed:
            raise shutting_down()
        if self._process is not None:
            return self._process
        try:
            self._process = self._start()
        except OSError as error:
            raise no_process(error.strerror or "") from error
        if self._closed:  # while it started: `close` may have seen none
            self.end()
            raise shutting_down()
        return self._process

    def end(self) -> int | None:
        """End the process, and return its status."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0 if self._closed else 1)  # one that ends by itself says why
        process.kill()
        with contextlib.suppress(OSError):  # what could not be written
            process.communicate()
        return process.returncode

    def close(self) -> None:
        """End the process at once, from any thread, and refuse what waits for it; harmless where it is closed."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with contextlib.suppress(RuntimeError):  # the thread has its last task
            self._thread.submit(self.end)
        self._thread.shutdown(wait=False)


def start_module(module: str) -> subprocess.Popen[bytes]:
    """Start a module of ours that reads stdin and writes stdout."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],  # -P: no module of the current folder is run
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the server to handle
    )


def _statuses(names: tuple[str, ...]) -> list[int]:
    """The statuses of processes that signals ended, where the system has them."""
    return [-getattr(signal, name) for name in names if hasattr(signal, name)]
