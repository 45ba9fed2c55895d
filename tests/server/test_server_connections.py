"""Which connection makes room for another, and which is too slow: the rules, without sockets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unisono.errors import SpecError
from unisono.server import limits as limits_module
from unisono.server.errors import Refusal
from unisono.server.http.connections import Connection, Connections, Phase, network_of
from unisono.server.limits import ServerLimits, room_for_connections
from unisono.server.telemetry import Metrics

LIMITS = ServerLimits(connections=8, connections_per_address=8, headers=10, keep_alive=5, reading=30, sending=30)
"""Of eight connections, seven may have a request."""


class Crowd:
    """Connections of a server, by their numbers."""

    def __init__(self, limits: ServerLimits = LIMITS) -> None:
        self.all = Connections(limits, Metrics())
        self.ended: dict[int, Refusal | None] = {}
        self.unsent: dict[int, int] = {}
        self.each: list[Connection] = []

    def add(self, now: float, address: str = "a", phase: Phase = Phase.WAITING) -> Refusal | None:
        number = len(self.each)

        def end(refusal: Refusal | None) -> None:
            self.ended[number] = refusal

        connection = Connection(address, end, lambda: self.unsent.get(number, 0), lambda: False, now)
        self.each.append(connection)
        self.all.add(connection)
        if phase is not Phase.WAITING:
            self.all.starts(connection, now)
        refusal = None
        if phase is not Phase.WAITING:
            refusal = self.all.reads(connection, now)
        if phase is Phase.SERVED and refusal is None:
            self.all.serves(connection, now)
        return refusal


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


def test_the_one_that_has_waited_or_read_for_longest_makes_room(crowd: Crowd) -> None:
    for now, phase in enumerate([Phase.SERVED, Phase.READING, *[Phase.WAITING] * 6, Phase.WAITING, Phase.WAITING]):
        crowd.add(now, phase=phase)
    assert list(crowd.ended) == [1, 2]
    refusal = crowd.ended[1]
    assert refusal is not None
    assert refusal.status == 408
    assert len(crowd.all) == 8


def test_what_is_served_is_not_closed_and_health_has_an_answer(crowd: Crowd) -> None:
    for now in range(7):
        assert crowd.add(now, phase=Phase.SERVED) is None
    refusal = crowd.add(7, phase=Phase.READING)
    assert refusal is not None
    assert (refusal.status, refusal.retry_after) == (503, 1)
    assert crowd.ended == {}
    crowd.all.remove(crowd.each[7])
    crowd.add(8)
    assert crowd.all.reads(crowd.each[8], 8, always=True) is None


def test_an_address_has_its_own_part() -> None:
    crowd = Crowd(replace(LIMITS, connections_per_address=6))
    for now in range(5):
        assert crowd.add(now, "a", Phase.SERVED) is None
    assert crowd.add(5, "b", Phase.SERVED) is None
    refusal = crowd.add(6, "a", Phase.READING)
    assert refusal is not None
    assert "5 connections from one address have requests" in refusal.message
    assert crowd.ended == {}


def test_a_client_that_takes_nothing_makes_room_and_ends(crowd: Crowd) -> None:
    for _ in range(7):
        crowd.add(0, phase=Phase.SERVED)
    crowd.unsent = {0: 100, 1: 100}
    crowd.all.sweep(1)
    crowd.unsent[1] = 50
    crowd.all.sweep(2)
    assert crowd.add(3.5, phase=Phase.SERVED) is None
    assert list(crowd.ended) == [0]
    crowd.all.sweep(3)
    crowd.all.sweep(32.9)
    assert list(crowd.ended) == [0]
    crowd.all.sweep(33.1)
    assert list(crowd.ended) == [0, 1]


def test_heads_bodies_and_idle_connections_have_their_time(crowd: Crowd) -> None:
    crowd.add(0)
    crowd.add(0, phase=Phase.READING)
    crowd.add(0, phase=Phase.SERVED)
    crowd.all.waits(crowd.each[2], 0)
    crowd.add(0, phase=Phase.SERVED)
    crowd.all.waits(crowd.each[3], 0)
    crowd.all.starts(crowd.each[3], 4)
    for now, ended in [(4.9, []), (5.1, [2]), (9.9, [2]), (10.1, [2, 0]), (14.1, [2, 0, 3]), (31.1, [2, 0, 3, 1])]:
        crowd.all.sweep(now)
        assert list(crowd.ended) == ended
    statuses = {number: refusal and refusal.status for number, refusal in crowd.ended.items()}
    assert statuses == {2: None, 0: None, 3: 408, 1: 408}  # nothing to those that asked for nothing
    assert len(crowd.all) == 0
    assert crowd.all._groups == {}


def test_fewer_are_held_after_files_ran_out_and_more_again_later(crowd: Crowd) -> None:
    big = Crowd(replace(LIMITS, connections=100, connections_per_address=100))
    for now in range(50):
        big.add(now)
    big.all.no_files()
    assert list(big.ended) == list(range(8))
    big.add(50)
    assert len(big.all) == 42
    for now in range(100):
        big.all.sweep(now)
    assert big.all._all.most == 100


@pytest.mark.parametrize(
    ("files", "limits", "expected"),
    [
        (256, ServerLimits(), (192, 144)),
        (1024, ServerLimits(), (960, 720)),
        (10**6, ServerLimits(), (1024, 768)),
        (64, ServerLimits(), (32, 24)),
        (10**6, ServerLimits(connections=5000), (5000, 3750)),
        (256, ServerLimits(connections=10, connections_per_address=20), (10, 10)),
        (256, ServerLimits(connections=1), (1, 1)),
    ],
)
def test_the_limit_comes_from_the_files_that_may_be_open(
    monkeypatch: pytest.MonkeyPatch, files: int, limits: ServerLimits, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(limits_module, "_most_files", lambda: files)
    assert room_for_connections(limits) == expected
    with pytest.raises(SpecError, match=f"the limit connections is {files}"):
        room_for_connections(replace(limits, connections=files))


def test_an_address_is_what_one_client_has() -> None:
    assert network_of("10.1.2.3") == network_of("::ffff:10.1.2.3") == "10.1.2.3"
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2::9") != network_of("2001:db8:1:3::9")
    assert network_of("fe80::1%eth0") == network_of("fe80::2")
    assert network_of("not an address") == "not an address"
