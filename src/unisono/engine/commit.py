"""Settling: what is chosen at the positions that members were asked about, and how texts go on from there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from unisono.config.combine import Combine
from unisono.engine.member import Member
from unisono.engine.sampler import Sampler
from unisono.engine.speculation import Speculator
from unisono.engine.step_state import StepState
from unisono.engine.trace import record
from unisono.vocab.union import UnionVocabulary


class Committer:
    """Settles windows whose voters have been heard."""

    def __init__(
        self, members: Sequence[Member], union: UnionVocabulary, chooser: Sampler, drafting: Speculator
    ) -> None:
        """Bind it to an engine's parts."""
        self._members = members
        self._union = union
        self._chooser = chooser
        self._drafting = drafting

    def settle(self, windows: Sequence[StepState]) -> None:
        """Choose position by position, as long as the drafts hold, and let every member go on from there."""
        position, alive = 0, list(windows)
        while alive:
            for voters, rule, group in by_voters(alive, position):
                self._choose(group, position, voters, combines=rule is not None)
            alive = [window for window in alive if window.alive]
            position += 1
        for window in windows:
            self.commit(window)

    def _choose(self, group: Sequence[StepState], position: int, voters: tuple[Member, ...], *, combines: bool) -> None:
        """Choose for sequences of the same voters and rule."""
        columns = self._chooser.choose_plainly(group, position, voters)
        said = None
        if columns is None:
            said = self._chooser.combine(group, position, voters, combines=combines)
            columns = self._chooser.choose(group, position, said, combines=combines)
            if self._drafting.in_use:
                self._drafting.learn(group, position, columns)
        for row, (window, column) in enumerate(zip(group, columns, strict=True)):
            if said is not None:
                record(window, position, column, said, row, self._union)
            window.commit(position, column)

    def commit(self, window: StepState) -> None:
        """Let every member go on from what was chosen, each with its own ids for it."""
        text, piece, full = window.text, window.piece, False
        for member in self._members:
            name = member.name
            if name in window.committed or name not in text.cursors:
                continue
            cursor = text.cursors[name]
            end = cursor.ends[window.accepted]
            if len(cursor.ids) > end or cursor.read > end:
                member.cut(cursor, window.accepted)
            if window.choice is not None and piece is not None:
                first = window.opens_answer and not window.accepted
                cursor.ids += member.spell(window.choice, piece, first=first)
            window.committed.add(name)
        for member in self._members:
            if member.name in text.cursors:
                full = full or len(text.cursors[member.name].ids) > member.backend.facts.context
        if full and text.finish is None:
            text.end("context")


def by_voters(
    windows: Sequence[StepState], position: int
) -> list[tuple[tuple[Member, ...], Combine | None, list[StepState]]]:
    """Windows that have the same voters at a position, and the same rule if it applies there."""
    if all(state.plan.is_plain for state in windows):
        return [(windows[0].voters(position), windows[0].plan.combine, list(windows))]
    groups: defaultdict[tuple[tuple[Member, ...], Combine | None], list[StepState]] = defaultdict(list)
    for window in windows:
        rule = window.plan.combine if window.combines(position) else None
        groups[window.voters(position), rule].append(window)
    return [(voters, rule, group) for (voters, rule), group in groups.items()]
