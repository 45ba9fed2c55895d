"""Loaded members and the sequences that they generate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

from unisono.chat.messages import Prompt
from unisono.config.constraint import Constraint
from unisono.config.method import Method
from unisono.config.without_union import refusal
from unisono.constraints.grammar import Compile
from unisono.engine.beam import Beam
from unisono.engine.byte_scoring import ByteScoring
from unisono.engine.byte_stepper import ByteStepper
from unisono.engine.certifier import Certifier
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.given_text import scored_by
from unisono.engine.group import SequenceGroup
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.engine.prefill import Prefill
from unisono.engine.preparer import Preparer
from unisono.engine.request import DEFAULT_LIMITS, GenerationRequest, PreparedRequest
from unisono.engine.runner import Runner, by_model
from unisono.engine.running_groups import RunningGroups
from unisono.engine.sampler import Sampler
from unisono.engine.scoring import Scoring
from unisono.engine.sequence import TextSequence
from unisono.engine.sequential_voting import SequentialVoting
from unisono.engine.setting_group import Setting
from unisono.engine.speculation import Speculator
from unisono.engine.step import States, Stepper, all_states
from unisono.engine.step_state import StepState
from unisono.engine.text_scorer import UNLIMITED, TextScorer
from unisono.engine.trace import write_records
from unisono.free_pages import PROCESS
from unisono.records import Limits
from unisono.vocab.union import UnionVocabulary

DEFAULT_METHOD = Method()


class Engine:
    """Loaded members and the groups of sequences that they generate. Not thread-safe: one thread drives it."""

    def __init__(
        self,
        members: list[Member],
        union: UnionVocabulary,
        method: Method = DEFAULT_METHOD,
        *,
        draft_length: DraftLengthController | None = None,
        longest_block: int | None = None,
        compile_grammar: Compile | None = None,
    ) -> None:
        """Join members that were mapped into one union.

        Args:
            members: at least one; the weights sum to 1.
            union: the vocabulary of their maps.
            method: how requests are served that bring no method of their own.
            draft_length: how far drafts go; by default as far as it pays.
            longest_block: ids that a member may have to read of one sequence in a step. A group of which more has to
                be read stands back until that is done (`backlog`, `read`). By default nothing does.
            compile_grammar: makes grammars of constraints; without it no text can be bound to one.

        Raises:
            SpecError: the method does not fit the members.
        """
        self.members, self.union, self.method = members, union, method
        self.plan = Plan(method, members, union)
        """The method, with its names looked up."""
        self.slots = min(sharing[0].backend.facts.slots // len(sharing) for sharing in by_model(members))
        """How many sequences can be generated at once; members that share a model share its slots."""
        self.prepare = Preparer(members, union, self.plan, self.slots, compile_grammar).prepare
        """Checks whether a request can be served, and what it takes; see `Preparer.prepare`."""
        self.compile_grammar = compile_grammar
        """Makes grammars, and keeps the last ones for `prepare`; may be called in another thread than that."""
        self._draft_length = draft_length or DraftLengthController()
        self._runner = runner = Runner(members, self._draft_length)
        sampler, prefill = Sampler(union), Prefill(members, runner, longest_block)
        sequential = SequentialVoting(members, runner, Certifier(runner), prefill, self._draft_length)
        certifier = Certifier(runner) if any(member.is_truncated for member in members) else None
        self._speculator = Speculator(members, union, runner, sampler, self._draft_length, prefill, certifier)
        self._stepper = Stepper(members, union, runner, prefill, self._speculator, sampler, sequential, certifier)
        self._bytes = ByteStepper(members, union, runner, prefill)
        self._running = running = RunningGroups(members, union, self.slots, prefill, self._stepper)
        self.begin, self.prefill, self.drop = running.begin, running.prefill, running.drop
        self.backlog, self.read = running.backlog, running.read
        """What of a group has to be read before steps advance it, and reading it; see `RunningGroups`."""
        self._scoring = Scoring(members, union, runner, sampler, self._stepper)
        scorings = self._scoring, ByteScoring(self._bytes, runner)
        self.score = TextScorer(members, union, method, self.prepare, running, self._stepper, *scorings).score
        """Scores texts that follow prompts; see `TextScorer.score`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def groups(self) -> list[SequenceGroup]:
        """What is being generated, in the order in which it was begun."""
        return self._running.groups

    @property
    def free(self) -> int:
        """How many more can be begun; a group counts for as many as it may come to have."""
        return self._running.free

    def texts_at_once(self, method: Method) -> int:
        """How many texts can be scored together by a method, or one where not even that can.

        In bytes a text takes one slot, and all of them together some for other cuts of theirs.
        """
        if method.vocabulary.is_bytes:
            return max(1, self.slots - method.vocabulary.slots + 1)
        return max(1, self.slots // method.slots)

    @property
    def context(self) -> int:
        """The smallest of the members' contexts, in tokens; each member ends a text when its own is full."""
        return min(member.backend.facts.context for member in self.members)

    @property
    def active(self) -> list[TextSequence]:
        """The sequences that were asked for and have not ended; of a beam the one that it searches."""
        return [text for group in self.groups for text in group.sequences if text.finish is None]

    def add(
        self,
        prompt: Prompt,
        limits: Limits | None = None,
        *,
        method: Method | None = None,
        trace: bool = False,
        constraint: Constraint | str | Mapping[str, Any] | None = None,
    ) -> TextSequence:
        """Begin a single sequence; raises what `prepare` and `begin` raise."""
        request = GenerationRequest("", prompt, limits or DEFAULT_LIMITS, trace, method, constraint)
        return self.begin(self.prepare(request)).sequences[0]

    def step(self, texts: Sequence[SequenceGroup | TextSequence] | None = None) -> list[TextSequence]:
        """Advance groups, by one piece or by as many as a draft allows; return the sequences that ended.

        When a model fails, what had been chosen stays, and the next step goes on from there; groups that cannot
        are given up.

        Args:
            texts: groups, or sequences of them; by default all. Those that have a backlog are left out.
        """
        groups = self._running.ready(texts)
        scoring, groups = _parted(groups, lambda text: text.request.score)
        ended = self._score_next(scoring) if scoring else []
        for group in groups:
            group.fork(self.members)
        walking, voting = _parted(groups, lambda text: text.plan.is_bytes)
        if walking:
            ended = ended + self._walk(walking)
        return ended + self._vote(voting) if voting else ended

    def _score_next(self, groups: Sequence[SequenceGroup]) -> list[TextSequence]:
        with self._running.stepping() as scored:
            self._scoring.score_next(groups)
        return scored

    def _walk(self, groups: Sequence[SequenceGroup]) -> list[TextSequence]:
        """Advance texts whose members vote on bytes."""
        with self._running.stepping() as walked:
            for group in groups:
                for text in group.open:
                    self._stepper.weigh_prompt(text)
            self._bytes.step(groups)
        return walked

    def _vote(self, groups: Sequence[SequenceGroup]) -> list[TextSequence]:
        """Advance texts whose members vote on pieces of the union."""
        began = time.perf_counter()
        for member in self.members:
            member.begin_step()
        members = tuple(self.members)
        states: States = {group: [StepState(each, members, self.union) for each in group.open] for group in groups}
        with self._running.stepping() as ended:
            try:
                self._stepper.advance(states)
            except BaseException:
                for group, its_states in states.items():
                    self._stepper.undo(group, its_states)
                raise
            finally:
                spent = time.perf_counter() - began
                for state in all_states(states):
                    if state.drafted or state.text.steps is not None:
                        state.count_drafts()
                        write_records(state, spent)
        if self._draft_length.in_use and states and not any(isinstance(group, Beam) for group in states):
            self._speculator.learn_step(all_states(states), spent)
        return ended

    def setting(self, method: Method | None = None) -> Setting:
        """These members and a method, for `Reading`.

        Raises a `SpecError` where the method does not fit the members, or scores bytes, which a reading does not.
        """
        plan = Plan(scored_by(method or self.method), self.members, self.union)
        if plan.is_bytes:
            raise refusal("one reading for several settings", "it scores pieces of a union", "score by `Engine.score`")

        def prepare(prompt: Prompt, plan: Plan) -> PreparedRequest:
            return self.prepare(GenerationRequest("", prompt, UNLIMITED), plan, may_be_empty=True)

        return Setting(self.members, self.union, plan, self.slots, prepare)

    def close(self) -> None:
        """Unload all members, even if one fails at it. Idempotent."""
        with contextlib.ExitStack() as closing:  # the last that is put in comes first
            for member in self.members:
                closing.callback(member.backend.unload)
            closing.callback(self._runner.close)
            closing.callback(self._stepper.close)
            for group in list(self.groups):
                closing.callback(self.drop, group)


def _parted(
    groups: Sequence[SequenceGroup], goes: Callable[[TextSequence], bool]
) -> tuple[list[SequenceGroup], list[SequenceGroup]]:
    """The groups whose texts go, and the others."""
    chosen = [group for group in groups if goes(group.sequences[0])]
    return chosen, [group for group in groups if group not in chosen]


def close_engines(engines: Collection[Engine]) -> None:
    """Unload all members of engines that may share models: all slots are freed before a model is unloaded."""
    with contextlib.ExitStack() as closing:  # the last that is put in comes first
        closing.callback(PROCESS.give_back)
        for engine in engines:
            closing.callback(engine.close)
        for engine in engines:
            for group in engine.groups:
                closing.callback(engine.drop, group)
