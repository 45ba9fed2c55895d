"""Scoring texts that are given: what their pieces' log-probabilities are under the combined distribution.

A given text has no pieces of its own. It is cut into those of the lead's tokenizer, each member spells them, and one
teacher-forced pass a member gives the combined distribution before every piece. The score is that of this one way of
writing the text; the probability of the bytes, however they are cut, is the sum over all ways, which nobody can
compute in full. Evaluations of single models make the same choice (lm-evaluation-harness scores a model's own
encoding), and of one member the two agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unisono.engine.gating import run_leads
from unisono.engine.group import SequenceGroup
from unisono.engine.member import Member
from unisono.engine.runner import Runner
from unisono.engine.sampler import Distributions, Sampler
from unisono.engine.sequence import TextSequence
from unisono.engine.step import Stepper
from unisono.engine.step_state import StepState
from unisono.engine.trace import record, write_given
from unisono.errors import PromptError
from unisono.records import PieceScore
from unisono.vocab.union import UnionVocabulary

AT_ONCE = 64  # pieces of a text that are scored in one pass: a distribution of each is held


class Scoring:
    """Scores what follows texts that have been begun."""

    def __init__(
        self, members: Sequence[Member], union: UnionVocabulary, runner: Runner, sampler: Sampler, stepper: Stepper
    ) -> None:
        self._members = members
        self._union = union
        self._runner = runner
        self._sampler = sampler
        self._stepper = stepper

    def score(self, given: Mapping[TextSequence, Sequence[int]]) -> dict[TextSequence, list[PieceScore]]:
        """Let texts go on as given, all in the same passes, and compute how likely each piece is.

        ``given`` has by text the columns of what follows it; END may be the last one. Raises a `PromptError` where a
        member's context cannot hold a text.
        """
        scores: dict[TextSequence, list[PieceScore]] = {text: [] for text in given}
        while left := {
            text: columns[len(scores[text]) :] for text, columns in given.items() if len(columns) > len(scores[text])
        }:
            self._score_block(left, scores)
        return scores

    def score_next(self, groups: Sequence[SequenceGroup]) -> None:
        """Let texts go on by the next pieces of what was given, as many as one pass scores, and keep their records.

        When a model fails, what had been scored stays. Raises a `PromptError` where a member's context is full.
        """
        texts = [group.sequences[0] for group in groups]
        try:
            for text in texts:
                if not text.pieces:
                    self._stepper.weigh_prompt(text)
                if not text.given:
                    text.end("length")
            if left := {text: text.given[text.pieces :] for text in texts if text.given}:
                self._score_block(left, {text: [] for text in left})
        except BaseException:
            for group in groups:
                self._stepper.restore(group, group.open)
            raise

    def _score_block(
        self, left: Mapping[TextSequence, Sequence[int]], scores: Mapping[TextSequence, list[PieceScore]]
    ) -> None:
        for member in self._members:
            member.begin_step()
        states: list[StepState] = []
        try:
            for text, columns in left.items():
                states.append(self._state(text, columns[:AT_ONCE]))
            run_leads(states, self._runner, self._sampler, given=True)
            self._runner.run_voters(states, keep=False)
            for position in range(max(state.last for state in states) + 1):
                reaching = [state for state in states if position <= state.last]
                for group, distributions in self._sampler.combine(reaching, position):
                    for row, state in enumerate(group):
                        column = left[state.text][position]
                        scores[state.text].append(self._scored(distributions, row, column))
                        record(state, position, column, distributions, row, self._union)
                        state.take(position, column)
        finally:
            for state in states:
                state.commit()
                write_given(state)
        for text, columns in left.items():
            if text.finish == "context" and len(columns) > AT_ONCE:
                raise _too_long(next(member for member in self._members if member.is_full(text.cursors[member.name])))

    def _state(self, text: TextSequence, columns: Sequence[int]) -> StepState:
        """A state that stands before the given pieces."""
        state = StepState(text, tuple(self._members), self._union)
        state.is_given = True
        for column in columns[:-1]:
            state.draft(column)
        for member in self._members:
            check_room(member, len(state.cursor(member).ids))
        return state

    def _scored(self, distributions: Distributions, row: int, column: int) -> PieceScore:
        p = float(distributions.q_BU[row, column])
        return PieceScore(
            self._union.piece(column),
            math.log(p) if p > 0 else -math.inf,
            distributions.likeliest[row] == column,
            tuple(voter.name for voter in distributions.voters),
        )


def check_room(member: Member, ids: int) -> None:
    """Raise a `PromptError` where a member's context does not hold so many ids of a prompt and a text."""
    if ids > member.backend.facts.context:
        raise _too_long(member)


def _too_long(member: Member) -> PromptError:
    context = member.backend.facts.context
    return PromptError(
        f"prompt and text have more tokens for member {member.name!r} than its context of {context}",
        hint="shorten the text, or raise the member's context in the ensemble file",
    )
