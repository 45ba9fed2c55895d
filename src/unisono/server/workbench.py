"""Constraints of clients are tried in other processes before this one compiles them; see `constraints.trial`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from unisono.config.constraint import JSON_OBJECT, Constraint
from unisono.constraints.trial import PROCESSOR_SECONDS
from unisono.errors import SpecError

SHORT = 4096
"""Characters up to which a constraint is tried by a process that longer ones do not use."""
KNOWN = 1024
"""Constraints that are remembered as tried."""
PATIENCE = 20.0
"""Seconds after which a process has to have answered, on a machine however busy."""


class Workbench:
    """Two processes, one for short constraints and one for long ones; each is started when it is first needed."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._trials = {short: _Trial(patience) for short in (True, False)}
        self._tried: OrderedDict[Constraint, None] = OrderedDict()

    async def try_constraint(self, constraint: Constraint) -> None:
        """Return once it is known that a constraint compiles at a bounded cost. Raises a `SpecError`."""
        if constraint.kind == JSON_OBJECT:
            return
        if constraint in self._tried:
            self._tried.move_to_end(constraint)
            return
        line = json.dumps([constraint.kind, constraint.source])
        answer = await self._trials[len(line) <= SHORT].ask(line)
        if answer is not None:
            message, hint = answer
            raise SpecError(message, hint=hint)
        self._tried[constraint] = None
        if len(self._tried) > KNOWN:
            self._tried.popitem(last=False)

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

    async def ask(self, line: str) -> tuple[str, str | None] | None:
        """The error that comes of a constraint, if one does. A process that does not answer is replaced."""
        found = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, line.encode() + b"\n")
        if not found:
            return (
                "the constraint cannot be compiled within "
                f"{PROCESSOR_SECONDS:g} s of processor time, or needs too much memory or too deep a stack",
                "make it simpler: fewer or shorter rules, fewer repetitions, less nesting",
            )
        answer = json.loads(found)
        return None if answer is None else (answer[0], answer[1])

    def _ask(self, line: bytes) -> bytes:
        """The answer, or nothing."""
        process = self._process = self._process or _start()
        assert process.stdin is not None
        assert process.stdout is not None
        found, clock = b"", threading.Timer(self._patience, process.kill)
        clock.start()
        with contextlib.suppress(OSError):
            process.stdin.write(line)
            process.stdin.flush()
            found = process.stdout.readline()
        clock.cancel()
        if not found.endswith(b"\n"):
            self._end()
            return b""
        return found

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError):  # what could not be written
                process.communicate()

    def close(self) -> None:
        """End the process, and refuse what waits for it."""
        if (process := self._process) is not None:
            process.kill()
        self._thread.submit(self._end)
        self._thread.shutdown(wait=False)


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "unisono.constraints.trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the server to handle
    )
