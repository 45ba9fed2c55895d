"""Which members are away from which texts when a step begins, and what they read when they are back.

A text goes on without a lost member (docs/adr/0018). What that has missed waits in its cursor. When the member is
asked again, a lag that a step may read is read by the pass that asks; of a longer one a block is read in each step, and
the text goes on without the member meanwhile. A text that cannot go on waits until it has been read. Where the prompt
itself is missing, it is encoded first (`LatePrompts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from unisono.engine.group import SequenceGroup
from unisono.engine.late_prompts import LatePrompts
from unisono.engine.member import Certificates, Member
from unisono.engine.passes import Portion
from unisono.engine.prefill import Prefill
from unisono.engine.runner import Runner
from unisono.engine.step_state import StepState


@dataclass(frozen=True, slots=True)
class MemberHealth:
    """How a member does."""

    state: Literal["ready", "away", "refused", "catching up"]
    """It is away until a pass has been answered again; refused where what answers is not what the ensemble was begun
    with."""
    on_failure: Literal["error", "degrade"]
    losses: int
    pass_seconds: float | None
    """What a pass takes, lately; ``None`` before the first."""
    away_seconds: float
    behind: int
    """Ids that wait for it in texts that go on without it; prompts that it has still to encode do not count."""
    unread: int
    """Texts whose prompts it has still to encode."""
    certificates: Certificates | None
    """Of a member that tells its likeliest ids only."""

    def to_json(self) -> dict[str, object]:
        given = asdict(self)
        if self.certificates is None:
            del given["certificates"]
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in given.items()}


def health(member: Member, groups: Sequence[SequenceGroup]) -> MemberHealth:
    """How a member does in what is being generated. May be asked in another thread."""
    breaker = member.breaker
    cursors = [text.cursors.get(member.name) for group in list(groups) for text in list(group.open)]
    away = [cursor for cursor in cursors if cursor is not None and cursor.away]
    behind, unread = (
        sum(len(cursor.ids) - cursor.read for cursor in away),
        sum(cursor.late is not None for cursor in away),
    )
    away_as: Literal["away", "refused"] = "refused" if breaker.refused else "away"
    return MemberHealth(
        state=away_as if breaker.reason else "catching up" if behind or unread else "ready",
        on_failure="degrade" if member.degrades else "error",
        losses=breaker.losses,
        pass_seconds=breaker.pass_seconds,
        away_seconds=breaker.away_seconds,
        behind=behind,
        unread=unread,
        certificates=None if member.certificates is None else replace(member.certificates),
    )


States = Mapping[SequenceGroup, Sequence[StepState]]


class LostMembers:
    """Looks at the members without whom texts may go on."""

    def __init__(self, members: Sequence[Member], runner: Runner, prefill: Prefill) -> None:
        self._members = [member for member in members if member.degrades]
        self._runner = runner
        self._prefill = prefill
        self._late = LatePrompts()

    def close(self) -> None:
        self._late.close()

    def note(self, states: States) -> dict[SequenceGroup, list[Member]]:
        """Let texts go without those that are away; return the groups that wait for members that are catching up.

        Raises a `MemberUnavailable` where a text cannot go on.
        """
        if not self._members:
            return {}
        self._late.join(
            [
                (state, member)
                for member in self._members
                if member.breaker.asks
                for its_states in states.values()
                for state in its_states
                if state.cursor(member).late is not None
            ]
        )
        self._catch_up(states)
        waiting = {group: self._await(its_states) for group, its_states in states.items() if its_states}
        return {group: members for group, members in waiting.items() if members}

    def _catch_up(self, states: States) -> None:
        """Let members that are back read on in texts of which they have missed much: a block, of all texts together."""
        left, portions = self._prefill.longest_block or 0, list[Portion]()
        for member in self._members:
            for state in [state for its_states in states.values() for state in its_states]:
                cursor = state.cursor(member)
                known = cursor.late is None and cursor.away
                if left and known and member.breaker.asks and self._prefill.is_far(cursor):
                    count = min(left, len(cursor.ids) - 1 - cursor.read)
                    portions.append(Portion(state.text, member, cursor, count))
                    left -= count
        self._runner.read_ahead(portions)

    def _await(self, states: Sequence[StepState]) -> list[Member]:
        """Settle who is away from the texts of a group, which have the same voters; return for whom they wait."""
        lost, back = list[Member](), list[Member]()
        for member in self._members:
            if not states[0].plan.spares(member):
                continue
            cursors = [state.cursor(member) for state in states]
            if not member.breaker.asks or any(cursor.late and cursor.late.refused for cursor in cursors):
                lost.append(member)
            elif any(cursor.away and (cursor.late or self._prefill.is_far(cursor)) for cursor in cursors):
                back.append(member)
            for cursor in cursors:
                cursor.away = member in lost or member in back
        if not lost and not back:
            return []
        for state in states:
            state.go_without({member.name for member in lost + back})
        why = next((why for state in states if (why := state.lacks())), None)
        if why is None:
            return []
        self._late.join([(state, member) for state in states for member in back], patience=None)
        back = [member for member in back if not any(state.cursor(member).late for state in states)]
        if not back:
            raise next(_losses(states, why))
        for cursor in [state.cursor(member) for state in states for member in back]:
            cursor.away = False
        return back


def _losses(states: Sequence[StepState], why: str) -> Iterator[Exception]:
    """Why those that are away from the texts of a group are away."""
    for state in states:
        for member in state.missing:
            late = state.cursor(member).late
            if late is not None and late.refused is not None:
                yield late.refused
            elif member.breaker.reason is not None:
                yield member.breaker.error(member.name, because=why)
