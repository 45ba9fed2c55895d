"""Chunks of one step enter an engine together, so that one pass reads them all.

An idle engine starts with the first chunk that arrives, and needs a second pass for the others. So a step's chunks are
held, in the engine's own loop, until all are there. Nothing is held for long: a timer lets go of a group that stays
incomplete.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

HELD_SECONDS = 0.05


class GroupName(NamedTuple):
    """Whose step it is, its number, and how many chunks it has."""

    owner: str
    number: int
    size: int


@dataclass(slots=True)
class _Group:
    timer: Any
    held: dict[str, Any] = field(default_factory=dict)
    """By request."""


class Groups:
    """All of it is called in the loop of one engine, but for the timers' ``overdue``."""

    def __init__(self, overdue: Callable[[GroupName], None], seconds: float = HELD_SECONDS) -> None:
        """``overdue`` is called in another thread; the loop is to `release` the group then."""
        self._overdue = overdue
        self._seconds = seconds
        self._groups: dict[GroupName, _Group] = {}

    def hold(self, name: GroupName, request: str, chunk: Any) -> Sequence[Any]:
        """Hold a chunk, or give all of its group where that is complete."""
        group = self._groups.get(name)
        if group is None:
            timer = threading.Timer(self._seconds, self._overdue, [name])
            timer.daemon = True
            group = self._groups[name] = _Group(timer)
            if name.size > 1:
                timer.start()
        group.held[request] = chunk
        return self.release(name) if len(group.held) >= name.size else ()

    def release(self, name: GroupName) -> Sequence[Any]:
        """Give what is held of a group, which may be gone already."""
        group = self._groups.pop(name, None)
        if group is None:
            return ()
        group.timer.cancel()
        return list(group.held.values())

    def drop(self, requests: Sequence[str]) -> None:
        """Forget chunks of requests that have ended; a group does not wait for them."""
        for name, group in list(self._groups.items()):
            for request in requests:
                group.held.pop(request, None)
            if not group.held:
                self.release(name)
