"""Who is asked at all: a model that does not answer is left alone for a while, so that no step waits for it again.

A breaker is closed while its model answers. A `MemberUnavailable` opens it: nobody asks until its time has come. Then
it is half-open: the next pass is the question, and what becomes of that closes it or opens it for longer.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Literal

from unisono.errors import MemberUnavailable

log = logging.getLogger(__name__)

CircuitState = Literal["closed", "open", "half-open"]

FIRST = 1.0
"""Seconds before a lost model is asked again; doubled each time that it fails."""
LONGEST = 60.0
SPARED = 9.0
"""Times what a failure cost that are waited at least: so a dead model takes a tenth of the time."""
LATEST = 600.0
"""Seconds that a model is left alone at most, whatever it says or costs."""
RECENT = 16  # passes over which the latency is averaged, about


class CircuitBreaker:
    """What is known of how one loaded model answers. All engines over it share one, in one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pass_seconds: float | None = None
        """What a pass takes, lately; ``None`` before the first."""
        self.losses = 0
        self._clock = clock
        self._error: MemberUnavailable | None = None
        """Why it is away; ``None`` while it answers."""
        self._since = self._until = 0.0
        self._wait = FIRST

    @property
    def state(self) -> CircuitState:
        if self._error is None:
            return "closed"
        return "open" if self._clock() < self._until else "half-open"

    @property
    def asks(self) -> bool:
        """Whether the model may be asked now."""
        return self._error is None or self._clock() >= self._until

    @property
    def reason(self) -> str | None:
        """Where the model is, and why it does not answer; ``None`` while it does."""
        error = self._error
        return None if error is None else f"{error.address}: {error.reason}"

    @property
    def refused(self) -> bool:
        """Whether what answers in its place cannot be used."""
        return self._error is not None and self._error.refused

    @property
    def away_seconds(self) -> float:
        """Seconds since it was lost; 0 while it answers."""
        return 0.0 if self._error is None else self._clock() - self._since

    def error(self, member: str, *, because: str = "") -> MemberUnavailable:
        """What a request that needs a lost member fails with; it says when to come back."""
        last = self._error
        if last is None:
            raise AssertionError(f"member {member!r} is not away")
        left = max(0.0, self._until - self._clock())
        reason = f"{last.reason}; {because}" if because else last.reason
        return MemberUnavailable(member, last.address, reason, retry_after=left, refused=last.refused)

    def check(self, member: str) -> None:
        """Raise a `MemberUnavailable` while the model is not to be asked."""
        if not self.asks:
            raise self.error(member)

    @contextlib.contextmanager
    def asking(self, member: str, address: str) -> Iterator[None]:
        """Ask the model within the context, unless its breaker is open; note what becomes of it.

        Raises a `MemberUnavailable` where it does not answer; a `TimeoutError` is one.
        """
        self.check(member)
        began = self._clock()
        try:
            yield
        except MemberUnavailable as error:
            self.failed(member, error, self._clock() - began)
            raise
        except TimeoutError as error:
            lost = MemberUnavailable(member, address, f"it did not answer in time ({error or 'no more is known'})")
            self.failed(member, lost, self._clock() - began)
            raise lost from error
        self._answered(member, self._clock() - began)

    def _answered(self, member: str, seconds: float) -> None:
        if self._error is not None:
            log.info("member %r is back at %s after %.1f s", member, self._error.address, self.away_seconds)
            self._error, self._wait = None, FIRST
        before = seconds if self.pass_seconds is None else self.pass_seconds
        self.pass_seconds = before + (seconds - before) / RECENT

    def failed(self, member: str, error: MemberUnavailable, cost: float = 0.0) -> None:
        """Note that a member was lost, at the cost of so many seconds."""
        if error is self._error:
            return
        now = self._clock()
        if self._error is None:
            self.losses += 1
            self._since = now
        if self._error is None or self._error.reason != error.reason:
            how = "answers and is refused, so it stays away" if error.refused else "is away"
            log.warning("member %r %s: %s: %s", member, how, error.address, error.reason)
        self._error = error
        self._until = now + min(max(self._wait, SPARED * cost, error.retry_after or 0.0), LATEST)
        self._wait = min(2 * self._wait, LONGEST)
