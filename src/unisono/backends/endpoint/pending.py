"""An engine that is not there when an ensemble begins: its member joins when it answers, if it is what was assumed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from unisono.backends.base import Array, Truncation
from unisono.backends.endpoint.adapter import Adapter, Description, Question
from unisono.backends.endpoint.caller import Caller
from unisono.backends.endpoint.settings import TOP, EndpointSource
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import MemberUnavailable, UnisonoError
from unisono.vocab.tokenizer import Tokenizer

CONTEXT = 4000
"""Tokens a text that an engine is believed to hold, where its member does not say: many hold 4,096, some for all."""


def assumed(source: EndpointSource, tokenizer: Tokenizer, slots: int, context: int | None) -> Description:
    """What an engine is taken for until it answers: that it tells k ids, of those that the tokenizer has."""
    rows = len(tokenizer.table.texts)
    top = min(source.top or TOP, rows)
    return Description(
        engine="an engine that has not answered yet",
        model="",
        rows=rows,
        context=context or CONTEXT,
        slots=slots,
        truncated=Truncation(top, top),
        tokenizer=None,
    )


class PendingAdapter:
    """Finds out which engine answers when it is first asked, and asks it from then on."""

    def __init__(
        self, client: Caller, find: Callable[[], Coroutine[Any, Any, Adapter]], told: Description, context: int
    ) -> None:
        """``told`` and ``context`` are what the ensemble was made for."""
        self._client = client
        self._find = find
        self._told = told
        self._context = context
        self._adapter: Adapter | None = None

    async def describe(self) -> Description:
        return self._told

    def ask(self, questions: Sequence[Question]) -> Array | TopLogprobs:
        return (self._adapter or self._client.run(self._found())).ask(questions)

    async def leave(self, slots: Sequence[int] | None) -> None:
        if self._adapter is not None:
            await self._adapter.leave(slots)

    async def _found(self) -> Adapter:
        try:
            adapter = await self._find()
            found = await adapter.describe()
        except MemberUnavailable:
            raise
        except UnisonoError as error:  # another model, another tokenizer: what would have been refused at the start
            more = f"; {error.hint}, and start unisono again" if error.hint else ""
            raise self._client.failed(error.message + more, refused=True) from error
        self._check(found)
        self._adapter = adapter
        return adapter

    def _check(self, found: Description) -> None:
        """Raise a `MemberUnavailable` where it is another engine than the ensemble was made for."""
        if found.rows != self._told.rows:
            raise self._client.failed(
                f"its model has {found.rows:,} ids, and the tokenizer, by which this ensemble was begun without it, "
                f"{self._told.rows:,}: start unisono again while it runs",
                refused=True,
            )
        if 0 < found.context < self._context:
            raise self._client.failed(
                f"it holds {found.context} tokens a text, and this ensemble, which was begun without it, counts on "
                f"{self._context}: set the member's context to {found.context}, or start unisono again while it runs",
                refused=True,
            )
