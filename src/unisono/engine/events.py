"""What a service tells of a request, in the order in which it happens."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.engine.scheduler import RequestId
from unisono.records import Generation, StepRecord


@dataclass(frozen=True, slots=True)
class Wrote:
    """A text of a request goes on."""

    ticket: RequestId
    index: int
    """Which of the texts that were asked for, from 0 on."""
    text: str
    """What has become safe to show: whole characters, no stop string. Joined, they are the whole text."""
    steps: tuple[StepRecord, ...]
    """The steps since the last event of this text, where a trace was asked for. A piece may be in the steps of
    one event, and its characters in the text of a later one."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A text of a request has ended; after the last one nothing more comes of the request."""

    ticket: RequestId
    index: int
    generation: Generation


@dataclass(frozen=True, slots=True)
class Failed:
    """A request cannot go on; nothing more comes of it."""

    ticket: RequestId
    error: Exception
    """What a member's model raised, with a note that says which member; or a `RequestTimeout`."""


Event = Wrote | Ended | Failed
