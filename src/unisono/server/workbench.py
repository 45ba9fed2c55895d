"""Constraints of clients are tried in other processes before this one compiles them; see `constraints.trial`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from unisono.config.constraint import JSON_OBJECT, Constraint
from unisono.constraints.trial import PROCESSOR_SECONDS
from unisono.errors import SpecError
from unisono.server.errors import no_process, shutting_down
from unisono.server.telemetry import say

SHORT = 4096
"""Characters up to which a constraint is tried by a process that longer ones do not use."""
KNOWN = 1024
"""Constraints that are remembered as tried."""
PATIENCE = 20.0
"""Seconds after which a process has to have answered, on a machine however busy."""
LIMITS = ("SIGPROF", "SIGSEGV", "SIGBUS", "SIGABRT")
"""The signals that end a process whose constraint takes too much time, stack or memory."""
TOO_COSTLY = (
    "the constraint cannot be compiled within "
    f"{PROCESSOR_SECONDS:g} s of processor time, or needs too much memory or too deep a stack",
    "make it simpler: fewer or shorter rules, fewer repetitions, less nesting",
)

Failure = tuple[str, str | None]
"""The message and the hint of an error."""


class Workbench:
    """Two processes, one for short constraints and one for long ones; each is started when it is first needed."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._trials = {short: _Trial(patience) for short in (True, False)}
        self._tried: OrderedDict[bytes, Failure | None] = OrderedDict()
        """By what tells a constraint from any other: its source can be as long as a request."""

    async def try_constraint(self, constraint: Constraint) -> None:
        """Return once it is known that a constraint compiles at a bounded cost. Raises a `SpecError` or a `Refusal`."""
        if constraint.kind == JSON_OBJECT:
            return
        line = json.dumps([constraint.kind, constraint.source])
        key = hashlib.sha256(line.encode()).digest()
        if key in self._tried:
            self._tried.move_to_end(key)
            failure = self._tried[key]
        else:
            failure, lasts = await self._trials[len(line) <= SHORT].ask(line)
            if lasts:
                self._tried[key] = failure
            if len(self._tried) > KNOWN:
                self._tried.popitem(last=False)
        if failure is not None:
            message, hint = failure
            raise SpecError(message, hint=hint)

    def close(self) -> None:
        """End the processes."""
        for trial in self._trials.values():
            trial.close()


class _Trial:
    """One of the processes, and the thread that talks to it: those who ask wait for one another, in order."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unisono-trial")
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def ask(self, line: str) -> tuple[Failure | None, bool]:
        """The error that comes of a constraint, if one does, and whether the same would come of it again."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, line.encode() + b"\n")

    def _ask(self, line: bytes) -> tuple[Failure | None, bool]:
        """Ask a process. Where it ends and no limit says why, a fresh one is asked: the constraint may be innocent."""
        for last in (False, True):
            found, late = self._answer(line)
            if found.endswith(b"\n"):  # which counts, even if the process is killed for its lateness now
                answer = json.loads(found)
                return None if answer is None else (answer[0], answer[1]), True
            status = self._end()
            if self._closed:
                raise shutting_down()
            say("trial", ended=status, late=late or None, characters=len(line))
            if last and status == 1:  # Python's own: it does not start, or has a bug
                raise no_process("it ends with status 1")
            if late or status in _statuses(LIMITS) or last:
                return TOO_COSTLY, status not in _statuses(("SIGKILL",))
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
            found = process.stdout.readline()
        clock.cancel()
        return found, late.is_set()

    def _alive(self) -> subprocess.Popen[bytes]:
        """The process, or another one where it has ended since. Raises a `Refusal`."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._closed:
            raise shutting_down()
        if self._process is None:
            try:
                self._process = _start()
            except OSError as error:
                raise no_process(error.strerror or "") from error
        return self._process

    def _end(self) -> int | None:
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
        """End the process, and refuse what waits for it."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        self._thread.submit(self._end)
        self._thread.shutdown(wait=False)


def _statuses(names: tuple[str, ...]) -> list[int]:
    """The statuses of processes that signals ended, where the system has them."""
    return [-getattr(signal, name) for name in names if hasattr(signal, name)]


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "unisono.constraints.trial"],  # -P: no module of the current folder is run
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the server to handle
    )
