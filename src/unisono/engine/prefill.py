"""What is read ahead of texts, so that no step has to read much of one: long prompts, and long lags.

A step reads what waits of every text that it writes, and all of them wait for it. So where blocks are bounded, a
text of which a member that is needed has more to read stands back from the steps; what waits of it, but for the last
id, is read between them in portions. It is then written as if it had been read at once.

All members are needed where all are always asked, else the lead and the drafter. When the gate asks another one that
has too much to read, the text stands back again, and the lead is asked once more afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from unisono.engine.beam import Beam
from unisono.engine.cursor import Cursor
from unisono.engine.group import SequenceGroup
from unisono.engine.member import Member
from unisono.engine.passes import Portion
from unisono.engine.runner import Runner
from unisono.engine.sequence import TextSequence
from unisono.engine.step_state import StepState


class Prefill:
    """The texts that stand back, and the members for whom they wait."""

    def __init__(self, members: Sequence[Member], runner: Runner, longest_block: int | None) -> None:
        """A member may have to read ``longest_block`` ids of one text in a step; ``None`` stands for any number."""
        self.longest_block = longest_block
        self._members = members
        self._runner = runner

    def join(self, group: SequenceGroup) -> None:
        """Look at a new group: it stands back where its prompt is too long, or copies are to find their prompt read."""
        if group.n > 1 or (isinstance(group, Beam) and self.longest_block is not None):
            self.await_all(group, self._members)
        elif self.longest_block is not None:
            [sequence] = group.open
            plan = sequence.plan
            always = {plan.drafter, plan.lead.name if plan.is_gated else None}
            needed = [member for member in self._members if plan.asks_all or member.name in always]
            if far := [member for member in needed if self.is_far(sequence.cursors[member.name])]:
                self.await_all(group, far)

    def await_all(self, group: SequenceGroup, members: Iterable[Member]) -> None:
        """Let a group stand back until some members have read all of its sequences but the last id."""
        names = {member.name for member in members}
        if any(True for _ in self._pending(group, names)):
            group.awaited = names

    def size(self, group: SequenceGroup) -> int:
        """How many ids are pending before a group is advanced; 0 when it does not stand back."""
        return sum(pending for *_, pending in self._pending(group, group.awaited))

    def is_far(self, cursor: Cursor) -> bool:
        """Whether more waits than a step may read; drafts, which are short, are not counted."""
        written = cursor.ends[0] if cursor.ends else len(cursor.ids)
        return self.longest_block is not None and written - cursor.read > self.longest_block

    def late(self, state: StepState) -> list[Member]:
        """The members that a step is about to ask about a text though they have too much to read."""
        if state.plan.asks_all:  # nobody misses anything, and `join` has seen to the prompt
            return []
        far = [member for member in self._members if self.is_far(state.cursor(member))]
        return [member for member in far if state.span(member) is not None]

    def read(self, portions: Mapping[SequenceGroup, int]) -> None:
        """Read on in groups that stand back, each by this many ids at most, in one pass a model.

        What is read of one group is shared out so that its members come to the end together.
        """
        self._runner.read_ahead([portion for group, ids in portions.items() for portion in self._share_out(group, ids)])
        for group in portions:
            if not self.size(group):
                group.awaited = set()

    def _share_out(self, group: SequenceGroup, ids: int) -> Iterator[Portion]:
        total = self.size(group)
        ids = min(ids, total)
        for sequence, member, pending in self._pending(group, group.awaited):
            count = -(-ids * pending // total)
            if count:
                yield Portion(sequence, member, sequence.cursors[member.name], count)
            ids, total = ids - count, total - pending

    def _pending(self, group: SequenceGroup, names: set[str]) -> Iterator[tuple[TextSequence, Member, int]]:
        """How many ids wait but for the last one, by sequence and member."""
        for sequence in group.open:
            for member in self._members:
                cursor = sequence.cursors[member.name]
                if member.name in names and not cursor.away and cursor.read < len(cursor.ids) - 1:
                    yield sequence, member, len(cursor.ids) - 1 - cursor.read
