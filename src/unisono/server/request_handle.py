"""One client's call: the requests it makes of the service, and what it is told of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unisono.chat.messages import Prompt, content_of
from unisono.config.constraint import Constraint
from unisono.config.method import Method
from unisono.engine.request import Event, Failed, PreparedRequest, Wrote
from unisono.engine.scheduler import RequestId
from unisono.errors import BackendMissing, PromptError, SpecError
from unisono.records import Limits
from unisono.server.errors import Refusal, refusal_of

if TYPE_CHECKING:
    from unisono.server.async_engine import AsyncEngine
    from unisono.server.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Order:
    """What one request asks the service for; see `Service.prepare`."""

    model: str
    prompt: Prompt
    limits: Limits
    method: Method
    n: int = 1
    trace: bool = False
    likeliest: int = 0
    constraint: Constraint | None = None
    constrained_by: str = "unisono.constraint"
    """The field that says so."""


class RequestHandle:
    """A call under way; made by `AsyncEngine.call`. A list of prompts makes it several requests."""

    def __init__(self, bridge: AsyncEngine, metrics: Metrics) -> None:
        self.tickets: list[RequestId] = []
        self.orders: Sequence[Order] = ()
        self.began = time.perf_counter()
        self.first_piece: float | None = None
        """Seconds until something of the answer was there."""
        self._bridge = bridge
        self._metrics = metrics
        self._events: asyncio.Queue[tuple[int, Event] | Exception] = asyncio.Queue()
        self._running: dict[RequestId, int] = {}
        """Requests that have not ended, and how many of their texts have not."""
        self._told: dict[tuple[RequestId, int], float] = {}
        """By text, when something of it was told last."""

    async def begin(self, orders: Sequence[Order]) -> None:
        """Examine the orders and put them in line.

        Raises:
            Refusal: they cannot be served, or not now.
        """
        self.orders = orders
        limits = self._bridge.limits
        try:
            async with asyncio.timeout(limits.timeout):
                if len(orders) > (most := self._bridge.service.queue):
                    words = f"the prompt is a list of {len(orders)}, and this server lets {most} wait at most"
                    raise Refusal(400, words, param="prompt", code="invalid_value")
                for order in orders:
                    limits.check_characters("prompt", _characters(order.prompt))
                asked = [await self._prepare(order) for order in orders]
                for one in asked:
                    _check_length(one, limits.prompt)
                await self._bridge.submit(self, asked)
        except TimeoutError:
            raise Refusal(504, "the request took too long to begin", kind="timeout_error", code="timeout") from None
        except Exception as error:
            raise refusal_of(error, param=_blamed(error, orders[0]), retry_after=self._bridge.retry_after) from error

    async def _prepare(self, order: Order) -> PreparedRequest:
        try:
            return await self._bridge.prepare(order)
        except (SpecError, BackendMissing) as error:
            if order.constraint is not None:
                await self._bridge.prepare(replace(order, constraint=None))  # if that can be served, it is to blame
                raise refusal_of(error, param=order.constrained_by) from error
            raise

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """What happens to the requests: the number of the order, and the event, until all have ended.

        Raises:
            Refusal: one of them failed; nothing more comes of any.
        """
        while self._running or not self._events.empty():
            told = await self._events.get()
            if isinstance(told, Exception):
                raise refusal_of(told, retry_after=self._bridge.retry_after) from told
            yield told

    def model(self, ticket: RequestId) -> str:
        """Which model one of its requests asked for."""
        return self.orders[self.tickets.index(ticket)].model

    def take(self, tickets: Sequence[RequestId]) -> None:
        """Note that its requests are in line."""
        self.tickets = list(tickets)
        self._running = {ticket: order.n for ticket, order in zip(tickets, self.orders, strict=True)}

    def put(self, event: Event, now: float) -> None:
        """Be told what happened, at some time by `time.perf_counter`."""
        ticket, model = event.request_id, self.model(event.request_id)
        if isinstance(event, Failed):
            self.fail(event.error)
            return
        if isinstance(event, Wrote):
            self._measure((ticket, event.index), model, now)
        else:
            self._metrics.ended(model, event.index, event.generation)
            self._running[ticket] -= 1
            if not self._running[ticket]:
                del self._running[ticket]
        self._events.put_nowait((self.tickets.index(ticket), event))

    def fail(self, error: Exception) -> None:
        """End it with an error, which comes behind what it has been told; one that is complete stays so."""
        if self.tickets and not self._running:
            return
        self._events.put_nowait(error)

    def leave(self) -> list[RequestId]:
        """Listen no more; return the requests that have not ended."""
        left = list(self._running)
        self._running = {}
        return left

    def _measure(self, text: tuple[RequestId, int], model: str, now: float) -> None:
        if self.first_piece is None:
            self.first_piece = now - self.began
            self._metrics.first_piece.labels(model).observe(self.first_piece)
        if text in self._told:
            self._metrics.between_pieces.labels(model).observe(now - self._told[text])
        self._told[text] = now


def _blamed(error: Exception, order: Order) -> str | None:
    """The field of a request that was well formed and yet cannot be served."""
    if isinstance(error, PromptError):
        return "prompt" if order.prompt.messages is None else "messages"
    if order.n > 1:
        return "n"
    return "unisono.draw" if order.method.draw.beam_width > 1 else None


def _characters(prompt: Prompt) -> int:
    """How much there is to tokenise of what was asked."""
    return len(prompt.text or "") + sum(len(content_of(message)) for message in prompt.messages or ())


def _check_length(asked: PreparedRequest, most: int) -> None:
    for name, ids in asked.ids.items():
        if len(ids) > most:
            raise Refusal(
                400,
                f"the prompt has {len(ids)} tokens for member {name!r}, and this server takes {most} at most",
                code="context_length_exceeded",
            )
