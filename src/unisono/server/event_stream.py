"""Server-sent events: the chunks of an answer, and its last word."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from unisono.server.answer import Answer
from unisono.server.errors import Refusal, refusal_of
from unisono.server.middleware import LOG, RequestLog
from unisono.server.telemetry import say, where
from unisono.server.web import StreamingResponse

SLACK = 30.0
"""Seconds, beyond a request's time-out, in which the client has to take the rest of a stream."""


async def events_of(
    first: bytes, bodies: AsyncIterator[bytes], answer: Answer, log: RequestLog
) -> AsyncGenerator[bytes, None]:
    """The events of a stream, the last of which says that it is complete, or what is wrong."""
    try:
        yield answer.framed(first)
        async for body in bodies:
            yield answer.framed(body)
        if answer.end:
            yield answer.end
    except Exception as error:
        if not isinstance(error, Refusal):
            say("internal", level=40, id=log.id, error=where(error))
        refusal = refusal_of(error)
        log.facts |= {"error": refusal.code, "error_status": refusal.status}
        yield answer.failed(refusal)
    except (asyncio.CancelledError, GeneratorExit):
        log.facts["left"] = True
        raise


class EventStream(StreamingResponse):
    """Server-sent events. The call ends when the client leaves, or stops reading."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        left: contextlib.ExitStack,
        timeout: float,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(events, headers={"cache-control": "no-store", "x-accel-buffering": "no", **headers})
        self._events = events
        self._left = left
        self._timeout = timeout

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._left:
            try:
                async with asyncio.timeout(self._timeout):
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                say("stalled", level=30, id=scope[LOG].id)  # the client does not read: close the connection
            finally:
                await self._events.aclose()
