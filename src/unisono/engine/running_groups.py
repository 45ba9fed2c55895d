"""What an engine is generating: groups begin, have their prompts read, and give their slots back when they are over."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from unisono.engine.beam import Beam
from unisono.engine.group import SequenceGroup
from unisono.engine.member import Member
from unisono.engine.prefill import Prefill
from unisono.engine.request import PreparedRequest
from unisono.engine.sequence import TextSequence, begin_sequence, close_sequence
from unisono.engine.step import Stepper
from unisono.errors import CapacityError
from unisono.vocab.union import UnionVocabulary


class RunningGroups:
    """The groups of one engine, in the order in which they were begun."""

    def __init__(
        self, members: Sequence[Member], union: UnionVocabulary, slots: int, prefill: Prefill, stepper: Stepper
    ) -> None:
        self.groups: list[SequenceGroup] = []
        self._members = members
        self._union = union
        self._slots = slots
        self._prefill = prefill
        self._stepper = stepper
        self._is_stepping = False
        self._given_up: list[SequenceGroup] = []

    @property
    def free(self) -> int:
        """How many more can be begun; a group counts for as many as it may come to have."""
        return self._slots - sum(group.slots for group in self.groups)

    def begin(self, prepared: PreparedRequest) -> SequenceGroup:
        """Begin what was prepared; it joins the other groups at the next step. Raises a `CapacityError`."""
        if prepared.cost.texts > self.free:
            raise no_room(self.free, self._slots)
        first, n = begin_sequence(prepared, self._members, self._union), prepared.request.n
        group = Beam(first) if first.plan.draw.beam_width > 1 else SequenceGroup(first, n, prepared.cost.texts // n)
        self._prefill.join(group)
        self.groups.append(group)
        return group

    def prefill(self, text: SequenceGroup | TextSequence) -> None:
        """Let all members read a prompt now, also those whom a gate would not ask for a while."""
        if group := self._group(text):
            self._prefill.await_all(group, self._members)
            self.read({group: self.backlog(group)})

    def backlog(self, text: SequenceGroup | TextSequence) -> int:
        """How many ids have to be read of a group (`read`) before steps advance it; 0 where none have to be.

        It is so with sequences that are to share a prompt, and where blocks are bounded: with prompts that are
        longer, and with what a member has missed while it was not asked.
        """
        group = text if isinstance(text, SequenceGroup) else self._group(text)
        return self._prefill.size(group) if group and group.awaited else 0

    def read(self, portions: Mapping[Any, int]) -> None:
        """Read on in groups that have a backlog, each by this many ids at most, those of all members together.

        When a model fails, the groups are as they were before; those that cannot be are given up.
        """
        groups = {group: ids for text, ids in portions.items() if (group := self._group(text))}
        with self.stepping():
            try:
                for group in groups:
                    for sequence in group.open:
                        self._stepper.weigh_prompt(sequence)
                self._prefill.read(groups)
            except BaseException:
                for group in groups:
                    self._stepper.restore(group, group.open)
                raise

    def ready(self, texts: Sequence[SequenceGroup | TextSequence] | None) -> list[SequenceGroup]:
        """Groups of these, or of all, that have something to write and no backlog to wait for."""
        given = (
            self.groups
            if texts is None
            else dict.fromkeys(text if isinstance(text, SequenceGroup) else self._group(text) for text in texts)
        )
        return [group for group in given if group and not (group.awaited and self._prefill.size(group))]

    def drop(self, text: SequenceGroup | TextSequence) -> None:
        """Give up a group and free its slots. Dropping one that has ended changes nothing.

        Within a step, the slots are freed when it ends.
        """
        group = self._group(text)
        if group is None:
            return
        if self._is_stepping:
            self._given_up.append(group)
        else:
            self._close([group])

    @contextlib.contextmanager
    def stepping(self) -> Iterator[list[TextSequence]]:
        """While models work, slots are not freed; give the list that will hold the sequences that ended meanwhile."""
        ended: list[TextSequence] = []
        before = [text for group in self.groups for text in group.sequences if text.finish is None]
        self._is_stepping = True
        try:
            yield ended
        finally:
            self._is_stepping = False
            ended += [text for text in before if text.finish is not None]
            over = [group for group in self.groups if group.is_finished] + self._given_up + self._stepper.lost
            self._given_up, self._stepper.lost = [], []
            if ended or over:
                self._close(over, [each for group in self.groups for each in group.take_ended()])

    def _group(self, text: SequenceGroup | TextSequence) -> SequenceGroup | None:
        """The group of a sequence; ``None`` where that is over."""
        if isinstance(text, SequenceGroup):
            return text
        return next((group for group in self.groups if text in group.sequences), None)

    def _close(self, groups: Collection[SequenceGroup], ended: Iterable[TextSequence] = ()) -> None:
        """Forget groups; free their slots and those of sequences that ended: all, even if a member fails at one."""
        over = [group for group in self.groups if group in groups]
        self.groups = [group for group in self.groups if group not in groups]
        with contextlib.ExitStack() as closing:
            for sequence in [*(each for group in over for each in group.open), *ended]:
                closing.callback(close_sequence, sequence, self._members)


def no_room(free: int, slots: int) -> CapacityError:
    """What a request for more slots than are free is refused with."""
    room = f"{free} of {slots} slots are free" if free else f"all {slots} slots are taken"
    return CapacityError(room, hint="finish a text, or load with a larger batch")
