"""Which client has which slots of the model, and what each of them has read.

A client says of each of its slots all that it holds. What the model lacks of that is read, what it has beyond is
rewound; so a call that is made twice, or after its slot was lost, gives the same. Texts take turns where there are more
of them than slots. A client that is silent for too long loses its slots, and has only to ask again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Array, Backend, Feed, Slot
from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.worker_frames import Call
from unisono.backends.top_logprobs import TopLogprobs
from unisono.backends.truncated import top_logprobs
from unisono.worker.checks import check_questions
from unisono.worker.portions import joined, kept, portions_of

SESSIONS = 256
"""The most sessions at once; each has few bytes of its own."""
TURN = 2.0
"""Seconds that a client waits before it takes slots which another one uses."""


class NoRoom(Exception):
    """A call has no room for some seconds, and takes nothing."""

    def __init__(self, words: str, retry_after: float) -> None:
        super().__init__(words)
        self.retry_after = retry_after


class Superseded(Exception):
    """The client has given this call up: it has made another one since."""


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
    waits: float | None = None
    """Since when it has been told that there is no room."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a portion of a call may close for its slots: texts of its client that it does not ask about, and others'."""

    session: _Session
    asked: set[int]
    givers: Sequence[_Session]
    """The other clients whose slots it may take, the longest silent first."""


class Leases:
    """Drives a backend for several clients. One thread calls all of it, but `note` and `sessions`."""

    def __init__(self, backend: Backend, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``idle`` is how many seconds a session may be silent."""
        self._backend = backend
        self._idle = idle
        self._clock = clock
        self._sessions: dict[str, _Session] = {}

    def __contains__(self, session: str) -> bool:
        return session in self._sessions

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    @property
    def slots(self) -> int:
        """How many slots are leased."""
        return sum(len(session.leases) for session in list(self._sessions.values()))

    def note(self, call: Call) -> None:
        """A call has arrived, which waits: its session is not silent, and has given up whatever it asked before."""
        if (session := self._sessions.get(call.session)) is not None:
            session.number, session.used = max(session.number, call.number), self._clock()

    def answer(self, call: Call) -> tuple[Array | TopLogprobs, list[int]]:
        """The distributions that a call asks for, valid until the next call, and how much each slot has read now.

        Raises `NoRoom`, `Superseded`, or `InvalidCall` before anything is computed.
        """
        check_questions(call.questions, self._backend.facts)
        session = self._session(call.session)
        if call.number < session.number:
            raise Superseded
        session.number = call.number
        portions = portions_of(call.questions, self._backend.facts.slots)
        givers = self._givers(session, len(portions[0]))
        parts = []
        for portion in portions:
            turn = _Turn(session, {question.slot for question in portion}, givers)
            leases = [self._lease(turn, question) for question in portion]
            rows = self._advance(session, portion, leases)
            parts.append(rows if len(portions) == 1 else kept(rows))
        session.used = self._clock()
        return joined(parts), [len(question.ids) for question in call.questions]

    def leave(self, name: str, number: int, slots: Iterable[int] | None) -> None:
        """A client has no use for some of its slots, or all, unless it has asked something of them since."""
        session = self._sessions.get(name)
        if session is None:
            return
        session.number = max(session.number, number)  # what was asked before, and comes late, opens nothing anew
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
        session = self._sessions[name]
        for lease in (*session.leases.values(), *session.left):
            _take(session, lease)
            self._backend.close(lease.slot)
        del self._sessions[name]

    def _session(self, name: str) -> _Session:
        """The session of a client that asks; others may end by their silence."""
        if (session := self._sessions.get(name)) is not None:
            session.used = self._clock()
        self.expire()
        if name not in self._sessions:
            if len(self._sessions) >= SESSIONS:
                raise NoRoom(f"{SESSIONS} clients have sessions, the most this worker takes", self._soonest())
            self._sessions[name] = _Session(self._clock())
        return self._sessions[name]

    def _others(self, session: _Session) -> list[_Session]:
        """The other clients, the longest silent first."""
        return sorted((other for other in self._sessions.values() if other is not session), key=lambda each: each.used)

    def _givers(self, session: _Session, asked: int) -> list[_Session]:
        """The clients whose slots a call may take, so that it gets all that it needs. Raises `NoRoom`."""
        slots, now = self._backend.facts.slots, self._clock()
        waited = 0.0 if session.waits is None else now - session.waits
        others = self._others(session)
        givers = [other for other in others if max(waited, now - other.used) >= TURN]
        if asked + sum(len(other.leases) for other in others if other not in givers) > slots:
            session.waits = now - waited
            raise NoRoom(f"all {slots} slots of this worker are taken by its clients", TURN - waited)
        session.waits = None
        return givers

    def _lease(self, turn: _Turn, question: Question) -> _Lease:
        """The lease of a question's slot, which has read a part of what stands before, and nothing else."""
        session = turn.session
        before = np.asarray(question.ids[: question.held], np.int32)
        lease = session.leases.get(question.slot)
        own = 0 if lease is None else common(lease.read, before)
        if lease is None or own < len(before):
            beside = (other for other in (*session.leases.values(), *session.left) if other is not lease)
            best = max(beside, key=lambda other: common(other.read, before), default=None)
            if best is not None and common(best.read, before) > own:
                lease, own = self._copy(turn, question.slot, best), common(best.read, before)
            elif lease is None:
                self._make_room(turn, None)
                lease = session.leases[question.slot] = self._open(None)
        lease.number = session.number
        if own < lease.length:
            self._backend.rewind(lease.slot, own)
            lease.length = own
        return lease

    def _copy(self, turn: _Turn, slot: int, original: _Lease) -> _Lease:
        """Give a slot of a client a copy of another one, or, without room, that one itself."""
        session = turn.session
        if (own := session.leases.pop(slot, None)) is not None:
            session.left.insert(0, own)
        self._make_room(turn, original)
        if self._free > 0:
            lease = self._open(original)
        else:  # a call has room for what it asks about, and so for what it does not ask about no longer
            lease = original
            _take(session, lease)
        session.leases[slot] = lease
        return lease

    @property
    def _free(self) -> int:
        """How many slots of the model nobody has."""
        taken = sum(len(session.leases) + len(session.left) for session in self._sessions.values())
        return self._backend.facts.slots - taken

    def _open(self, original: _Lease | None) -> _Lease:
        slot = self._backend.open(None if original is None else original.slot)
        lease = _Lease(slot, np.empty(self._backend.facts.context, np.int32))
        if original is not None:
            lease.ids[: original.length], lease.length = original.read, original.length
        return lease

    def _make_room(self, turn: _Turn, original: _Lease | None) -> None:
        """Without a free slot, close one, if there is another one than that which is to be copied."""
        if self._free > 0:
            return
        for owner, lease in self._closable(turn):
            if lease is not original:
                _take(owner, lease)
                self._backend.close(lease.slot)
                return

    def _closable(self, turn: _Turn) -> Iterator[tuple[_Session, _Lease]]:
        """What was left first, then the client's own texts, then those of others; the longest unused first."""
        session = turn.session
        for owner in (*self._others(session), session):
            yield from ((owner, lease) for lease in owner.left)
        unasked = [lease for slot, lease in session.leases.items() if slot not in turn.asked]
        yield from ((session, lease) for lease in sorted(unasked, key=_number))
        for owner in turn.givers:
            yield from ((owner, lease) for lease in sorted(owner.leases.values(), key=_number))

    def _soonest(self) -> float:
        """Seconds until some session may end by its silence."""
        used = [session.used for session in self._sessions.values()]
        return max(1.0, min(used) + self._idle - self._clock())

    def _advance(self, session: _Session, questions: Sequence[Question], leases: list[_Lease]) -> Array | TopLogprobs:
        truncated = self._backend.facts.truncated is not None
        feeds = [
            Feed(lease.slot, _listed(question.ids[lease.length :]), question.wanted, *_told(question, truncated))
            for lease, question in zip(leases, questions, strict=True)
        ]
        try:
            rows = self._backend.advance(feeds)
        except BaseException:  # nobody knows what these have read
            for slot in [question.slot for question in questions]:
                self._backend.close(session.leases.pop(slot).slot)
            raise
        for lease, question in zip(leases, questions, strict=True):
            lease.ids[lease.length : len(question.ids)] = question.ids[lease.length :]
            lease.length = len(question.ids)
        if truncated or isinstance(rows, TopLogprobs) or not any(question.top for question in questions):
            return rows
        asked = [(question.top, question.also) for question in questions for _ in range(question.wanted)]
        return top_logprobs(rows, asked)


def _take(session: _Session, lease: _Lease) -> None:
    """Take a lease from a client."""
    if lease in session.left:
        session.left.remove(lease)
    else:
        del session.leases[next(slot for slot, each in session.leases.items() if each is lease)]


def _number(lease: _Lease) -> int:
    return lease.number


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
