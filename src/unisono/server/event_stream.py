"""Server-sent events: the chunks of an answer, and its last word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from unisono.server.errors import Refusal, refusal_of
from unisono.server.middleware import RequestLog
from unisono.server.responses import Answer
from unisono.server.telemetry import say, where

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
