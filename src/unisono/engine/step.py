"""One step: draft, run members, combine, choose, commit. Where a model fails, what was chosen stays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from unisono.engine.beam import Beam, BeamCandidate, Continuation
from unisono.engine.certifier import Certifier
from unisono.engine.choice import Choice
from unisono.engine.gating import run_leads
from unisono.engine.group import SequenceGroup
from unisono.engine.lost_members import LostMembers
from unisono.engine.member import Member
from unisono.engine.prefill import Prefill
from unisono.engine.runner import Runner
from unisono.engine.sampler import Distributions, Sampler, is_blind
from unisono.engine.sequence import TextSequence, close_sequence, copy_sequence
from unisono.engine.sequential_voting import SequentialVoting
from unisono.engine.speculation import Speculator
from unisono.engine.step_state import StepState
from unisono.engine.trace import choose_unfolded, record, record_told
from unisono.fusion.unfolded import Unfolded
from unisono.vocab.union import UnionVocabulary

States = dict[SequenceGroup, list[StepState]]


class Stepper:
    """Advances groups of sequences by a step, for an engine that owns them."""

    def __init__(
        self,
        members: Sequence[Member],
        union: UnionVocabulary,
        runner: Runner,
        prefill: Prefill,
        speculator: Speculator,
        sampler: Sampler,
        sequential: SequentialVoting,
        certifier: Certifier | None = None,
    ) -> None:
        """``certifier`` chooses where members tell their likeliest ids only."""
        self.lost: list[SequenceGroup] = []
        """Groups of which a member could not be brought back to what its log says: they cannot go on."""
        self._members = members
        self._union = union
        self._runner = runner
        self._prefill = prefill
        self._lost_members = LostMembers(members, runner, prefill)
        self._speculator = speculator
        self._sampler = sampler
        self._sequential_voting = sequential
        self._certifier = certifier

    def advance(self, states: States) -> None:
        """Advance groups. Those that turn out to need prefill first are taken out of the states."""
        for group, back in self._lost_members.note(states).items():
            self._await(group, states, back)
        flat = all_states(states)
        for state in flat:
            if state.plan.weighs_prompt:
                self.weigh_prompt(state.text)
        if any(state.plan.drafter is not None for state in flat):
            self._speculator.extend(flat)
        if any(state.plan.is_gated for state in flat):
            run_leads(flat, self._runner, self._sampler, self._certifier)
        if any(state.asks_in_turn for state in flat):
            for group, far in self._sequential_voting.ask(states).items():
                self._await(group, states, far)
            flat = all_states(states)
        if self._prefill.longest_block is not None:
            for group, its_states in list(states.items()):
                if late := {member for state in its_states for member in self._prefill.late(state)}:
                    self._await(group, states, late)
            flat = all_states(states)
        beams = [group for group in states if isinstance(group, Beam)]
        self._runner.run_voters(flat, keep=bool(beams))
        if beams:
            flat = [state for group in states if group not in beams for state in states[group]]
        self._settle(flat)
        for group in beams:
            states[group] += self._expand(group, states[group])
        for group, its_states in states.items():
            if stuck := [state.text for state in its_states if state.stood_back]:
                self.restore(group, stuck)

    def _await(self, group: SequenceGroup, states: States, members: Iterable[Member]) -> None:
        """Take a group out of the step until some members have read what they have missed."""
        self.undo(group, states.pop(group))
        self._prefill.await_all(group, members)

    def weigh_prompt(self, sequence: TextSequence) -> None:
        """Let all members score a sequence's prompt before they read it, where weights follow from that."""
        if sequence.plan.weighs_prompt and not sequence.losses:
            sequence.losses = {
                member.name: member.prompt_loss(sequence.asked[member.name], sequence.cursors[member.name].slot)
                for member in self._members
            }

    def undo(self, group: SequenceGroup, states: Sequence[StepState]) -> None:
        """Keep what was chosen and forget the rest, so that a step can begin anew."""
        following = [state for state in states if state.text.cursors]  # others were let go of
        try:
            for state in following:
                state.commit()
        except Exception:
            self.lost.append(group)
        else:
            self.restore(group, [state.text for state in following])

    def close(self) -> None:
        self._lost_members.close()

    def restore(self, group: SequenceGroup, sequences: Sequence[TextSequence]) -> None:
        """Make models hold what the logs say, after a failure; a group of which one cannot is lost."""
        try:
            for sequence in sequences:
                for member in self._members:
                    member.restore(sequence.cursors[member.name])
        except Exception:
            self.lost.append(group)

    def _settle(self, states: Sequence[StepState]) -> None:
        """Choose position by position, as long as the drafts hold, and let every member go on from there."""
        position, alive = 0, list(states)
        while alive:
            rest = alive
            if early := [state for state in alive if position in state.early_choices]:
                rest = [state for state in rest if state not in early]
                self._take_certified(early, position, [state.early_choices[position] for state in early])
            if self._certifier is not None and (told := [state for state in rest if state.is_certified(position)]):
                rest = [state for state in rest if state not in told]
                self._take_certified(told, position, self._certifier.choose(told, position))
            plain = [state for state in rest if state.is_plain]
            if plain and (unfolded := self._sampler.unfolded(plain, position)) is not None:
                taken = self._take_unfolded(plain, position, unfolded)
                rest = [state for state in rest if state not in taken]
            for group, distributions in self._sampler.combine(rest, position):
                self._choose(group, position, distributions)
            alive = [state for state in alive if state.alive]
            position += 1
        for state in states:
            state.commit()

    def _choose(self, group: Sequence[StepState], position: int, distributions: Distributions) -> None:
        chosen = self._sampler.choose(group, position, distributions)
        columns = [state.settled_as(column) for state, column in zip(group, chosen, strict=True)]
        for row, (state, column) in enumerate(zip(group, chosen, strict=True)):
            if state.may_stand_back and is_blind(state, position, column, [p_BU[row] for p_BU in distributions.p_BU_K]):
                state.stand_back(position)
        if self._speculator.draft_length.in_use and not any(state.stood_back for state in group):
            self._speculator.learn(group, position, columns)
        for row, (state, column) in enumerate(zip(group, columns, strict=True)):
            if state.stood_back:
                continue
            unproved = distributions.are_completed or not state.is_gate_certain(position)
            record(state, position, column, distributions, row, self._union, unproved=unproved)
            state.take(position, column, unproved=unproved)

    def _take_unfolded(self, states: Sequence[StepState], position: int, unfolded: Unfolded) -> set[StepState]:
        """Take the columns that can be chosen without folding; return the texts whose these are."""
        taken = set()
        for row, state in enumerate(states):
            if (column := choose_unfolded(state, position, unfolded, row, self._union)) is not None:
                state.take(position, column)
                taken.add(state)
        return taken

    def _take_certified(self, states: Sequence[StepState], position: int, choices: Sequence[Choice]) -> None:
        if self._speculator.draft_length.in_use:
            self._speculator.learn(states, position, [choice.column for choice in choices])
        for state, choice in zip(states, choices, strict=True):
            for certificates in (voter.certificates for voter in choice.asked):
                if certificates is not None:
                    certificates.certain += choice.is_certain
                    certificates.uncertain += not choice.is_certain
            has_none = choice.certificate.is_blind and state.allowed(position) is not None
            if has_none and state.stand_back(position):
                continue
            record_told(state, position, choice, self._union)
            state.take(position, choice.column, unproved=not choice.is_certain)

    def _expand(self, beam: Beam, states: Sequence[StepState]) -> list[StepState]:
        """Continue a beam with the most likely continuations of all its candidates; return the states of new ones.

        The members' distributions have to be kept: slots are copied, and other groups were committed before.
        """
        outputs: dict[StepState, tuple[Distributions, int]] = {}
        for voting, distributions in self._sampler.combine(states, 0):
            outputs.update((state, (distributions, row)) for row, state in enumerate(voting))
        for state, (distributions, row) in outputs.items():
            rows, column = [p_BU[row] for p_BU in distributions.p_BU_K], int(distributions.shaped_BU[row].argmax())
            if state.may_stand_back and is_blind(state, 0, column, rows):
                state.stand_back(0)
        if any(state.stood_back for state in states):
            return []
        shaped = [outputs[state][0].shaped_BU[outputs[state][1]] for state in states]
        likely = beam.rank(shaped, self._union.end)
        ranked = [replace(each, column=states[each.parent].settled_as(each.column)) for each in likely]
        parents = {continuation.parent for continuation in ranked if continuation.column != self._union.end}
        for number, state in enumerate(states):
            if number not in parents:
                self._let_go(state.text)
        beam.candidates = [beam.candidates[number] for number in sorted(parents)]
        children = self._branch(states, ranked)
        beam.candidates = [BeamCandidate(state.text, continuation.score) for state, continuation in children]
        for state, continuation in children:
            record(state, 0, continuation.column, *outputs[states[continuation.parent]], self._union)
            state.take(0, continuation.column)
            state.commit()
        best = beam.advance()
        for state, _ in children:
            if state.text.finish is not None or best is not None:
                self._let_go(state.text)
        if best is not None:
            beam.conclude(best)
        return [state for state, _ in children if state not in states]

    def _branch(
        self, states: Sequence[StepState], ranked: Sequence[Continuation]
    ) -> list[tuple[StepState, Continuation]]:
        """Give every continuation a state: the first of a parent goes on in its parent's, the others in copies."""
        children: list[tuple[StepState, Continuation]] = []
        with contextlib.ExitStack() as copies:
            for continuation in ranked:
                state = states[continuation.parent]
                if continuation.column == self._union.end:
                    state = state.branch(state.text.copy({}))  # it ends here, and needs no slots
                elif any(state is taken for taken, _ in children):
                    state = state.branch(copy_sequence(state.text, self._members))
                    copies.callback(close_sequence, state.text, self._members)
                children.append((state, continuation))
            copies.pop_all()
        return children

    def _let_go(self, candidate: TextSequence) -> None:
        close_sequence(candidate, self._members, for_good=True)
        candidate.cursors = {}


def all_states(states: Mapping[SequenceGroup, Sequence[StepState]]) -> list[StepState]:
    return [state for its_states in states.values() for state in its_states]
