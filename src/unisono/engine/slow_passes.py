"""Says once that passes have become slow because other processes want the same cores."""

from __future__ import annotations

import logging
import statistics
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Hashable

from unisono.engine.draft_length import BLOCK_LIMIT, Work

log = logging.getLogger(__name__)

MULTIPLE = 2.0
KNOWN = 8  # passes of one size after which it is known what they take
ENOUGH = 8
"""How many more passes are slow than are not before something is said: about half a second, and no accident."""


def preemptions() -> int:
    """How often a thread of this process has lost its core to another so far."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class SlowPasses:
    """Compares passes with earlier ones of their size. Long texts make passes slow too, but take no core away."""

    def __init__(self, preempted: Callable[[], int] = preemptions) -> None:
        self._usual: defaultdict[Hashable, deque[float]] = defaultdict(lambda: deque(maxlen=3 * KNOWN))
        self._slow: dict[Hashable, list[float]] = {}
        self._since: dict[Hashable, int] = {}
        self._preempted = preempted
        self._said = False

    def note(self, name: str, model: Hashable, work: Work, seconds: float) -> None:
        if self._said or work.tokens > BLOCK_LIMIT:
            return
        usual = self._usual[model, work]
        slow = self._slow.setdefault(model, [])
        before = statistics.median(usual) if len(usual) >= KNOWN else seconds
        if seconds < MULTIPLE * before:
            usual.append(seconds)
            del slow[-1:]
            return
        if not slow:
            self._since[model] = self._preempted()
        slow.append(seconds / before)
        if len(slow) < ENOUGH:
            return
        factor = statistics.median(slow)
        slow.clear()
        if self._preempted() - self._since[model] < ENOUGH:
            usual.clear()  # nobody took a core: this is what they take now
            return
        self._said = True
        log.warning(
            "member %r: its passes take %.1f times what they took: other processes want the same cores, and threads "
            "wait for one another; end the other work, or give the member fewer threads (`unisono doctor` shows them)",
            name,
            factor,
        )
