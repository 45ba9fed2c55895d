"""Cuts texts that may exceed a context into windows, so that each piece is scored once."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from functools import partial

from unisono.chat.messages import Prompt
from unisono.engine.engine import Engine
from unisono.engine.given_text import cut
from unisono.engine.member import Member
from unisono.errors import PromptError

_CONTINUES = range(0x80, 0xC0)
"""Continuation bytes of UTF-8."""


def rolling_windows(engine: Engine, lead: Member, text: str) -> list[tuple[str, str]]:
    """Cut a text into windows: the context of each, and the part scored in it.

    As lm-evaluation-harness cuts for one tokenizer: scored parts do not overlap; the first window's context is only a
    member's BOS or END; each later one has one preceding piece, and the last as much as fits. Windows end where both a
    piece of the lead's tokenizer and a character end, and are as long as every member's context allows.
    Raises a `PromptError` when a context is too small for anything.
    """
    if not text:
        return []
    data = text.encode()
    places = _places(engine, lead, text, data)

    def part(start: int, end: int) -> str:
        return data[places[start] : places[end]].decode()

    def fits(before: int, start: int, end: int) -> bool:
        return _fits(engine, lead, part(before, start), part(start, end))

    last = len(places) - 1
    ends = [0]
    while ends[-1] < last:
        start = ends[-1]
        before = max(0, start - 1)
        most = min(last, start + engine.context)
        end = _furthest(start, most, partial(fits, before, start))
        if end == start:
            raise PromptError(
                f"the smallest context, of {engine.context} tokens, holds nothing of a text",
                hint="raise the members' contexts in the ensemble file",
            )
        ends.append(end)
    windows = [(part(max(0, start - 1), start), part(start, end)) for start, end in itertools.pairwise(ends)]
    if len(ends) > 2:
        start = ends[-2]
        room = _furthest(1, min(start, engine.context), lambda size: fits(start - size, start, last))
        windows[-1] = (part(start - room, start), part(start, last))
    return windows


def _places(engine: Engine, lead: Member, text: str, data: bytes) -> list[int]:
    """Possible cuts: 0, the length, and where both a piece of the lead and a character end."""
    sizes = [len(engine.union.piece(column) or b"") for column in cut(lead, Prompt(text=""), text)]
    ends = itertools.accumulate(sizes, initial=0)
    return [place for place in ends if place == len(data) or data[place] not in _CONTINUES]


def _fits(engine: Engine, lead: Member, before: str, after: str) -> bool:
    prompt = Prompt(text=before)
    columns: Sequence[int] = cut(lead, prompt, after)[:-1]
    for member in engine.members:
        tokens = len(member.encoder.encode(prompt, may_be_empty=True))
        tokens += sum(len(member.spell(column, engine.union.piece(column) or b"")) for column in columns)
        if tokens > member.backend.facts.context:
            return False
    return True


def _furthest(least: int, most: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits, given that ``least`` does; mostly ``most``."""
    if fits(most):
        return most
    return bisect.bisect_left(range(least + 1, most), True, key=lambda size: not fits(size)) + least
