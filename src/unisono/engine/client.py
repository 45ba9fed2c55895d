"""Requests from the thread that drives a service: whoever waits for one, such as an open stream, steps it for all."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Self

from unisono.engine.engine import Engine
from unisono.engine.request import Ended, Event, Failed, GenerationRequest, Wrote
from unisono.engine.scheduler import RequestId
from unisono.engine.sequence import SEEDS
from unisono.engine.service import Service
from unisono.errors import CapacityError, UnisonoError
from unisono.records import Generation
from unisono.step_records import Part, StepRecord

UNBOUNDED = 2**62
"""Requests that may wait, and ids that are read in a step."""


class Client:
    """Lets several callers in one thread share a service: open streams, a batch, the texts of one prompt.

    Each request has an inbox: what comes of it while the service is stepped for another one lies there until it is
    asked for.
    """

    def __init__(self, service: Service) -> None:
        """Drive a service that nobody else drives."""
        self.service = service
        self._inboxes: dict[RequestId, list[Event]] = {}
        self._left: list[RequestId] = []
        self._is_stepping = False

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """Drive one engine. Prompts are read at once, and no request waits."""
        return cls(Service({"": engine}, queue=UNBOUNDED, chunk=UNBOUNDED))

    def start(self, request: GenerationRequest) -> RequestId:
        """Begin a request at once; its events come from the next step on.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than a member's context.
            SpecError: a field is wrong, or the request needs more than there is.
            CapacityError: other requests hold too many slots.
        """
        self._cancel_left()
        request_id = self.service.start(self.service.prepare(request))
        self._inboxes[request_id] = []
        return request_id

    def receive(self, request_ids: Collection[RequestId]) -> list[Event]:
        """What has come of requests since this was last called; steps the service until something has.

        Raises:
            RuntimeError: they were given up, as all requests are when the service is closed.
        """
        while True:
            if events := [event for request_id in request_ids for event in self._take(request_id)]:
                return events
            if not any(self.service.has(request_id) for request_id in request_ids):
                raise RuntimeError("the text was given up before it ended")
            self._cancel_left()
            self._is_stepping = True
            try:
                events = self.service.step()
            finally:
                self._is_stepping = False
            for event in events:
                if event.request_id in self._inboxes:
                    self._inboxes[event.request_id].append(event)

    def cancel(self, request_id: RequestId) -> None:
        """Give a request up and free its slots. Harmless when it is over."""
        self._inboxes.pop(request_id, None)
        self.service.cancel(request_id)

    def leave(self, request_id: RequestId) -> None:
        """Give a request up for a garbage collector, which can come within a step: then before the next one."""
        if self._is_stepping:
            self._left.append(request_id)
        else:
            self.cancel(request_id)

    def generate(self, request: GenerationRequest) -> list[Generation]:
        """Generate all texts of a request, as many at once as there are free slots.

        Raises what `start` raises, or what a model raised.
        """
        texts: list[Generation] = []
        while len(texts) < request.n:
            part = replace(request, n=min(request.n - len(texts), max(1, self.service.engine(request.model).free)))
            if texts:  # a further wave begins after the last seed
                seed = ((texts[0].seed or 0) + len(texts)) % SEEDS
                part = replace(part, options={**request.options, "seed": seed})
            texts += self._wait(part)
        return texts

    def generate_batch(
        self, requests: Iterable[GenerationRequest]
    ) -> Iterator[tuple[GenerationRequest, Generation | UnisonoError]]:
        """Generate the texts of many requests, as many at once as there are slots; see `Ensemble.generate_batch`."""
        waiting = iter(requests)
        running: dict[RequestId, GenerationRequest] = {}
        request: GenerationRequest | None = None  # one that is taken from the iterable and does not fit yet
        more = True
        try:
            while True:
                while more and any(engine.free for engine in self.service.engines.values()):
                    request = request or next(waiting, None)
                    if request is None:
                        more = False
                        break
                    try:
                        running[self.start(request)] = request
                    except CapacityError:
                        if not running:
                            raise
                        break  # it waits for more slots
                    except UnisonoError as error:
                        yield request, error
                    request = None
                if not running:
                    if more:
                        hint = "end those, or load with a larger batch"
                        raise CapacityError("all slots are taken by other texts", hint=hint)
                    return
                for event in self.receive(running):
                    if isinstance(event, Ended):
                        yield running[event.request_id], event.generation
                    elif isinstance(event, Failed) and isinstance(event.error, UnisonoError):
                        yield running[event.request_id], event.error
                    elif isinstance(event, Failed):
                        raise event.error
                for request_id in [each for each in running if not self.service.has(each)]:
                    self.cancel(request_id)
                    del running[request_id]
        finally:
            for request_id in running:
                self.cancel(request_id)

    def _wait(self, request: GenerationRequest) -> list[Generation]:
        """Generate the texts of a request that begins at once."""
        request_id = self.start(request)
        texts: dict[int, Generation] = {}
        try:
            while len(texts) < request.n:
                for event in self.receive([request_id]):
                    if isinstance(event, Failed):
                        raise event.error
                    if isinstance(event, Ended):
                        texts[event.index] = event.generation
        finally:
            self.cancel(request_id)
        return [texts[index] for index in range(request.n)]

    def _take(self, request_id: RequestId) -> list[Event]:
        events = self._inboxes.get(request_id, [])
        if events:
            self._inboxes[request_id] = []
        return events

    def _cancel_left(self) -> None:
        while self._left:
            self.cancel(self._left.pop())


class Received:
    """What has been received of a text that is being generated."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Part, str]] = deque()
        """What has come and was not yielded."""
        self._reasoning: list[str] = []
        self._generation: Generation | None = None

    @property
    def reasoning(self) -> str:
        """The reasoning that has been received so far."""
        return "".join(self._reasoning)

    @property
    def generation(self) -> Generation:
        """The finished record. Raises `RuntimeError` while the text is being generated."""
        if self._generation is None:
            raise RuntimeError("the text is still being written")
        return self._generation

    def _yielded(self) -> tuple[Part, str]:
        part, text = self._waiting.popleft()
        if part == "reasoning":
            self._reasoning.append(text)
        return part, text


class Stream(Received):
    """A text while it is being generated: iterate to receive it, in whole characters.

    `parts` yields reasoning too, and `reasoning` is the reasoning so far. After the end, `generation` is the finished
    record. `close`, or the end of a ``with`` block, cancels the text.
    """

    def __init__(self, client: Client, request: GenerationRequest) -> None:
        """Begin what is asked for. Raises what `Client.start` raises."""
        super().__init__()
        self._client = client
        self._id = client.start(request)
        self._steps: list[StepRecord] = []
        self._closed = False
        weakref.finalize(self, client.leave, self._id)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        while (found := self._next()) is not None:
            part, text = found
            if part == "answer":
                return text
        raise StopIteration

    def parts(self) -> Iterator[tuple[Part, str]]:
        """Yield all text from here on: ``("reasoning", text)`` and ``("answer", text)``."""
        while (found := self._next()) is not None:
            yield found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The steps so far, with ``trace=True``."""
        return tuple(self._steps)

    def close(self) -> None:
        """Stop generating and free the text's slots. A second call has no effect."""
        self._closed = True
        self._client.cancel(self._id)

    def _next(self) -> tuple[Part, str] | None:
        while not self._waiting:
            if self._closed:
                return None
            try:
                for event in self._client.receive([self._id]):
                    self._take(event)
            except BaseException:  # Ctrl-C, too
                self.close()
                raise
        return self._yielded()

    def _take(self, event: Event) -> None:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Wrote):
            self._steps += event.steps
            self._waiting += event.parts
        else:
            self._generation = event.generation
            self.close()
