"""Which client has which slots of the model, and what each of them has read.

A client says of each of its slots all that it holds. What the model lacks of that is read, what it has beyond is
rewound; so a call that is made twice, or after its slot was lost, gives the same. A client that is silent for too long
loses its slots, and has only to ask again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Array, Backend, Feed, Slot, TopLogprobs
from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.worker_frames import Call
from unisono.backends.truncated import top_logprobs

SESSIONS = 256
"""The most sessions at once; each has few bytes of its own."""
SLOTS = 4096
"""A client numbers its slots below this."""


class NoRoom(Exception):
    """All slots are taken; ``retry_after`` is ``None`` where waiting does not help."""

    def __init__(self, words: str, retry_after: float | None) -> None:
        super().__init__(words)
        self.retry_after = retry_after


class Superseded(Exception):
    """The client has given this call up: it has made another one since."""


class Misasked(ValueError):
    """A call that no model could answer."""


@dataclass(eq=False, slots=True)
class _Lease:
    """A slot of the model, and what it has read."""

    slot: Slot
    ids: NDArray[np.int32]
    length: int = 0
    number: int = 0
    """The last call that used it."""

    @property
    def read(self) -> NDArray[np.int32]:
        return self.ids[: self.length]


@dataclass(eq=False, slots=True)
class _Session:
    used: float
    number: int = 0
    """The latest call that has arrived."""
    leases: dict[int, _Lease] = field(default_factory=dict)
    left: list[_Lease] = field(default_factory=list)
    """What the client has no use for; kept, the latest last, while there is room, because copies may be made of it."""


class Leases:
    """Drives a backend for several clients. One thread calls all of it, but `note` and `sessions`."""

    def __init__(self, backend: Backend, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``idle`` is how many seconds a session may be silent."""
        self._backend = backend
        self._idle = idle
        self._clock = clock
        self._sessions: dict[str, _Session] = {}

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    @property
    def slots(self) -> int:
        """How many slots are leased."""
        return sum(len(session.leases) for session in list(self._sessions.values()))

    def note(self, call: Call) -> None:
        """A call has arrived, which waits: whatever its session asked before has been given up."""
        if (session := self._sessions.get(call.session)) is not None:
            session.number = max(session.number, call.number)

    def answer(self, call: Call) -> tuple[Array | TopLogprobs, list[int]]:
        """The distributions that a call asks for, valid until the next call, and how much each slot has read now.

        Raises `NoRoom`, `Superseded`, or `Misasked` before anything is computed.
        """
        self._check(call)
        self.expire()
        session = self._session(call.session)
        if call.number < session.number:
            raise Superseded
        session.used, session.number = self._clock(), call.number
        leases = [self._lease(session, question, call.number) for question in call.questions]
        rows = self._advance(session, call, leases)
        session.used = self._clock()
        return rows, [lease.length for lease in leases]

    def leave(self, name: str, number: int, slots: Iterable[int] | None) -> None:
        """A client has no use for some of its slots, or all, unless it has asked something of them since."""
        session = self._sessions.get(name)
        if session is None:
            return
        for slot in list(session.leases) if slots is None else slots:
            lease = session.leases.get(slot)
            if lease is not None and lease.number < number:
                session.left.append(session.leases.pop(slot))
        if slots is None and not session.leases:
            self._end(name)

    def expire(self) -> int:
        """End the sessions that have been silent for too long; return how many."""
        late = self._clock() - self._idle
        names = [name for name, session in self._sessions.items() if session.used <= late]
        for name in names:
            self._end(name)
        return len(names)

    def _end(self, name: str) -> None:
        session = self._sessions.pop(name)
        for lease in (*session.leases.values(), *session.left):
            self._backend.close(lease.slot)

    def _check(self, call: Call) -> None:
        facts, seen = self._backend.facts, set[int]()
        for question in call.questions:
            size = len(question.ids)
            if not 0 <= question.slot < SLOTS or question.slot in seen:
                raise Misasked(f"slot {question.slot} is asked twice, or is none of 0 … {SLOTS - 1}")
            seen.add(question.slot)
            if not 0 <= question.held < size or not 0 <= question.wanted <= size - question.held:
                raise Misasked(f"{question.wanted} rows are wanted of {size} ids, {question.held} of which are read")
            if size > facts.context:
                raise Misasked(f"slot {question.slot} is to hold {size} ids, and the context is {facts.context}")
            if np.max(question.ids) >= facts.rows:
                raise Misasked(f"slot {question.slot} is to read an id that the model's {facts.rows} rows do not have")
            if not 0 <= question.top <= facts.rows or not all(0 <= token < facts.rows for token in question.also):
                raise Misasked(f"more ids, or others, are to be told than the model's {facts.rows}")
        if len({question.top > 0 for question in call.questions}) > 1:
            raise Misasked("whole distributions and truncated ones are asked for in one call")

    def _session(self, name: str) -> _Session:
        if name not in self._sessions:
            if len(self._sessions) >= SESSIONS:
                raise NoRoom(f"{SESSIONS} clients have sessions, the most this worker takes", self._soonest(None))
            self._sessions[name] = _Session(self._clock())
        return self._sessions[name]

    def _lease(self, session: _Session, question: Question, number: int) -> _Lease:
        """The lease of a question's slot, which has read a part of what stands before, and nothing else."""
        before = np.asarray(question.ids[: question.held], np.int32)
        lease = session.leases.get(question.slot)
        own = 0 if lease is None else common(lease.read, before)
        if lease is None or own < len(before):
            best = max(self._others(session, lease), key=lambda other: common(other.read, before), default=None)
            if best is not None and common(best.read, before) > own:
                lease, own = self._copy(session, question.slot, best), common(best.read, before)
            elif lease is None:
                lease = session.leases[question.slot] = self._open(session, None)
        lease.number = number
        if own < lease.length:
            self._backend.rewind(lease.slot, own)
            lease.length = own
        return lease

    def _others(self, session: _Session, own: _Lease | None) -> Iterator[_Lease]:
        yield from (lease for lease in (*session.leases.values(), *session.left) if lease is not own)

    def _copy(self, session: _Session, slot: int, original: _Lease) -> _Lease:
        """Give a slot of a client a copy of another one, or, without room, that one itself if it was left."""
        if (own := session.leases.pop(slot, None)) is not None:
            session.left.insert(0, own)
        try:
            lease = self._open(session, original)
        except NoRoom:
            if original not in session.left:
                raise
            session.left.remove(original)
            lease = original
        session.leases[slot] = lease
        return lease

    @property
    def _free(self) -> int:
        """How many slots of the model nobody has."""
        taken = sum(len(session.leases) + len(session.left) for session in self._sessions.values())
        return self._backend.facts.slots - taken

    def _open(self, session: _Session, original: _Lease | None) -> _Lease:
        if self._free <= 0:
            self._make_room(session, original)
        slot = self._backend.open(None if original is None else original.slot)
        lease = _Lease(slot, np.empty(self._backend.facts.context, np.int32))
        if original is not None:
            lease.ids[: original.length], lease.length = original.read, original.length
        return lease

    def _make_room(self, session: _Session, kept: _Lease | None) -> None:
        """Close the slot that was left first. Raises `NoRoom`."""
        for other in sorted(self._sessions.values(), key=lambda each: (each is session, each.used)):
            for lease in other.left:
                if lease is not kept:
                    other.left.remove(lease)
                    self._backend.close(lease.slot)
                    return
        slots = self._backend.facts.slots
        if len(session.leases) >= slots:
            raise NoRoom(f"this client has all {slots} slots of the worker, and asks for one more", None)
        raise NoRoom(f"all {slots} slots of this worker are taken by its clients", self._soonest(session))

    def _soonest(self, session: _Session | None) -> float:
        """Seconds until some other session may end by its silence."""
        used = [other.used for other in self._sessions.values() if other is not session]
        return max(1.0, min(used, default=0.0) + self._idle - self._clock())

    def _advance(self, session: _Session, call: Call, leases: list[_Lease]) -> Array | TopLogprobs:
        truncated = self._backend.facts.truncated is not None
        feeds = [
            Feed(lease.slot, _listed(question.ids[lease.length :]), question.wanted, *_told(question, truncated))
            for lease, question in zip(leases, call.questions, strict=True)
        ]
        try:
            rows = self._backend.advance(feeds)
        except BaseException:  # nobody knows what these have read
            for slot in [question.slot for question in call.questions]:
                self._backend.close(session.leases.pop(slot).slot)
            raise
        for lease, question in zip(leases, call.questions, strict=True):
            lease.ids[lease.length : len(question.ids)] = question.ids[lease.length :]
            lease.length = len(question.ids)
        if truncated or isinstance(rows, TopLogprobs) or not any(question.top for question in call.questions):
            return rows
        asked = [(question.top, question.also) for question in call.questions for _ in range(question.wanted)]
        return top_logprobs(rows, asked)


def _told(question: Question, truncated: bool) -> tuple[int, Sequence[int]]:
    """What a truncated model is asked to tell; another one tells all."""
    return (question.top, question.also) if truncated else (0, ())


def _listed(ids: Sequence[int]) -> list[int]:
    found: list[int] = np.asarray(ids, np.int32).tolist()
    return found


def common(left: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    """The length of the common prefix."""
    size = min(len(left), len(right))
    differ = left[:size] != right[:size]
    return int(differ.argmax()) if differ.any() else size
