"""Who is served when: requests wait in line, are admitted, have their prompts read, are written, and end.

The scheduler only counts. It knows no tensors, no engine, no threads and no clock but the time it is told, so
that all it can come to is tried as a state machine (`tests/engine/test_scheduler.py`). A turn goes::

    admission = scheduler.admit(now)    # who has waited too long, and who begins
    scheduler.pending(request_id, ids)  # how much of each prompt is really to be read
    turn = scheduler.plan()             # whose prompts are read on, and who is written
    scheduler.pending(request_id, ids)  # what is left of them now
    scheduler.end(request_id)           # whoever is done, has failed or was cancelled; also between turns

First come, first served, without exception: a request that needs more slots than are free stands at the head of
the line and keeps those that come free until it has enough. So nobody is overtaken, and everybody waits for no
more than the requests that came before: each of these has a limit on what it writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType

from unisono.errors import QueueFull, SpecError

Model = int
"""Names a loaded model, as `Member.model` does."""
RequestId = NewType("RequestId", int)
"""A handle that `submit` gave; of two requests the one that came later has the larger one."""
Resource = tuple[Literal["slots", "ids"], Model]
"""What a model has a limited number of."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request takes up."""

    slots: Mapping[Model, int]
    """By model, those that each of its texts takes: as many as members share the model."""
    texts: int = 1
    """1, the width of a beam, or how many texts are drawn of one prompt."""
    prompt: Mapping[str, int] = field(default_factory=dict)
    """By member, the ids of its prompt: what is read before anything is written, as far as one knows before."""
    memory: Mapping[Model, int] = field(default_factory=dict)
    """By model, the ids that each of its texts comes to hold at most."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a turn begins with."""

    expired: tuple[RequestId, ...]
    """Requests whose time is over, whether they waited or were served; all they held is free again."""
    admitted: tuple[RequestId, ...]
    """Requests that have their slots and their memory from now on, in the order in which they came."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done in a turn."""

    read: Mapping[RequestId, int]
    """Ids to read on in prompts, or in what members have missed."""
    write: tuple[RequestId, ...]
    """Requests that are written on after that."""


@dataclass(slots=True)
class _Request:
    deadline: float | None
    texts: int
    """Those that it holds slots for, or waits for."""
    left: int
    """Ids that are still to be read before it is written."""
    each: Mapping[Resource, int]
    """What each of its texts takes."""


class Scheduler:
    """Gives out slots, memory and reading time. Not thread-safe: one thread drives it."""

    def __init__(
        self,
        slots: Mapping[Model, int],
        *,
        queue: int = 256,
        chunk: int = 256,
        memory: Mapping[Model, int] | None = None,
    ) -> None:
        """Begin with nobody in line.

        Args:
            slots: by model, how many it has.
            queue: how many requests may wait that cannot be admitted yet.
            chunk: ids of prompts that are read in a turn at most, of all requests and all members together: while
                they are read, nobody is written.
            memory: by model, how many ids all its slots may hold together; one that is not named is bounded by its
                slots alone.

        Raises:
            SpecError: one of them is less than 1.
        """
        for name, bounds in {
            "slots": slots.values(),
            "queue": [queue],
            "chunk": [chunk],
            "memory": (memory or {}).values(),
        }.items():
            if (bound := min(bounds, default=1)) < 1:
                raise SpecError(f"{name} is {bound}: it must be 1 or more", hint="nobody could ever be served")
        self._queue = queue
        self._chunk = chunk
        self._bounds: dict[Resource, int] = {
            **{("slots", model): bound for model, bound in slots.items()},
            **{("ids", model): bound for model, bound in (memory or {}).items()},
        }
        self.bounds_memory = bool(memory)
        """Whether the memory of any model is bounded."""
        self._line: dict[RequestId, _Request] = {}
        self._served: dict[RequestId, _Request] = {}
        self._last = 0

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return len(self._line)

    @property
    def served(self) -> int:
        """How many requests have their slots."""
        return len(self._served)

    @property
    def free(self) -> dict[Model, int]:
        """By model, slots that nobody has."""
        return {model: left for (kind, model), left in self._left().items() if kind == "slots"}

    @property
    def spare(self) -> dict[Model, int]:
        """By model whose memory is bounded, the ids that are set aside for nobody."""
        return {model: left for (kind, model), left in self._left().items() if kind == "ids"}

    def check(self, cost: Cost) -> None:
        """Refuse what could never be served. Raises a `SpecError`."""
        room = min(self._bounds["slots", model] // each for model, each in cost.slots.items())
        if not 1 <= cost.texts <= room:
            raise SpecError(
                f"the request needs slots for {cost.texts} texts, and there are slots for {room}",
                hint="ask for fewer texts or a narrower beam, or load with a larger batch",
            )
        for model, each in cost.memory.items():
            ids, bound = cost.texts * each, self._bounds.get(("ids", model))
            if bound is not None and ids > bound:
                raise SpecError(
                    f"the request may come to {ids} ids in the cache of a model that has room for {bound}",
                    hint="ask for less: a shorter prompt, fewer new tokens, fewer texts",
                )

    def submit(self, cost: Cost, *, deadline: float | None = None) -> RequestId:
        """Put a request at the end of the line.

        Args:
            cost: what it takes up.
            deadline: when it is given up, if it has not ended, by the clock that `admit` is told.

        Raises:
            SpecError: it could never be served.
            QueueFull: too many wait already.
        """
        self.check(cost)
        if len(self._line) - len(list(self._fitting())) >= self._queue:
            raise QueueFull(
                f"{len(self._line)} requests are waiting, and {self.served} are being served",
                hint="try again in a while",
            )
        self._last += 1
        request_id = RequestId(self._last)
        each: dict[Resource, int] = {("slots", model): count for model, count in cost.slots.items()}
        each |= {("ids", model): ids for model, ids in cost.memory.items()}
        self._line[request_id] = _Request(deadline, cost.texts, sum(cost.prompt.values()), each)
        return request_id

    def admit(self, now: float) -> Admission:
        """End what has run out of time, and give slots to those whose turn it is."""
        requests = {**self._served, **self._line}
        expired = [key for key, request in requests.items() if request.deadline is not None and request.deadline <= now]
        for request_id in expired:
            self.end(request_id)
        admitted = list(self._fitting())
        for request_id in admitted:
            self._served[request_id] = self._line.pop(request_id)
        return Admission(tuple(expired), tuple(admitted))

    def plan(self) -> Turn:
        """Share the turn's reading out, and say who is written after it.

        Half of the chunk is the oldest request's, so that a long prompt gets on at a sure rate whatever comes
        after it; the rest goes to those with the least to read, so that a short prompt does not wait for it.
        """
        reading = [request_id for request_id, request in self._served.items() if request.left]
        oldest, others = reading[:1], sorted(reading[1:], key=lambda request_id: self._served[request_id].left)
        half, whole = (self._chunk + 1) // 2, self._chunk
        read: dict[RequestId, int] = {}
        budget = whole
        for request_id, most in [(t, half) for t in oldest] + [(t, whole) for t in (*others, *oldest)]:
            had = read.get(request_id, 0)
            more = min(most, budget, self._served[request_id].left - had)
            if more:
                read[request_id] = had + more
                budget -= more
        write = [request_id for request_id, request in self._served.items() if request.left == read.get(request_id, 0)]
        return Turn(read, tuple(write))

    def pending(self, request_id: RequestId, ids: int) -> None:
        """Note how much is to be read before a request is written, or written on; 0 for nothing.

        Raises `KeyError` for one that is not being served.
        """
        self._served[request_id].left = ids

    def shrink(self, request_id: RequestId) -> None:
        """Take back the slots of one of several texts of a request, which has ended.

        Raises `KeyError` for one that is not being served.
        """
        request = self._served[request_id]
        if request.texts < 2:
            raise ValueError(f"request {request_id} has one text: end it")
        request.texts -= 1

    def end(self, request_id: RequestId) -> bool:
        """Forget a request that has ended, failed or been cancelled: all it held is free at once.

        Returns whether it was still there, in line or being served.
        """
        return (self._served.pop(request_id, None) or self._line.pop(request_id, None)) is not None

    def _fitting(self) -> Iterator[RequestId]:
        """Those at the head of the line who can have what they need now. The first who cannot holds back the rest."""
        left = self._left()
        for request_id, request in self._line.items():
            left = {key: count - request.texts * request.each.get(key, 0) for key, count in left.items()}
            if min(left.values(), default=0) < 0:
                return
            yield request_id

    def _left(self) -> dict[Resource, int]:
        taken = self._served.values()
        return {
            key: bound - sum(request.texts * request.each.get(key, 0) for request in taken)
            for key, bound in self._bounds.items()
        }
