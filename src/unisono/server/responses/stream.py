"""A call from its orders to its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from unisono.server.request_handle import RequestHandle
from unisono.server.requests import Job
from unisono.server.responses.answer import Answer


async def answer_call(call: RequestHandle, job: Job, answer: Answer) -> AsyncIterator[bytes]:
    """Put a job in line; yield its answer's chunks where it is streamed, or else the answer when it is complete.

    Raises:
        Refusal: it cannot be served, or fails.
    """
    await call.begin(job.orders)
    async for place, event in call.events():
        for chunk in answer.take(place, event):
            yield chunk
    if not job.stream:
        yield answer.whole()
    elif job.include_usage:
        yield answer.last_chunk()
