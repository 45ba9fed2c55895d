"""A text that is handed out while it is being generated."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Self

from unisono.engine.client import Client
from unisono.engine.request import Event, Failed, GenerationRequest, Wrote
from unisono.records import Generation, StepRecord


class Stream:
    """A text while it is being generated: iterate to receive it as whole characters.

    After the last one, `generation` is there. Closing it, or leaving a ``with``, gives the text up.
    """

    def __init__(self, client: Client, request: GenerationRequest) -> None:
        """Begin what is asked for. Raises what `Client.start` raises."""
        self._client = client
        self._id = client.start(request)
        self._parts: deque[str] = deque()
        self._steps: list[StepRecord] = []
        self._generation: Generation | None = None
        self._closed = False
        weakref.finalize(self, client.leave, self._id)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        while not self._parts:
            if self._closed:
                raise StopIteration
            try:
                for event in self._client.receive([self._id]):
                    self._take(event)
            except BaseException:  # Ctrl-C, too
                self.close()
                raise
        return self._parts.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def generation(self) -> Generation:
        """The finished record. Raises `RuntimeError` while the text is being generated."""
        if self._generation is None:
            raise RuntimeError("the text is still being written")
        return self._generation

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The trace so far; empty when none was asked for."""
        return tuple(self._steps)

    def close(self) -> None:
        """Stop generating and free the text's slots. Idempotent."""
        self._closed = True
        self._client.cancel(self._id)

    def _take(self, event: Event) -> None:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Wrote):
            self._steps += event.steps
            if event.text:
                self._parts.append(event.text)
        else:
            self._generation = event.generation
            self.close()
