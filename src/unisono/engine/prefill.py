"""What is read ahead of texts, so that no step has to read much of one: long prompts, and long lags.

A step reads what waits of every text that it writes, and all of them wait for it. So where blocks are bounded, a
text of which somebody who is needed has more to read stands back from the steps, and what waits of it is read
between them, in portions, up to the last id. It is then written as if it had been read at once.

Who is needed is known of some beforehand: all where everybody is always asked, else the lead and whoever drafts. The
others may not be asked for long, or ever, and are not waited for. When the gate does ask one that has too much to
read, the text stands back again: the step forgets what the lead has said about it, which is then asked once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from unisono.engine.forward import Portion
from unisono.engine.member import Cursor, Member
from unisono.engine.runner import Runner
from unisono.engine.sequence import TextSequence
from unisono.engine.step_state import StepState


class Prefill:
    """The texts that stand back, and the members for whom they wait."""

    def __init__(self, members: Sequence[Member], hearing: Runner, longest_block: int | None) -> None:
        """Bind it to an engine's members.

        Args:
            members: of the engine.
            hearing: runs their passes.
            longest_block: ids that a member may have to read of one text in a step; ``None`` for any number.
        """
        self.longest_block = longest_block
        self._members = members
        self._hearing = hearing
        self._awaited: dict[TextSequence, set[str]] = {}

    def join(self, text: TextSequence, *, everybody: bool) -> None:
        """Look at a new text: it stands back where a prompt is too long, or everybody is to read it first.

        Args:
            text: nothing of which has been written.
            everybody: whether copies of it are going to be made, which are to find their prompt read.
        """
        if everybody:
            self.await_all(text, self._members)
        elif self.longest_block is not None:
            needed = [member for member in self._members if _is_needed(member, text)]
            self.await_all(text, [member for member in needed if self.is_far(text.cursors[member.name])])

    def await_all(self, text: TextSequence, members: Iterable[Member]) -> None:
        """Let a text stand back until some members have read all of it but the last id."""
        names = {member.name for member in members}
        if any(True for _ in self._lags(text, names)):
            self._awaited[text] = names

    def forget(self, text: TextSequence) -> None:
        """Wait for nobody any longer."""
        self._awaited.pop(text, None)

    def size(self, text: TextSequence) -> int:
        """How many ids have to be read before a text is written on; 0 when it does not stand back."""
        if text not in self._awaited:
            return 0
        return sum(lag for _, _, lag in self._lags(text, self._awaited[text]))

    def is_far(self, cursor: Cursor) -> bool:
        """Whether more waits than a step may read; drafts, which are short, are not counted."""
        written = cursor.ends[0] if cursor.ends else len(cursor.ids)
        return self.longest_block is not None and written - cursor.read > self.longest_block

    def late(self, window: StepState) -> list[Member]:
        """The members that a step is about to ask about a text though they have too much to read."""
        return [
            member for member in self._members if self.is_far(window.cursor(member)) and window.span(member) is not None
        ]

    def read(self, portions: Mapping[TextSequence, int]) -> None:
        """Read on in texts that stand back, each by so many ids at most, in one pass a model.

        What is read of one text is shared out so that its members come to the end together.
        """
        self._hearing.read_ahead([portion for text, ids in portions.items() for portion in self._share_out(text, ids)])
        for text in portions:
            if not self.size(text):
                self.forget(text)

    def _share_out(self, text: TextSequence, ids: int) -> Iterator[Portion]:
        total = self.size(text)
        ids = min(ids, total)
        for member, cursor, lag in self._lags(text, self._awaited.get(text, ())):
            count = -(-ids * lag // total)
            if count:
                yield Portion(text, member, cursor, count)
            ids, total = ids - count, total - lag

    def _lags(self, text: TextSequence, names: Iterable[str]) -> Iterator[tuple[Member, Cursor, int]]:
        """What waits of a text but for the last id, by member and hypothesis."""
        awaited = set(names)
        for hypothesis in text.hypotheses:
            for member in self._members:
                cursor = hypothesis.cursors[member.name]
                if member.name in awaited and cursor.read < len(cursor.ids) - 1:
                    yield member, cursor, len(cursor.ids) - 1 - cursor.read


def _is_needed(member: Member, text: TextSequence) -> bool:
    """Whether a member is going to be asked soon, whatever the gate sees and whoever is drawn."""
    plan = text.plan
    if plan.gate.always_open and not plan.draw.one_member:
        return True
    return plan.drafter == member.name or (plan.lead is member and not plan.gate.always_open)
