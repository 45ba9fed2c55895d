"""Attention without a copy of the keys for each head that shares them, beside transformers' own: what a pass takes."""

from __future__ import annotations

import statistics
import time
from typing import Any

BATCHES = (1, 8, 30)
WIDTHS = (1, 2)
"""Tokens that the texts of a pass read, in turn: two members seldom spell a piece in equally many."""


def compare(model: str, dtype: str, rounds: int, length: int) -> dict[str, Any]:
    """Measure passes through transformers as it is and as unisono runs it, one model loaded twice.

    Args:
        model: where the model is.
        dtype: what it computes in.
        rounds: passes of each for every number of texts, in turn.
        length: tokens that each text holds before.

    Returns:
        By number of texts, ms a pass of either (medians), and their ratio with the smallest and largest one of a round.
    """
    from unisono.backends.base import Feed
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec

    def load(**options: Any) -> Any:
        member = {"name": "model", "model": model, "backend": "transformers", "dtype": dtype, "threads": 1}
        spec = load_spec({"members": [{**member, "context": 2 * length, "options": options}]})
        return prepare(spec, batch=max(BATCHES)).members[0].loader.load(lambda fraction, words: None)

    backends = [load(attention="sdpa"), load()]
    figures: dict[str, Any] = {}
    try:
        slots: list[list[Any]] = [[backend.open()] for backend in backends]
        for backend, own in zip(backends, slots, strict=True):
            backend.advance([Feed(own[0], [100 + n % 900 for n in range(length)])])
        for count in BATCHES:
            for backend, own in zip(backends, slots, strict=True):
                own += [backend.open(copy_of=own[0]) for _ in range(count - len(own))]

            def milliseconds(which: int) -> float:
                backend, own = backends[which], slots[which]
                feeds = [Feed(slot, [100] * WIDTHS[n % 2 - 1]) for n, slot in enumerate(own)]
                began = time.perf_counter()
                backend.advance(feeds)
                spent = time.perf_counter() - began
                for slot in own:
                    backend.rewind(slot, length)
                return 1e3 * spent

            for which in (0, 1):
                milliseconds(which)
            times = [(milliseconds(0), milliseconds(1)) for _ in range(rounds)]
            ratios = [plain / ours for plain, ours in times]
            figures[str(count)] = {
                "transformers_ms": statistics.median(plain for plain, _ in times),
                "ms": statistics.median(ours for _, ours in times),
                "speedup": [statistics.median(ratios), min(ratios), max(ratios)],
            }
    finally:
        for backend in backends:
            backend.unload()
    return figures
