"""Constraints of clients are tried in other processes before this one compiles them; see `constraints.trial`."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections import OrderedDict

from unisono.config.constraint import JSON_OBJECT, Constraint
from unisono.constraints.trial import PROCESSOR_SECONDS
from unisono.errors import SpecError
from unisono.server.helper_process import HelperProcess, TooMuch, start_module

SHORT = 4096
"""Characters up to which a constraint is tried by a process that longer ones do not use."""
KNOWN = 1024
"""Constraints that are remembered as tried, by their SHA-256: one may be as long as a request."""
PATIENCE, PATIENCE_ALONE = 20.0, 5.0
"""Seconds after which a process has to have answered, on a machine however busy; and where the system has no timer that
bounds its processor time (Windows), so that this does."""
TOO_COSTLY = (
    "the constraint cannot be compiled within "
    f"{PROCESSOR_SECONDS:g} s of processor time, or needs too much memory or too deep a stack",
    "make it simpler: fewer or shorter rules, fewer repetitions, less nesting",
)

Failure = tuple[str, str | None]
"""The message and the hint of an error."""


class ConstraintTrials:
    """Two processes, one for short constraints and one for long ones; each is started when it is first needed."""

    def __init__(self, patience: float | None = None) -> None:
        timed = hasattr(signal, "setitimer")
        patience = (PATIENCE if timed else PATIENCE_ALONE) if patience is None else patience
        self._trials = {short: _Trial(patience) for short in (True, False)}
        self._tried: OrderedDict[bytes, Failure | None] = OrderedDict()

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


class _Trial(HelperProcess):
    """One of the processes. Its thread talks to it: those who ask wait for one another, in order."""

    def __init__(self, patience: float) -> None:
        super().__init__("trial", lambda: _start(), patience)

    async def ask(self, line: str) -> tuple[Failure | None, bool]:
        """The error that comes of a constraint, if one does, and whether the same would come of it again."""
        return await self.run(self._ask, line.encode() + b"\n")

    def _ask(self, line: bytes) -> tuple[Failure | None, bool]:
        try:
            answer = self.exchange(line)
        except TooMuch as error:
            return TOO_COSTLY, error.lasts
        return None if answer is None else (answer[0], answer[1]), True


def _start() -> subprocess.Popen[bytes]:
    return start_module("unisono.constraints.trial")
