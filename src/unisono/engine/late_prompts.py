"""Prompts of members that were away with their tokenizers: encoded beside the steps when these are back.

A text that began without such a member has no prompt in its ids (`Cursor.late`), only what has been written. Once the
prompt has come, both stand in the cursor, and the member catches up as with any other lag.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from unisono.engine.cursor import LatePrompt
from unisono.engine.encoding import check_length
from unisono.engine.member import Member
from unisono.engine.step_state import StepState
from unisono.errors import MemberUnavailable

log = logging.getLogger(__name__)

PATIENCE = 0.05
"""Seconds that a step waits for prompts which it has just asked for. A text of few pieces would end before else."""

Late = tuple[StepState, Member]
"""A text, and a member that lacks its prompt."""


class LatePrompts:
    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    def join(self, waiting: Sequence[Late], patience: float | None = PATIENCE) -> None:
        """Ask for prompts, and let those that have come into the cursors. ``None`` waits for all."""
        asked = [late for late in map(_late_of, waiting) if late is not None and late.refused is None]
        fresh = [late for late in dict.fromkeys(asked) if late.coming is None]
        for late in fresh:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="unisono-late-prompts")
            late.coming = self._thread.submit(late.encode)
        wait([late.coming for late in (asked if patience is None else fresh) if late.coming is not None], patience)
        for state, member in waiting:
            prompt = _late_of((state, member))
            if prompt is not None and prompt.coming is not None and prompt.coming.done():
                _take(state, member, prompt)

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)


def _late_of(waiting: Late) -> LatePrompt | None:
    state, member = waiting
    return state.cursor(member).late


def _take(state: StepState, member: Member, late: LatePrompt) -> None:
    """Put a prompt before what has been written, or note why there is none."""
    assert late.coming is not None
    cursor = state.cursor(member)
    try:
        ids = late.coming.result()
        check_length(member.name, len(ids) + len(cursor.ids), member.backend.facts.context)
    except MemberUnavailable as error:
        late.coming = None
        if member.breaker.asks:
            member.breaker.failed(member.name, error)
    except Exception as error:
        if late.refused is None:
            log.warning("a text goes on without member %r to its end: %s", member.name, error)
        late.refused = error
    else:
        cursor.ids[:0] = ids
        cursor.ends, cursor.late = [len(cursor.ids)], None
        state.text.prompt_tokens[member.name] = len(ids)
