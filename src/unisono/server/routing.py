"""FastAPI, and what every route of ours shares: its account, and the client that may leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect

from unisono.server.errors import Refusal
from unisono.server.middleware import ACCOUNT, RequestLog

__all__ = ["FastAPI", "Request", "Response", "StreamingResponse", "account_of", "accounted", "body_of", "unless_left"]

T = TypeVar("T")
"""What is waited for."""


def account_of(request: Request) -> RequestLog:
    """The account of a request."""
    account: RequestLog = request.scope[ACCOUNT]
    return account


def accounted(path: str, route: Callable[[Request], Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """A route that notes its path."""

    async def serve(request: Request) -> Response:
        account_of(request).path = path.replace(":path", "")
        return await route(request)

    return serve


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """The body of a request as it arrives. Raises a `Refusal` when the client leaves before it is whole."""
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise Refusal(499, "the client has left", code="left") from None


async def unless_left(request: Request, work: Awaitable[T]) -> T:
    """Await some work, and give it up when the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leave(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(499, "the client has left", code="left")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.gather(working, leaving, return_exceptions=True)


async def _leave(request: Request) -> None:
    """Return when the client has left; its request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
