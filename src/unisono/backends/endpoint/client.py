"""Requests to one endpoint over HTTP: the only file that knows the HTTP library.

All endpoints share a pool of connections on one asyncio thread; those of this machine have one that uses no proxy,
which could not reach them.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import time
import weakref

import httpx2

from unisono.backends.endpoint.caller import Answer, Caller, EndpointRequest
from unisono.backends.endpoint.proxies import is_here, is_proxied
from unisono.backends.endpoint.settings import EndpointSource
from unisono.errors import MemberUnavailable, SpecError

_KEPT_SECONDS = 3.0  # servers drop idle connections after 5 s; a request on one of these is lost

_Pools = dict[bool, httpx2.AsyncClient]
"""By whether their endpoints are on this machine."""
_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pools] = weakref.WeakKeyDictionary()


class Client(Caller):
    """Asks one endpoint for one member."""

    def __init__(self, member: str, source: EndpointSource, key: str | None = None) -> None:
        """``key`` is that of the environment, where none is given. Raises a `SpecError` where that lacks it."""
        key = _key_of(member, source.api_key_env) if key is None else key
        super().__init__(member, source.location, timeout=source.timeout, retries=source.retries, key=key)

    @property
    def authorization(self) -> dict[str, str]:
        """The header that shows its key."""
        return {"authorization": f"Bearer {self._key}"} if self._key else {}

    async def attempt_once(self, request: EndpointRequest) -> Answer | tuple[MemberUnavailable, float | None]:
        own, began = self.authorization, time.monotonic()
        try:
            pool = _pool(is_here(self.address))
        except (ValueError, OSError, ImportError, httpx2.InvalidURL) as error:
            words = f"no connection can be made from here ({type(error).__name__})"
            raise self.failed(f"{words}: look at HTTP_PROXY, ALL_PROXY and SSL_CERT_FILE of the environment") from error
        try:
            async with pool.stream(
                request.method, self.address + request.path, content=request.content, headers={**request.headers, **own}
            ) as response:
                body = await self._read(response, request.limit)
        except httpx2.TransportError as error:
            through = "; it is asked through a proxy of the environment, which NO_PROXY leaves out"
            reason = f"the connection fails at {request.path} ({_words(error)})" + through * is_proxied(self.address)
            self.lose(reason, began)
            return self.unreached(reason), None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise self.failed(f"{request.path} cannot be asked ({_words(error)})") from error
        return self.judge(request, Answer(response.status_code, response.headers, body))

    async def _read(self, response: httpx2.Response, limit: int) -> bytes:
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > limit:
                raise self.failed(f"its answer is longer than the {limit:,} bytes that were expected")
        return bytes(body)


def _pool(near: bool) -> httpx2.AsyncClient:
    """A pool of the running loop. Redirects are not followed: a key is for one address."""
    loop = asyncio.get_running_loop()
    pools = _pools.setdefault(loop, {})
    if near not in pools:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=_KEPT_SECONDS)
        transport = httpx2.AsyncHTTPTransport(limits=limits) if near else None
        # Time-outs are those of steps. What is compressed costs more than it saves.
        pools[near] = httpx2.AsyncClient(
            timeout=None, limits=limits, headers={"accept-encoding": "identity"}, transport=transport
        )
        atexit.register(_close, os.getpid(), loop, pools[near])
    return pools[near]


def _close(process: int, loop: asyncio.AbstractEventLoop, pool: httpx2.AsyncClient) -> None:
    """Close a pool's connections when its process ends, while its loop still runs."""
    if os.getpid() == process and loop.is_running():
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(pool.aclose(), loop).result(1)


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


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
