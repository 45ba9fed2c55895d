"""Settling: what is chosen at the positions that members were asked about, and how texts go on from there."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence

from unisono.config.combine import Combine
from unisono.engine.group import Candidate, Hypothesis
from unisono.engine.member import Member
from unisono.engine.sampler import Distributions, Sampler
from unisono.engine.sequence import TextSequence, close_text, copy_text
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
            if said is not None and window.text.steps is not None:
                record(window, position, column, said, row, self._union)
            window.commit(position, column)

    def spread(self, sought: TextSequence, windows: Sequence[StepState]) -> list[StepState]:
        """Go on with the likeliest continuations of all that a beam follows; return the windows of new texts.

        What was heard has to be kept: slots are copied, and others' texts were settled before.
        """
        beam = sought.beam
        assert beam is not None
        said: dict[StepState, tuple[Distributions, int]] = {}
        for voters, rule, group in by_voters(windows, 0):
            heard = self._chooser.combine(group, 0, voters, combines=rule is not None)
            said.update((window, (heard, row)) for row, window in enumerate(group))
        shaped = [said[window][0].shaped_BU[said[window][1]] for window in windows]
        ranked = list(beam.rank(shaped, self._union.end))
        parents = {candidate.parent for candidate in ranked if candidate.column != self._union.end}
        for number, window in enumerate(windows):
            if number not in parents:
                _let_go(window.text, self._members)
        beam.following = [beam.following[number] for number in sorted(parents)]
        children = self._branch(windows, ranked)
        beam.following = [Hypothesis(window.text, candidate.score) for window, candidate in children]
        for window, candidate in children:
            record(window, 0, candidate.column, *said[windows[candidate.parent]], self._union)
            window.commit(0, candidate.column)
            self.commit(window)
        best = beam.advance()
        for window, _ in children:
            if window.text.finish is not None or best is not None:
                _let_go(window.text, self._members)
        if best is not None:
            sought.become(best)
        return [window for window, _ in children if window not in windows]

    def _branch(self, windows: Sequence[StepState], ranked: Sequence[Candidate]) -> list[tuple[StepState, Candidate]]:
        """Give every candidate a window of its own: the first of a parent goes on in its, the others in copies."""
        children: list[tuple[StepState, Candidate]] = []
        with contextlib.ExitStack() as copies:
            for candidate in ranked:
                window = windows[candidate.parent]
                if candidate.column == self._union.end:
                    window = window.branch(window.text.copy({}))  # it ends here, and needs no slots
                elif any(window is taken for taken, _ in children):
                    window = window.branch(copy_text(window.text, self._members))
                    copies.callback(close_text, window.text, self._members)
                children.append((window, candidate))
            copies.pop_all()
        return children

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


def _let_go(hypothesis: TextSequence, members: Sequence[Member]) -> None:
    """Free the slots of a text that is followed no longer."""
    close_text(hypothesis, members, for_good=True)
    hypothesis.cursors = {}
