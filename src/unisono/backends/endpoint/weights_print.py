"""Whether the weights behind an endpoint are those of the start, by what they make of a fixed text.

What engines say of their models (a name, a path, a size) is the same for two trainings of one architecture. Their
distributions are not.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from unisono.backends.endpoint.caller import Caller
from unisono.backends.endpoint.rows import Row
from unisono.vocab.tokenizer import Tokenizer

TEXT = "After a while she looked up from the letter and said that"
"""Many words can follow."""
TOP = 20
SILENCE = 3.0
"""Seconds after which an engine that was not heard may have been started anew."""
SAME = 0.15
"""Nats by which log-probabilities of the likeliest ids may differ on average. Kernels and batches make 0.02 of it."""
SHARED = 0.7
"""The share of the likeliest ids that have to be the same."""


class WeightsPrint:
    def __init__(
        self, client: Caller, tokenizer: Tokenizer, ask: Callable[[list[int]], Coroutine[Any, Any, Row]]
    ) -> None:
        """``ask`` gives the likeliest ids behind a text."""
        self._client = client
        self._ids = tokenizer.encode_prompt(TEXT) or [0]
        self._ask = ask
        self._first: Row | None = None
        self._losses = 0

    @property
    def is_due(self) -> bool:
        """Whether the weights may be others than at the last look: after a loss, or a silence."""
        return self._first is None or self._client.losses != self._losses or self._client.silence >= SILENCE

    async def check(self) -> None:
        """Look whether the weights are those of the first look, if that is due.

        Raises a `MemberUnavailable` where they are not.
        """
        if not self.is_due:
            return
        losses = self._client.losses
        told = await self._ask(self._ids)
        first = self._first = self._first or told
        if not is_same(first, told):
            raise self._client.failed(
                "it has other weights now than when it was loaded: of a fixed text it says something else",
                refused=True,
            )
        self._losses = losses


def is_same(first: Row, told: Row) -> bool:
    """Whether two distributions are those of one model, up to the rounding of kernels."""
    before, now = _likeliest(first), _likeliest(told)
    both = before.keys() & now.keys()
    if len(both) < SHARED * min(len(before), len(now)):
        return False
    return sum(abs(before[token] - now[token]) for token in both) <= SAME * len(both)


def _likeliest(row: Row) -> dict[int, float]:
    pairs: Sequence[tuple[int, float]] = sorted(zip(row.ids, row.logp, strict=True), key=lambda pair: -pair[1])
    return dict(pairs[:TOP])
