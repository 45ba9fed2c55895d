"""Requests to where a member lives, whatever carries them: time-outs, retries, and who is believed to be away.

What a request asks for is the same when it is sent twice, so a lost one is sent again. Every failure is a
`MemberUnavailable`; none of them, and no log, holds a key.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from unisono.backends.endpoint import portal
from unisono.backends.wire import Buffer
from unisono.errors import MemberUnavailable

T = TypeVar("T")

ANSWER_BYTES = 16 << 20
"""The longest answer that is read, unless a caller expects a longer one."""
_QUOTED = 200  # characters of an answer that a message shows
_PAUSE = 0.1  # seconds before the first retry where the other side names none; each later one doubles it
_AWAY, _SPARED, _LONGEST_AWAY = 1.0, 9.0, 60.0
"""Seconds for which one that was lost is believed to be away: times what that cost, within bounds."""
_BUSY = (408, 425, 429, 502, 503, 504)
_PROBED = (*(status for status in range(200, 500) if status not in _BUSY), 501)

_deadline: ContextVar[float] = ContextVar("deadline")


class Unreached(MemberUnavailable):
    """Nothing answers there, or what answers is busy or still loads its model: that may pass."""

    status: int | None = None
    """What it answered; ``None`` for nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: Buffer


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """A request, as it is sent."""

    method: str
    path: str
    content: bytes | None
    headers: Mapping[str, str]
    limit: int
    """Bytes of the longest answer that is read."""
    accepted: tuple[int, ...]
    """Statuses of answers that are no failures."""


class Caller(ABC):
    """Asks one address for one member."""

    def __init__(self, member: str, address: str, *, timeout: float, retries: int, key: str | None = None) -> None:
        """``key`` is shown to the other side, and to nobody else."""
        self.member = member
        self.address = address
        self.timeout = timeout
        self._retries = retries
        self._key = key
        self._started: set[Future[Any]] = set()
        self._lost: tuple[str, float] | None = None
        """Why nothing was heard from it lately, and until when that is believed to be so."""
        self.refusal = ""
        """What it has answered to the last request that was an attempt, and that it refused."""
        self.losses = 0
        """How often it was not there, or busy: it may be another engine then."""
        self._heard = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_started": set()}  # what runs, runs in this process

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None, began: float | None = None) -> T:
        """Run a coroutine on the endpoints' thread, within the member's time-out, and wait for it.

        Requests in it share that time, which may have begun before, at a time of `time.monotonic`. Raises a
        `MemberUnavailable` when it is over.
        """
        limit = self.timeout if timeout is None else timeout
        return portal.run(self._within(coroutine, limit, waits=True, began=began))

    def start(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> None:
        """Run a coroutine there without waiting. Its failures are nobody's."""
        future = portal.start(self._within(coroutine, timeout))
        self._started.add(future)
        future.add_done_callback(self._end)

    def _end(self, done: Future[Any]) -> None:
        self._started.discard(done)
        if not done.cancelled():
            done.exception()

    def stop(self) -> None:
        """End what was started and still runs."""
        for future in list(self._started):
            future.cancel()

    def check(self) -> None:
        """Raise a `MemberUnavailable` at once where the endpoint is known to be away."""
        lost = self._lost
        if lost is not None and (left := lost[1] - time.monotonic()) > 0:
            raise self.failed(lost[0], left)

    def hear(self) -> None:
        """Note that it answers."""
        self._lost = None
        self._heard = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since it was heard."""
        return time.monotonic() - self._heard

    def lose(self, reason: str, began: float) -> None:
        """Note that nothing was heard from it since ``began``, and why."""
        now = time.monotonic()
        self.losses += 1
        self._lost = reason, now + min(max(_AWAY, _SPARED * (now - began)), _LONGEST_AWAY)

    def failed(self, reason: str, retry_after: float | None = None, *, refused: bool = False) -> MemberUnavailable:
        """What is raised where the endpoint cannot be used for this reason; ``refused`` because it is another one."""
        reason = reason.replace(self._key, "…") if self._key else reason
        return MemberUnavailable(self.member, self.address, reason, retry_after=retry_after, refused=refused)

    def unreached(self, reason: str, retry_after: float | None = None) -> Unreached:
        """The same, where that may pass."""
        return Unreached(self.member, self.address, self.failed(reason).reason, retry_after=retry_after)

    async def get(self, path: str) -> Any:
        """The JSON that the endpoint answers at a path."""
        return self.read_json(await self.request("GET", path))

    async def probe(self, path: str, body: object = None) -> Any:
        """The JSON that the endpoint answers at a path; ``None`` where it knows none there.

        Gateways do not say 404 only of paths that they do not know: they redirect, or forbid them.
        """
        posted = None if body is None else self._post(path, body, ANSWER_BYTES, _PROBED)
        answer = await (posted or self.request("GET", path, accepted=_PROBED))
        try:
            return json.loads(bytes(answer.content)) if answer.status == 200 else None
        except (ValueError, RecursionError):
            return None

    async def post(self, path: str, body: object, limit: int = ANSWER_BYTES) -> Any:
        """Post JSON, and return the JSON of the answer."""
        return self.read_json(await self._post(path, body, limit, (200,)))

    async def attempt(self, path: str, body: object, limit: int = ANSWER_BYTES) -> Any:
        """The same, to find out what the endpoint takes; ``None`` where it refuses the request."""
        answer = await self._post(path, body, limit, (200, 400, 404, 405, 422, 501))
        if answer.status == 200:
            return self.read_json(answer)
        self.refusal = self._words_of(path, answer)
        return None

    async def _post(self, path: str, body: object, limit: int, accepted: tuple[int, ...]) -> Answer:
        content, headers = json.dumps(body, separators=(",", ":")).encode(), {"content-type": "application/json"}
        return await self.request("POST", path, content, headers, limit=limit, accepted=accepted)

    def read_json(self, answer: Answer) -> Any:
        try:
            return json.loads(bytes(answer.content), parse_constant=self._refuse_constant)
        except (ValueError, RecursionError):
            raise self.failed(f"it answers what is no JSON: {self._quoted(answer.content)}") from None

    async def request(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        limit: int = ANSWER_BYTES,
        accepted: tuple[int, ...] = (200,),
        answered: Answer | None = None,
    ) -> Answer:
        """One request, sent again where it is lost or the endpoint is busy. Other answers than accepted ones fail.

        It may have been ``answered`` once already.
        """
        request = EndpointRequest(method, path, content, headers or {}, limit, accepted)
        loop = asyncio.get_running_loop()
        deadline = _deadline.get(loop.time() + self.timeout)
        for attempt in range(self._retries + 1):
            if answered is not None and attempt == 0:
                failure = self.judge(request, answered)
            else:
                failure = await self.attempt_once(request)
            if isinstance(failure, Answer):
                return failure
            lost, wait = failure
            pause = _PAUSE * 2**attempt * random.uniform(0.5, 1) if wait is None else wait
            if attempt == self._retries or loop.time() + pause >= deadline:
                raise lost
            await asyncio.sleep(pause)
        raise AssertionError("a request ends with its last attempt")

    @abstractmethod
    async def attempt_once(self, request: EndpointRequest) -> Answer | tuple[MemberUnavailable, float | None]:
        """The answer, or why there is none and after how many seconds to try again. Raises what is not worth it."""
        ...

    def judge(self, request: EndpointRequest, answer: Answer) -> Answer | tuple[MemberUnavailable, float | None]:
        """What an answer is worth: the same as of `attempt_once`."""
        self.hear()
        status = answer.status
        if status in request.accepted:
            return answer
        wait = _retry_after(answer.headers.get("retry-after"))
        words = self._words_of(request.path, answer)
        if status in (401, 403):
            words += "; " + ("the key is not accepted" if self._key else "it wants a key: name its api_key_env")
        if status not in _BUSY:
            raise self.failed(words, wait)
        failure = self.unreached(words, wait)
        failure.status = status
        self.losses += 1
        return failure, wait

    async def _within(
        self, coroutine: Coroutine[Any, Any, T], timeout: float, *, waits: bool = False, began: float | None = None
    ) -> T:
        now = time.monotonic()
        began = now if began is None else began
        left = began + timeout - now
        _deadline.set(asyncio.get_running_loop().time() + left)
        try:
            async with asyncio.timeout(left):
                return await coroutine
        except TimeoutError:
            raise (self.late(began, timeout) if waits else self.unreached(_silence(timeout))) from None
        finally:
            coroutine.close()

    def late(self, began: float, timeout: float | None = None) -> MemberUnavailable:
        """What is raised where it has not answered in time, since a time of `time.monotonic`."""
        reason = _silence(self.timeout if timeout is None else timeout)
        self.lose(reason, began)
        return self.unreached(reason)

    def _words_of(self, path: str, answer: Answer) -> str:
        words = f"it answers {answer.status} at {path}: {self._quoted(answer.content)}"
        if 300 <= answer.status < 400 and (place := answer.headers.get("location", "").partition("?")[0]):
            words += f"; it redirects to {self._quoted(place.encode())}, and a key is for one address: name that as url"
        return words

    def _quoted(self, content: Buffer) -> str:
        """The beginning of an answer, without the key, of which a part might be left otherwise."""
        shown = bytes(content).replace(self._key.encode(), "…".encode()) if self._key else bytes(content[: 4 * _QUOTED])
        text = " ".join(shown[: 4 * _QUOTED].decode("utf-8", "replace").split())
        return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "…") if text else "an empty answer"

    def _refuse_constant(self, constant: str) -> None:
        raise self.failed(f"it answers {constant} where a number is expected")


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side; the first failure cancels the others, and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _retry_after(value: str | None) -> float | None:
    """Seconds, of a header that tells seconds or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _silence(timeout: float) -> str:
    return f"it has not answered within {timeout:g} s"
