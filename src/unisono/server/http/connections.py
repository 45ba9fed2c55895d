"""The connections of a server: how many there are, in all and of an address, and which one makes room for the next.

A connection waits (for the head of a request), reads (its body), or is served. One that waits or reads holds nobody up:
where there is no room for a new connection, the one is closed that has waited or read for longest. What is served is
never closed for another; a part of the room is kept from it, so that ``/health`` has an answer.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from unisono.server.errors import OVERLOADED, Refusal
from unisono.server.limits import ServerLimits, room_for_connections
from unisono.server.telemetry import ConnectionMetrics, say

LOG_SECONDS = 10.0
"""Between two log lines about connections that were closed or refused."""
KEPT = 32
"""The most connections that are kept free of requests other than ``/health`` and ``/ready``; else an eighth."""
RAISE_SECONDS = 1.0
"""Between two connections more, after the process had no more files."""
STUCK_SECONDS = 2.0
"""After so long, a connection whose client takes nothing of its answer makes room for others."""
FREED = 8
"""Connections that are closed, and no more opened for a while, when the process has no more files."""


class Phase(Enum):
    WAITING = auto()
    READING = auto()
    SERVED = auto()


@dataclass(eq=False, slots=True)
class Connection:
    """A connection as the limits see it."""

    address: str
    """See `network_of`."""
    end: Callable[[Refusal | None], None]
    """Closes the connection, after an answer if the client can still take one."""
    unsent: Callable[[], int]
    """Counts the bytes that the client has not taken."""
    closing: Callable[[], bool]
    since: float
    """When the phase began."""
    head: float = 0.0
    """When the head of a request began to arrive."""
    phase: Phase = Phase.WAITING
    idle: bool = False
    """Whether it has been served, and nothing of the next request has arrived."""
    begun: bool = False
    """Whether something of a request has arrived."""
    untaken: int = 0
    stuck: float | None = None
    """Since when the client has taken nothing of what there is for it."""


class _Group:
    """Some connections, those that began a phase earlier first, and the most that there may be."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.of: dict[Phase, dict[Connection, None]] = {phase: {} for phase in Phase}

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))

    @property
    def busy(self) -> int:
        """The most connections that may have a request."""
        return max(1, self.most - min(KEPT, max(1, self.most // 8)))

    @property
    def held(self) -> int:
        """How many have one."""
        return len(self.of[Phase.READING]) + len(self.of[Phase.SERVED])

    def oldest(self, *phases: Phase) -> Connection | None:
        first = (next(iter(self.of[phase]), None) for phase in phases)
        return min((each for each in first if each is not None), key=lambda each: each.since, default=None)

    def stuck(self, now: float) -> Connection | None:
        """The first that is served, but has taken nothing for a while."""
        served = self.of[Phase.SERVED]
        return next((each for each in served if each.stuck is not None and now - each.stuck > STUCK_SECONDS), None)


class Connections:
    """Counts connections and closes those for which there is no room, or that take too long."""

    def __init__(self, limits: ServerLimits, metrics: ConnectionMetrics) -> None:
        """Raises a `SpecError` if the process may not open as many files."""
        self._limits = limits
        self._most, self._of_address = room_for_connections(limits)
        self._all = _Group(self._most)
        self._groups: dict[str, _Group] = {}
        self._counter = metrics.connections_ended
        self._counts: Counter[str] = Counter()
        self._next_line = self._next_raise = 0.0
        self.over = False
        """Whether no new connection is taken."""
        metrics.connections.set_function(lambda: float(len(self)))

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Connection) -> None:
        """Take a new connection, and close others, or it, if there are too many."""
        if self.over:
            connection.end(None)
            return
        own = self._groups.get(connection.address)
        if own is None:
            own = self._groups[connection.address] = _Group(self._of_address)
        for group in (own, self._all):
            group.of[connection.phase][connection] = None
        self._make_room(own)
        self._make_room(self._all)

    def remove(self, connection: Connection) -> None:
        """Forget a connection. It may have been forgotten before."""
        if connection not in self._all.of[connection.phase]:
            return
        for group in self._groups_of(connection):
            del group.of[connection.phase][connection]
        if not len(self._groups[connection.address]):
            del self._groups[connection.address]

    def starts(self, connection: Connection, now: float) -> None:
        """Note that bytes have arrived: the head of the next request has its time from now on."""
        connection.begun = True
        if connection.idle:
            connection.idle, connection.head = False, now

    def reads(self, connection: Connection, now: float, *, always: bool = False) -> Refusal | None:
        """Note that a request begins. Returns the refusal if there are too many, unless it is ``always`` served."""
        self._move(connection, Phase.READING, now)
        for group in () if always else self._groups_of(connection):
            while group.held > group.busy:
                oldest = group.oldest(Phase.READING)
                if (oldest is None or oldest is connection) and (oldest := group.stuck(now)) is None:
                    self._count("refused")
                    return _too_many(group.busy, self._all.busy)
                self._end(oldest, "evicted", _too_slow(oldest))
        return None

    def serves(self, connection: Connection, now: float) -> None:
        """Note that a request has arrived whole."""
        self._move(connection, Phase.SERVED, now)

    def waits(self, connection: Connection, now: float) -> None:
        """Note that a request and its answer are complete."""
        self._move(connection, Phase.WAITING, now)
        connection.idle, connection.begun = True, False

    def sweep(self, now: float) -> None:
        """Close the connections that take too long, and log how many were closed."""
        for connection in list(self._each()):
            if (reason := self._late(connection, now)) is not None:
                self._end(connection, reason, _too_slow(connection))
        if self._counts and now >= self._next_line:
            say("connections", level=logging.WARNING, open=len(self), **self._counts)
            self._counts.clear()
            self._next_line = now + LOG_SECONDS
        if now >= self._next_raise:
            self._all.most = min(self._most, self._all.most + 1)
            self._next_raise = now + RAISE_SECONDS

    def end_reading(self, refusal: Refusal) -> None:
        """Refuse all requests whose bodies have not arrived."""
        for connection in list(self._all.of[Phase.READING]):
            self._end(connection, "shutdown", refusal)

    def no_files(self) -> None:
        """Close some connections, because the process cannot open a file more, and have fewer from now on."""
        self._count("no_files")
        self._all.most = max(1, min(self._all.most, len(self)) - FREED)
        self._make_room(self._all)

    def malformed(self) -> None:
        """Count a request that is not HTTP."""
        self._count("malformed")

    def _make_room(self, group: _Group) -> None:
        while len(group) > group.most and (oldest := group.oldest(Phase.WAITING, Phase.READING)) is not None:
            self._end(oldest, "evicted", _too_slow(oldest))

    def _late(self, connection: Connection, now: float) -> str | None:
        """Why a connection is closed; ``None`` if it is not."""
        limits, unsent = self._limits, connection.unsent()
        stopped = connection.closing() and connection.phase is Phase.SERVED  # it was given up, and all must end soon
        if not unsent or (unsent < connection.untaken and not stopped):
            connection.stuck = None
        elif connection.stuck is None:
            connection.stuck = now
        elif now - connection.stuck > limits.sending:
            return "stalled"
        connection.untaken = unsent
        if connection.phase is Phase.WAITING:
            if unsent:
                connection.head = connection.since = now
            reason, most = ("idle", limits.keep_alive) if connection.idle else ("slow_headers", limits.headers)
            return reason if now - max(connection.head, connection.since) > most else None
        # A second more, because whoever reads a body refuses it too, and says more.
        late = connection.phase is Phase.READING and now - connection.since > limits.reading + 1
        return "slow_body" if late else None

    def _end(self, connection: Connection, reason: str, refusal: Refusal | None) -> None:
        self.remove(connection)
        self._count(reason)
        connection.end(refusal)

    def _count(self, reason: str) -> None:
        self._counter.labels(reason).inc()
        if reason not in ("idle", "shutdown"):
            self._counts[reason] += 1

    def _move(self, connection: Connection, phase: Phase, now: float) -> None:
        if connection not in self._all.of[connection.phase]:  # it was closed
            return
        for group in self._groups_of(connection):
            del group.of[connection.phase][connection]
            group.of[phase][connection] = None
        connection.phase, connection.since, connection.idle = phase, now, False

    def _groups_of(self, connection: Connection) -> tuple[_Group, _Group]:
        return self._groups[connection.address], self._all

    def _each(self) -> Iterator[Connection]:
        return (connection for phase in Phase for connection in self._all.of[phase])


def network_of(host: str) -> str:
    """What counts as one address: of IPv6, the 64 bits that one client has to itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _too_slow(connection: Connection) -> Refusal | None:
    """The answer to a client whose request is not complete; none if it has not begun one."""
    if connection.phase is Phase.SERVED or not connection.begun:
        return None
    return Refusal(408, "the request did not arrive in time", code="request_timeout")


def _too_many(most: int, of_all: int) -> Refusal:
    whose = "of this server" if most == of_all else "from one address"
    words = f"{most} connections {whose} have requests, the most it takes; try again later"
    return Refusal(503, words, kind=OVERLOADED, code="too_many_connections", retry_after=1)
