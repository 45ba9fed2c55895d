"""Where a text stands in its calls, where these are written by seams (docs/adr/0014)."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.vocab.marks import Mark, Turn

_TURNS: dict[Mark | None, Turn | None] = {
    None: "calling",
    "call_begin": "name",
    "call_next": "name",
    "call_arguments": None,
    "call_end": "behind",
}


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one text so far."""

    last: Mark | None = None
    """The last mark of a call; ``None`` before the first call."""
    number: int = 0
    """Of the call that is written or was written last."""

    def behind(self, mark: Mark) -> Calls:
        """Where a text stands behind one more mark."""
        return Calls(mark, self.number + (mark == "call_next"))

    def turn(self, *, first: bool) -> Turn | None:
        """The place in which members' ids can stand for marks of calls; ``first`` tells that an answer begins."""
        turn = _TURNS.get(self.last)
        return "calling_first" if first and turn == "calling" else turn
