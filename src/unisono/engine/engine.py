"""Loaded members and the sequences that they generate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from unisono.engine.given import cut, scored_by
from unisono.engine.group import SequenceGroup
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.engine.prefill import Prefill
from unisono.engine.preparer import Preparer
from unisono.engine.request import DEFAULT_LIMITS, GenerationRequest, PreparedRequest
from unisono.engine.runner import Runner, by_model
from unisono.engine.sampler import Sampler
from unisono.engine.scoring import Scoring
from unisono.engine.sequence import TextSequence, begin_sequence, close_sequence
from unisono.engine.sequential_voting import SequentialVoting
from unisono.engine.setting_group import Setting
from unisono.engine.speculation import Speculator
from unisono.engine.step import States, Stepper, all_states
from unisono.engine.step_state import StepState
from unisono.errors import CapacityError
from unisono.free_pages import PROCESS
from unisono.records import Limits, PieceScore, Score
from unisono.vocab.union import UnionVocabulary

DEFAULT_METHOD = Method()
UNLIMITED = Limits(2**31)


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
        self.members = members
        self.union = union
        self.method = method
        self.plan = Plan(method, members, union)
        """The method, with its names looked up."""
        self.slots = min(sharing[0].backend.facts.slots // len(sharing) for sharing in by_model(members))
        """How many sequences can be generated at once; members that share a model share its slots."""
        self.prepare = Preparer(members, union, self.plan, self.slots, compile_grammar).prepare
        """Checks whether a request can be served, and what it takes; see `Preparer.prepare`."""
        self.compile_grammar = compile_grammar
        """Makes grammars, and keeps the last ones for `prepare`; may be called in another thread than that."""
        self.groups: list[SequenceGroup] = []
        """What is being generated, in the order in which it was begun."""
        self._is_stepping = False
        self._given_up: list[SequenceGroup] = []
        self._sampler, self._draft_length = Sampler(union), draft_length or DraftLengthController()
        self._runner = Runner(members, self._draft_length)
        self._prefill = Prefill(members, self._runner, longest_block)
        runner, prefill, sampler = self._runner, self._prefill, self._sampler
        sequential = SequentialVoting(members, runner, Certifier(runner), prefill, self._draft_length)
        certifier = Certifier(runner) if any(member.is_truncated for member in members) else None
        self._speculator = Speculator(members, union, runner, sampler, self._draft_length, prefill, certifier)
        self._stepper = Stepper(members, union, runner, prefill, self._speculator, sampler, sequential, certifier)
        self._scoring = Scoring(members, union, self._runner, self._sampler, self._stepper)
        self._bytes = ByteStepper(members, union, runner, prefill)
        self._byte_scoring = ByteScoring(self._bytes, runner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """How many more can be begun; a group counts for as many as it may come to have."""
        return self.slots - sum(group.slots for group in self.groups)

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

    def begin(self, prepared: PreparedRequest) -> SequenceGroup:
        """Begin what was prepared; it joins the other groups at the next step. Raises a `CapacityError`."""
        if prepared.cost.texts > self.free:
            raise no_room(self.free, self.slots)
        first, n = begin_sequence(prepared, self.members, self.union), prepared.request.n
        group = Beam(first) if first.plan.draw.beam_width > 1 else SequenceGroup(first, n, prepared.cost.texts // n)
        self._prefill.join(group)
        self.groups.append(group)
        return group

    def prefill(self, text: SequenceGroup | TextSequence) -> None:
        """Let all members read a prompt now, also those whom a gate would not ask for a while."""
        if group := self._group(text):
            self._prefill.await_all(group, self.members)
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
        with self._busy():
            try:
                for group in groups:
                    for sequence in group.open:
                        self._stepper.weigh_prompt(sequence)
                self._prefill.read(groups)
            except BaseException:
                for group in groups:
                    self._stepper.restore(group, group.open)
                raise

    def step(self, texts: Sequence[SequenceGroup | TextSequence] | None = None) -> list[TextSequence]:
        """Advance groups, by one piece or by as many as a draft allows; return the sequences that ended.

        When a model fails, what had been chosen stays, and the next step goes on from there; groups that cannot
        are given up.

        Args:
            texts: groups, or sequences of them; by default all. Those that have a backlog are left out.
        """
        groups = self._ready(texts)
        scoring, groups = _parted(groups, lambda text: text.request.score)
        ended = self._score_next(scoring) if scoring else []
        for group in groups:
            group.fork(self.members)
        walking, voting = _parted(groups, lambda text: text.plan.is_bytes)
        if walking:
            ended = ended + self._walk(walking)
        return ended + self._vote(voting) if voting else ended

    def _ready(self, texts: Sequence[SequenceGroup | TextSequence] | None) -> list[SequenceGroup]:
        """Groups of these, or of all, that have something to write and no backlog to wait for."""
        given = (
            self.groups
            if texts is None
            else dict.fromkeys(text if isinstance(text, SequenceGroup) else self._group(text) for text in texts)
        )
        return [group for group in given if group and not (group.awaited and self._prefill.size(group))]

    def _score_next(self, groups: Sequence[SequenceGroup]) -> list[TextSequence]:
        with self._busy() as scored:
            self._scoring.score_next(groups)
        return scored

    def _walk(self, groups: Sequence[SequenceGroup]) -> list[TextSequence]:
        """Advance texts whose members vote on bytes."""
        with self._busy() as walked:
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
        with self._busy() as ended:
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
                        state.conclude(spent)
        if self._draft_length.in_use and states and not any(isinstance(group, Beam) for group in states):
            self._speculator.learn_step(all_states(states), spent)
        return ended

    def score(self, asked: Sequence[tuple[Prompt, str]], *, method: Method | None = None) -> list[Score]:
        """Compute how likely texts are that follow prompts, each cut as the lead's tokenizer cuts it; see `scoring`.

        A prompt that several texts follow is read once, by all members.

        Args:
            asked: prompts and what follows each, as many as there are free slots at most. A raw prompt may be empty:
                each member then reads its BOS, or else an END.
            method: by which they are scored; by default the engine's own. Gates are read as if the text had been
                generated; of the sampling, what is done to each member's distribution counts.

        Raises:
            PromptError: a member cannot read a prompt or spell the text, or its context is too small for both.
            SpecError: the method does not fit the members.
            CapacityError: too few slots are free.
        """
        method = scored_by(method or self.method)
        requests = [GenerationRequest("", prompt, UNLIMITED) for prompt, _ in asked]
        plan = Plan(method, self.members, self.union)
        prepared = [replace(self.prepare(each, plan, may_be_empty=True), parse=None) for each in requests]
        prompts = [tuple(tuple(ids) for ids in each.ids.values()) for each in prepared]
        groups: dict[object, SequenceGroup] = {}
        given: dict[TextSequence, list[int]] = {}
        try:
            columns = [cut(each.plan.lead, *pair) for each, pair in zip(prepared, asked, strict=True)]
            for each, ids in zip(prepared, prompts, strict=True):
                if ids not in groups:
                    n = prompts.count(ids)
                    several = replace(each, request=replace(each.request, n=n), cost=replace(each.cost, texts=n))
                    groups[ids] = self.begin(several)
                    if groups[ids].n > 1:
                        self.prefill(groups[ids])
                        groups[ids].fork(self.members)
            left = {ids: iter(group.sequences) for ids, group in groups.items()}
            texts = [next(left[ids]) for ids in prompts]
            given = dict(zip(texts, columns, strict=True))
            with self._busy():
                for text in given:
                    self._stepper.weigh_prompt(text)
                began = time.perf_counter()
                scores = self._score_bytes(given, asked) if plan.is_bytes else self._scoring.score(given)
                seconds = time.perf_counter() - began
        finally:
            for group in groups.values():
                self.drop(group)
        return [Score(tuple(pieces), scored.prompt_tokens, seconds) for scored, pieces in scores.items()]

    def _score_bytes(
        self, given: Mapping[TextSequence, Sequence[int]], asked: Sequence[tuple[Prompt, str]]
    ) -> dict[TextSequence, list[PieceScore]]:
        """The same in bytes, told by the same pieces."""
        pieces = [[self.union.piece(column) or b"" for column in columns] for columns in given.values()]
        prompts = [prompt for prompt, _ in asked]
        return self._byte_scoring.score(dict(zip(given, zip(prompts, pieces, strict=True), strict=True)), self.free)

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

    def close(self) -> None:
        """Unload all members, even if one fails at it. Idempotent."""
        with contextlib.ExitStack() as closing:  # the last that is put in comes first
            for member in self.members:
                closing.callback(member.backend.unload)
            closing.callback(self._runner.close)
            closing.callback(self._stepper.close)
            for group in list(self.groups):
                closing.callback(self.drop, group)

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
                closing.callback(close_sequence, sequence, self.members)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[list[TextSequence]]:
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


def no_room(free: int, slots: int) -> CapacityError:
    """What a request for more slots than are free is refused with."""
    room = f"{free} of {slots} slots are free" if free else f"all {slots} slots are taken"
    return CapacityError(room, hint="finish a text, or load with a larger batch")
