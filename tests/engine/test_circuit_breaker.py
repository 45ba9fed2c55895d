"""A circuit breaker: when a lost model is asked again, by a clock that stands still."""

from __future__ import annotations

import contextlib
import logging

import pytest

from unisono.engine.circuit_breaker import FIRST, LATEST, LONGEST, SPARED, CircuitBreaker
from unisono.errors import MemberUnavailable


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def fail(breaker: CircuitBreaker, clock: Clock, seconds: float = 0.0, retry_after: float | None = None) -> None:
    with contextlib.suppress(MemberUnavailable), breaker.asking("x", "here"):
        clock.now += seconds
        raise MemberUnavailable("x", "http://there", "refused", retry_after=retry_after)
    assert breaker.reason == "http://there: refused"


def answer(breaker: CircuitBreaker, clock: Clock, seconds: float = 0.0) -> None:
    with breaker.asking("x", "here"):
        clock.now += seconds


def wait_of(breaker: CircuitBreaker) -> float:
    return breaker.error("x").retry_after or 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock)


def test_nobody_asks_while_it_is_open_and_the_refusal_says_who_where_why_and_when(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, clock)
    clock.now += FIRST / 4
    assert (breaker.state, breaker.asks) == ("open", False)
    with pytest.raises(MemberUnavailable, match=r"'y' at http://there .* refused") as caught, breaker.asking("y", ""):
        pytest.fail("it was asked")
    assert caught.value.retry_after == pytest.approx(0.75 * FIRST)


def test_one_answer_after_the_wait_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, clock)
    clock.now += FIRST
    assert (breaker.state, breaker.asks) == ("half-open", True)
    answer(breaker, clock, 0.5)
    assert (breaker.state, breaker.pass_seconds, breaker.reason, breaker.losses) == ("closed", 0.5, None, 1)
    fail(breaker, clock)
    assert wait_of(breaker) == FIRST  # anew


def test_each_failure_doubles_the_wait_up_to_a_bound(breaker: CircuitBreaker, clock: Clock) -> None:
    waits = []
    for _ in range(9):
        fail(breaker, clock)
        waits.append(wait_of(breaker))
        clock.now += waits[-1]
    assert waits[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert waits[-2:] == [LONGEST, LONGEST]


def test_a_dead_model_takes_a_tenth_of_the_time_at_most(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, clock, seconds=5.0)
    assert wait_of(breaker) == 5.0 * SPARED


@pytest.mark.parametrize(("told", "waited"), [(90.0, 90.0), (0.2, FIRST), (1e9, LATEST)])
def test_a_model_that_says_when_to_come_back_is_not_asked_before(
    told: float, waited: float, breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, clock, retry_after=told)
    assert wait_of(breaker) == waited


def test_a_time_out_is_a_loss_and_other_faults_are_none(breaker: CircuitBreaker) -> None:
    with pytest.raises(RuntimeError), breaker.asking("x", "here"):
        raise RuntimeError("out of memory")
    assert breaker.state == "closed"
    with pytest.raises(MemberUnavailable, match=r"'x' at here .* in time"), breaker.asking("x", "here"):
        raise TimeoutError
    assert breaker.state == "open"


def test_a_loss_and_a_return_are_logged_once(
    breaker: CircuitBreaker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unisono")
    for _ in range(3):
        fail(breaker, clock)
        clock.now += LONGEST
    for _ in range(3):
        answer(breaker, clock)
    assert [record.getMessage() for record in caplog.records] == [
        "member 'x' is away: http://there: refused",
        f"member 'x' is back at http://there after {3 * LONGEST:.1f} s",
    ]
