"""From the service to the wire: what the answers to chats and to completions share."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Literal

from unisono.engine.request import Ended, Event, Failed, Wrote
from unisono.records import Finish, Generation, StepRecord
from unisono.server.request_handle import RequestHandle
from unisono.server.requests import ApiCall
from unisono.server.schemas import CompletionUsage, TextReport

REASONS: dict[Finish, Literal["stop", "length"]] = {
    "end": "stop",
    "stop": "stop",
    "length": "length",
    "context": "length",
}


class Answer:
    """The answer to one call, as it comes into being; a subclass knows the form of its kind."""

    prefix: str

    def __init__(self, call: ApiCall) -> None:
        self.call = call
        self.n, self.trace_wanted = call.requests[0].n, call.requests[0].trace
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.ended: dict[int, Generation] = {}
        """By choice."""

    def take(self, place: int, event: Event) -> list[bytes]:
        """Note an event of the order of some place; return the chunks that tell it."""
        if isinstance(event, Failed):
            return []
        index = place * self.n + event.index
        if isinstance(event, Ended):
            self.ended[index] = event.generation
        return list(self.chunks(index, place, event)) if self.call.stream else []

    def chunks(self, index: int, place: int, event: Wrote | Ended) -> Iterator[bytes]:
        """The chunks that tell an event of a choice."""
        raise NotImplementedError

    def last_chunk(self) -> bytes:
        """The usage, in a chunk without choices."""
        raise NotImplementedError

    def whole(self) -> bytes:
        """The answer, when all has ended."""
        raise NotImplementedError

    @property
    def usage(self) -> CompletionUsage:
        """Tokens of each prompt as the lead counts them, and pieces of all texts."""
        prompts = [self.ended[index] for index in sorted(self.ended) if index % self.n == 0]
        read = sum(generation.usage.prompt_tokens[self.call.lead] for generation in prompts)
        written = sum(generation.usage.pieces for generation in self.ended.values())
        return CompletionUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def report(self, index: int, generation: Generation, steps: Sequence[StepRecord] | None = None) -> TextReport:
        """What we tell of a choice beyond OpenAI's fields, at its end; in a stream, its steps were told before."""
        seconds = generation.seconds
        return TextReport(
            index=index,
            finish=generation.finish_reason,
            **({} if generation.seed is None else {"seed": generation.seed}),
            usage=generation.usage.to_json(),
            seconds={
                "total": round(seconds.total, 6),
                "first_piece": round(seconds.first_piece, 6),
                "members": {name: round(value, 6) for name, value in seconds.members.items()},
            },
            trace=self.trace(steps),
        )

    def trace(self, steps: Iterable[StepRecord] | None) -> list[dict[str, Any]] | None:
        """Steps as they are told, where they are asked for."""
        return [step.to_json() for step in steps] if self.trace_wanted and steps is not None else None

    @property
    def in_order(self) -> list[tuple[int, Generation]]:
        """All choices."""
        return sorted(self.ended.items())


async def answer_call(handle: RequestHandle, answer: Answer) -> AsyncIterator[bytes]:
    """Queue a call's requests; yield the chunks of its answer where it is streamed, else the whole answer.

    Raises:
        Refusal: it cannot be served, or fails.
    """
    call = answer.call
    await handle.begin(call.requests, call.constraint_field)
    async for place, event in handle.events():
        for chunk in answer.take(place, event):
            yield chunk
    if not call.stream:
        yield answer.whole()
    elif call.include_usage:
        yield answer.last_chunk()
