"""A text that is handed out while it is being written."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Self

from unisono.engine.engine import Engine
from unisono.engine.sequence import TextSequence
from unisono.records import Generation, StepRecord


class Stream:
    """A text while it is being written: iterate to receive it as whole characters.

    After the last one, `generation` is there. Closing it, or leaving a ``with``, gives the text up.
    """

    def __init__(self, engine: Engine, text: TextSequence) -> None:
        """Begin to write ``text``, which ``engine`` has taken up."""
        self._text = text
        self._parts = engine.run(text)
        self._engine = engine
        weakref.finalize(self, engine.drop, text)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def generation(self) -> Generation:
        """The finished record. Raises `RuntimeError` while the text is being written."""
        return self._text.generation()

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The trace so far; empty when none was asked for."""
        return tuple(self._text.steps or ())

    def close(self) -> None:
        """Stop writing and free the text's slots. Idempotent."""
        self._parts.close()  # type: ignore[attr-defined]  # run is a generator function
        self._engine.drop(self._text)
