"""Asking members in turn (`gate: certain`): those that cannot change what is chosen are not run (docs/adr/0023)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from unisono.engine.certifier import Certifier
from unisono.engine.draft_length import DraftLengthController, Work
from unisono.engine.group import SequenceGroup
from unisono.engine.member import Member
from unisono.engine.passes import MemberBatch
from unisono.engine.plan import Plan
from unisono.engine.prefill import Prefill
from unisono.engine.runner import Runner, by_model
from unisono.engine.step_state import StepState
from unisono.fusion.partial_votes import Unasked, decides, next_to_ask

Turns = dict[StepState, list[Member]]
"""Whom each text asks next."""


class SequentialVoting:
    """Asks members of texts that ask in turn, and notes in their states what is certain without the rest."""

    def __init__(
        self,
        members: Sequence[Member],
        runner: Runner,
        certifier: Certifier,
        prefill: Prefill,
        draft_length: DraftLengthController,
    ) -> None:
        """``draft_length`` knows what passes take."""
        self._members = members
        self._units = by_model(members)
        self._runner = runner
        self._certifier = certifier
        self._prefill = prefill
        self._times = draft_length

    def ask(self, states: Mapping[SequenceGroup, Sequence[StepState]]) -> dict[SequenceGroup, set[Member]]:
        """Ask members in turn, as long as some are left that may not be needed; the last are left to who asks all.

        Returns the groups that have to stand back, and the members that have too much of them to read.
        """
        self._times.is_timing = True
        everybody = {state: group for group, its_states in states.items() for state in its_states}
        groups = {state: group for state, group in everybody.items() if state.asks_in_turn}
        # A model whose texts may come to ask it one after another would lose the rows of the first; so it would where
        # a member is lost, and those who are there are asked about positions that were certain early.
        keep = self._runner.loses or len({(state.plan, state.asks_in_turn, state.drafter) for state in everybody}) > 1
        for state in groups:
            self._begin(state)
        waiting: defaultdict[SequenceGroup, set[Member]] = defaultdict(set)
        while turns := self._turns([state for state in groups if state.asks_in_turn and groups[state] not in waiting]):
            for state, members in turns.items():
                if far := {member for member in members if self._prefill.is_far(state.cursor(member))}:
                    waiting[groups[state]] |= far
            turns = {state: members for state, members in turns.items() if groups[state] not in waiting}
            self._run(turns, keep=keep)
            for state in turns:
                self._look(state)
        return dict(waiting)

    def _begin(self, state: StepState) -> None:
        """Note what is certain before anybody is asked: by a grammar, or by who has drafted."""
        for position in state.pending():
            choice = self._certifier.forced(state, position)
            if choice is None:  # nobody knows whether what is drafted behind it will be allowed
                break
            state.early_choices[position] = choice
        if state.drafter is not None:
            self._look(state)

    def _turns(self, states: Sequence[StepState]) -> Turns:
        """Who is asked next about each text; texts of one plan that have asked the same members ask the same next."""
        alike: defaultdict[tuple[Plan, frozenset[Member]], list[StepState]] = defaultdict(list)
        for state in states:
            if any(True for _ in state.pending()):
                alike[state.plan, frozenset(state.heard())].append(state)
        turns: Turns = {}
        for (plan, heard), group in alike.items():
            units = [[member for member in unit if member not in heard] for unit in self._units]
            left = [Unasked(unit, _weights(plan, unit), self._price(unit, group)) for unit in units if unit]
            chosen = next_to_ask(left, _weights(plan, heard), plan.combine.rule)
            if len(chosen) < len(left):
                members = [member for unit in chosen for member in unit]
                turns.update(dict.fromkeys(group, members))
        return turns

    def _price(self, unit: Sequence[Member], states: Sequence[StepState]) -> float:
        """What a pass of members that share a model would take, with all that they have missed."""
        tokens = sum(state.unread(member) for state in states for member in unit)
        rows = sum(state.last + 1 for state in states) * len(unit)
        return self._times.seconds(unit[0].model, Work(len(states) * len(unit), tokens, rows))

    def _run(self, turns: Turns, *, keep: bool) -> None:
        spans: defaultdict[Member, list[tuple[StepState, int, int]]] = defaultdict(list)
        for state, members in turns.items():
            for member in members:
                if span := state.span(member):
                    spans[member].append((state, *span))
        self._runner.run([MemberBatch(member, its_spans, keep=keep) for member, its_spans in spans.items()])

    def _look(self, state: StepState) -> None:
        """Note what is certain now. Where somebody was lost, nothing is: all who are there are asked."""
        heard = state.heard()
        rest = [member for member in self._members if member not in heard]
        plan = state.plan
        if not state.asks_in_turn or not decides(plan.combine.rule, _weights(plan, heard), _weights(plan, rest)):
            return
        for position in state.pending():
            choice = self._certifier.choose_early(state, position, heard)
            if choice.is_certain:
                state.early_choices[position] = choice


def _weights(plan: Plan, members: Iterable[Member]) -> list[float]:
    return [plan.weights[member.name] for member in members]
