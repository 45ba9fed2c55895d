"""Requests to one endpoint: the only file that knows the HTTP library.

All endpoints share one pool of connections on one asyncio thread. What a request asks for is the same when it is sent
twice, so a lost one is sent again. Every failure is a `MemberUnavailable`; none of them, and no log, holds a key.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
import weakref
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from unisono.backends.endpoint import portal
from unisono.backends.endpoint.settings import EndpointSource
from unisono.errors import MemberUnavailable, SpecError

T = TypeVar("T")

ANSWER_BYTES = 16 << 20
"""The longest answer that is read, unless a caller expects a longer one."""
_QUOTED = 200  # characters of an answer that a message shows
_PAUSE = 0.1  # seconds before the first retry where the endpoint names none; each later one doubles it
_KEPT_SECONDS = 3.0  # servers drop idle connections after 5 s; a request on one of these is lost
_AWAY, _SPARED, _LONGEST_AWAY = 1.0, 9.0, 60.0
"""Seconds for which an endpoint that was lost is believed to be away: times what that cost, within bounds."""
_BUSY = (429, 502, 503, 504)

_deadline: ContextVar[float] = ContextVar("deadline")
_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncClient] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes


class Client:
    """Asks one endpoint for one member."""

    def __init__(self, member: str, source: EndpointSource, key: str | None = None) -> None:
        """``key`` is that of the environment, where none is given. Raises a `SpecError` where that lacks it."""
        self.member = member
        self.address = source.location
        self.timeout = source.timeout
        self._retries = source.retries
        self._key = _key_of(member, source.api_key_env) if key is None else key
        self._started: set[Future[Any]] = set()
        self._lost: tuple[str, float] | None = None
        """Why nothing was heard from it lately, and until when that is believed to be so."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_started": set()}  # what runs, runs in this process

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the endpoints' thread, within the member's time-out, and wait for it.

        Requests in it share that time. Raises a `MemberUnavailable` when it is over.
        """
        return portal.run(self._within(coroutine, self.timeout if timeout is None else timeout, waits=True))

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

    def _lose(self, reason: str, began: float) -> None:
        now = time.monotonic()
        self._lost = reason, now + min(max(_AWAY, _SPARED * (now - began)), _LONGEST_AWAY)

    @property
    def authorization(self) -> dict[str, str]:
        """The header that shows its key."""
        return {"authorization": f"Bearer {self._key}"} if self._key else {}

    def failed(self, reason: str, retry_after: float | None = None) -> MemberUnavailable:
        """What is raised where the endpoint cannot be used for this reason."""
        reason = reason.replace(self._key, "…") if self._key else reason
        return MemberUnavailable(self.member, self.address, reason, retry_after=retry_after)

    async def get(self, path: str) -> Any:
        """The JSON that the endpoint answers at a path."""
        return self.read_json(await self.request("GET", path))

    async def probe(self, path: str) -> Any:
        """The JSON that the endpoint answers at a path; ``None`` where it knows none there."""
        answer = await self.request("GET", path, accepted=(200, 400, 404, 405, 410, 501))
        try:
            return json.loads(answer.content) if answer.status == 200 else None
        except (ValueError, RecursionError):
            return None

    async def post(self, path: str, body: object, limit: int = ANSWER_BYTES) -> Any:
        """Post JSON, and return the JSON of the answer."""
        return self.read_json(await self._post(path, body, limit, (200,)))

    async def attempt(self, path: str, body: object, limit: int = ANSWER_BYTES) -> Any:
        """The same, to find out what the endpoint takes; ``None`` where it refuses the request."""
        answer = await self._post(path, body, limit, (200, 400, 404, 405, 422, 501))
        return self.read_json(answer) if answer.status == 200 else None

    async def _post(self, path: str, body: object, limit: int, accepted: tuple[int, ...]) -> Answer:
        content, headers = json.dumps(body, separators=(",", ":")).encode(), {"content-type": "application/json"}
        return await self.request("POST", path, content, headers, limit=limit, accepted=accepted)

    def read_json(self, answer: Answer) -> Any:
        try:
            return json.loads(answer.content, parse_constant=self._refuse_constant)
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
        loop = asyncio.get_running_loop()
        deadline = _deadline.get(loop.time() + self.timeout)
        for attempt in range(self._retries + 1):
            if answered is not None and attempt == 0:
                failure = self._judge(path, answered, accepted)
            else:
                failure = await self._try(method, path, content, headers or {}, limit, accepted)
            if isinstance(failure, Answer):
                return failure
            lost, wait = failure
            pause = _PAUSE * 2**attempt * random.uniform(0.5, 1) if wait is None else wait
            if attempt == self._retries or loop.time() + pause >= deadline:
                raise lost
            await asyncio.sleep(pause)
        raise AssertionError("a request ends with its last attempt")

    async def _try(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        limit: int,
        accepted: tuple[int, ...],
    ) -> Answer | tuple[MemberUnavailable, float | None]:
        """The answer, or why there is none and after how many seconds to try again. Raises what is not worth it."""
        own, began = self.authorization, time.monotonic()
        try:
            pool = _pool()
        except (ValueError, OSError, ImportError, httpx2.InvalidURL) as error:
            words = f"no connection can be made from here ({type(error).__name__})"
            raise self.failed(f"{words}: look at HTTP_PROXY, ALL_PROXY and SSL_CERT_FILE of the environment") from error
        try:
            async with pool.stream(
                method, self.address + path, content=content, headers={**headers, **own}
            ) as response:
                body = await self._read(response, limit)
        except httpx2.TransportError as error:
            reason = f"the connection fails at {path} ({_words(error)})"
            self._lose(reason, began)
            return self.failed(reason), None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise self.failed(f"{path} cannot be asked ({_words(error)})") from error
        return self._judge(path, Answer(response.status_code, response.headers, body), accepted)

    def _judge(
        self, path: str, answer: Answer, accepted: tuple[int, ...]
    ) -> Answer | tuple[MemberUnavailable, float | None]:
        self.hear()
        status = answer.status
        if status in accepted:
            return answer
        wait = _retry_after(answer.headers.get("retry-after"))
        words = f"it answers {status} at {path}: {self._quoted(answer.content)}"
        if status in (401, 403):
            words += "; " + ("the key is not accepted" if self._key else "it wants a key: name its api_key_env")
        failure = self.failed(words, wait)
        if status not in _BUSY:
            raise failure
        return failure, wait

    async def _read(self, response: httpx2.Response, limit: int) -> bytes:
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > limit:
                raise self.failed(f"its answer is longer than the {limit:,} bytes that were expected")
        return bytes(body)

    async def _within(self, coroutine: Coroutine[Any, Any, T], timeout: float, *, waits: bool = False) -> T:
        began = time.monotonic()
        _deadline.set(asyncio.get_running_loop().time() + timeout)
        try:
            async with asyncio.timeout(timeout):
                return await coroutine
        except TimeoutError:
            reason = f"it has not answered within {timeout:g} s"
            if waits:
                self._lose(reason, began)
            raise self.failed(reason) from None
        finally:
            coroutine.close()

    def _quoted(self, content: bytes) -> str:
        """The beginning of an answer, without the key, of which a part might be left otherwise."""
        shown = content.replace(self._key.encode(), "…".encode()) if self._key else content
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


def _pool() -> httpx2.AsyncClient:
    """The pool of the running loop. Redirects are not followed: a key is for one address."""
    loop = asyncio.get_running_loop()
    if loop not in _pools:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=_KEPT_SECONDS)
        # Time-outs are those of steps. What is compressed costs more than it saves.
        _pools[loop] = httpx2.AsyncClient(timeout=None, limits=limits, headers={"accept-encoding": "identity"})
    return _pools[loop]


def _key_of(member: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise SpecError(
            f"member {member!r}: the environment variable {variable!r}, which its api_key_env names, is not set",
            hint=f"set it to the endpoint's key, or leave api_key_env out where it wants none: export {variable}=…",
        )
    if not key.isascii() or not key.isprintable():
        raise SpecError(
            f"member {member!r}: the key in the environment variable {variable!r} holds characters that no header can",
            hint="set it to the endpoint's key, which is plain ASCII",
        )
    return key


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


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
