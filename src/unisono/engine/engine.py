"""The loop: draft, ask, combine, choose, commit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from unisono.chat.messages import Prompt
from unisono.config.constraint import Constraint
from unisono.config.method import Method
from unisono.constraints.protocol import Compile
from unisono.engine.commit import Committer
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.forward import by_model
from unisono.engine.member import Member
from unisono.engine.prefill import Prefill
from unisono.engine.request import DEFAULT_LIMITS, GenerationRequest, PreparedRequest, begin, prepare
from unisono.engine.runner import Runner
from unisono.engine.sampler import Sampler
from unisono.engine.scoring import Scoring, cut, scored_by
from unisono.engine.sequence import TextSequence, close_text, copy_text
from unisono.engine.speculation import Speculator
from unisono.engine.step_state import StepState
from unisono.engine.stepping import Stepping, all_windows
from unisono.errors import CapacityError, SpecError
from unisono.records import Limits, Score
from unisono.vocab.union import UnionVocabulary

DEFAULT_METHOD = Method()
UNLIMITED = Limits(2**31)


class Engine:
    """Loaded members and the texts that they are writing. Not thread-safe: one thread drives it."""

    def __init__(
        self,
        members: list[Member],
        union: UnionVocabulary,
        method: Method = DEFAULT_METHOD,
        *,
        pace: DraftLengthController | None = None,
        longest_block: int | None = None,
        compile_grammar: Compile | None = None,
    ) -> None:
        """Join members that were mapped into one union.

        Args:
            members: at least one; the weights sum to 1.
            union: the vocabulary of their maps.
            method: how texts are written that bring no method of their own.
            pace: how far drafts go; by default as far as it pays.
            longest_block: ids that a member may have to read of one text in a step. A text of which more has to be
                read stands back until that is done (`backlog`, `read`). By default nothing does.
            compile_grammar: makes grammars of constraints; without it no text can be bound to one.

        Raises:
            SpecError: the method does not fit the members.
        """
        method.check({member.name: member.weight for member in members})
        self.members = members
        self.union = union
        self.method = method
        self.active: list[TextSequence] = []
        self._compile_grammar = compile_grammar
        self._is_stepping = False
        self._given_up: list[TextSequence] = []
        self._pace = pace or DraftLengthController()
        chooser = Sampler(union)
        self._hearing = Runner(members, chooser, self._pace)
        self._backlog = Prefill(members, self._hearing, longest_block)
        self._drafting = Speculator(members, union, self._hearing, chooser, self._pace, self._backlog)
        settling = Committer(members, union, chooser, self._drafting)
        self._stepping = Stepping(members, self._hearing, self._backlog, self._drafting, settling)
        self._scoring = Scoring(members, union, self._hearing, chooser, settling)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def slots(self) -> int:
        """How many texts can be written at once; members that share a model share its slots."""
        return min(group[0].backend.facts.slots // len(group) for group in by_model(self.members))

    @property
    def free(self) -> int:
        """How many more can be taken up; a text that a beam searches counts for as many as that may follow."""
        return self.slots - sum(1 if text.beam is None else text.beam.width for text in self.active)

    @property
    def context(self) -> int:
        """The smallest of the members' contexts, in tokens of the member that has it; each member ends a text
        when its own is full.
        """
        return min(member.backend.facts.context for member in self.members)

    def add(
        self,
        prompt: Prompt,
        limits: Limits | None = None,
        *,
        method: Method | None = None,
        trace: bool = False,
        constraint: Constraint | str | Mapping[str, Any] | None = None,
    ) -> TextSequence:
        """Take up a new text; it joins the others at the next step.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than a member's context.
            SpecError: the method does not fit the members, or the constraint cannot be kept.
            NoRoom: too few slots are free.
        """
        request = GenerationRequest("", prompt, limits or DEFAULT_LIMITS, trace, method, constraint)
        return self.begin(self.prepare(request))

    def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """See whether a request can be served, and what it takes, without any slots.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than a member's context.
            SpecError: the method does not fit the members, or the constraint cannot be kept.
        """
        prepared = prepare(request, self.method, self.members, self.union, compile_grammar=self._compile_grammar)
        if prepared.width > self.slots:
            raise SpecError(
                f"beam_width is {prepared.width}, but there are slots for {self.slots} texts at once",
                hint=f"load for a batch of {prepared.width} or more, or say beam_width: {prepared.width} "
                "in the ensemble's file",
            )
        return prepared

    def begin(self, prepared: PreparedRequest, *, copies: bool = False) -> TextSequence:
        """Take up a text that was prepared.

        Args:
            prepared: what is to be written.
            copies: whether it is going to be taken up again (`add_again`): it is then written when all members
                have read its prompt (`read`), also those whom a gate may not ask.

        Raises:
            NoRoom: too few slots are free.
        """
        if prepared.width > self.free:
            room = f"{self.free} of {self.slots} slots are free" if self.free else f"all {self.slots} slots are taken"
            raise CapacityError(room, hint="finish a text, or load with a larger batch")
        text = begin(prepared, self.members, self.union)
        bounded = self._backlog.longest_block is not None
        self._backlog.join(text, everybody=copies or (bounded and text.beam is not None))
        self.active.append(text)
        return text

    def add_again(self, text: TextSequence, seed: int) -> TextSequence:
        """Take up another text of a prompt that was taken up before, with another seed.

        All members read the prompt now, if they have not, and it is not read again.

        Raises:
            NoRoom: all slots are taken.
            RuntimeError: the text has been written on.
        """
        if text.pieces or text.beam is not None or text not in self.active:
            raise RuntimeError("the text has been written on: take up its prompt anew")
        if not self.free:
            raise CapacityError(f"all {self.slots} slots are taken", hint="finish a text, or load with a larger batch")
        self.prefill(text)
        twin = copy_text(text, self.members, seed)
        self.active.append(twin)
        return twin

    def prefill(self, text: TextSequence) -> None:
        """Let all members read a text's prompt now, also those whom a gate would not ask for a while."""
        self._backlog.await_all(text, self.members)
        self.read({text: self.backlog(text)})

    def backlog(self, text: TextSequence) -> int:
        """How many ids have to be read of a text (`read`) before steps write on at it; 0 where none have to be.

        It is so with copies that are to share a prompt, and where blocks are bounded: with prompts that are longer,
        and with what a member has missed while it was not asked.
        """
        return self._backlog.size(text)

    def read(self, portions: Mapping[TextSequence, int]) -> None:
        """Read on in texts that have a backlog, each by so many ids at most, those of all members together.

        When a model fails, the texts are as they were before; those that cannot be are given up.
        """
        with self._busy():
            try:
                for text in portions:
                    for hypothesis in text.hypotheses:
                        self._stepping.weigh_prompt(hypothesis)
                self._backlog.read(portions)
            except BaseException:
                for text in portions:
                    self._stepping.restore(text, text.hypotheses)
                raise

    def step(self, texts: Sequence[TextSequence] | None = None) -> list[TextSequence]:
        """Write on at texts, by one piece or by as many as a draft allows; return those that ended.

        When a model fails, what had been chosen stays, and the next step goes on from there; texts that cannot
        are given up.

        Args:
            texts: active ones; by default all. Those that have a backlog are left out.
        """
        texts = [text for text in (self.active if texts is None else texts) if not self._backlog.size(text)]
        if not texts:
            return []
        began = time.perf_counter()
        for member in self.members:
            member.begin_step()
        members = tuple(self.members)
        windows = {
            text: [StepState(hypothesis, members, self.union) for hypothesis in text.hypotheses] for text in texts
        }
        with self._busy() as ended:
            try:
                self._stepping.write(windows)
            except BaseException:
                for text, its_windows in windows.items():
                    self._stepping.undo(text, its_windows)
                raise
            finally:
                spent = time.perf_counter() - began
                for window in all_windows(windows):
                    if window.drafted or window.text.steps is not None:
                        window.conclude(spent)
        if self._pace.in_use and windows and all(text.beam is None for text in windows):
            self._drafting.learn_step(all_windows(windows), spent)
        return ended

    def score(self, asked: Sequence[tuple[Prompt, str]], *, method: Method | None = None) -> list[Score]:
        """Tell how likely texts are that follow prompts, each cut as the lead's tokenizer cuts it; see `scoring`.

        A prompt that several texts follow is read once, by all members.

        Args:
            asked: prompts and what follows each, as many as there are free slots at most. A raw prompt may be empty:
                each member then reads its BOS, or else an END.
            method: by which they are scored; by default as the engine's others are written. Gates are read as if
                the text had been written; of a draw, what is done to each member's distribution counts.

        Raises:
            PromptError: a member cannot read a prompt or spell the text, or its context is too small for both.
            SpecError: the method does not fit the members.
            NoRoom: too few slots are free.
        """
        method = scored_by(method or self.method)
        given: dict[TextSequence, list[int]] = {}
        try:
            self._begin_scored(asked, method, given)
            with self._busy():
                for scored in given:
                    self._stepping.weigh_prompt(scored)
                began = time.perf_counter()
                scores = self._scoring.score(given)
                seconds = time.perf_counter() - began
        finally:
            for scored in given:
                self.drop(scored)
        return [Score(tuple(pieces), scored.prompt_tokens, seconds) for scored, pieces in scores.items()]

    def _begin_scored(
        self, asked: Sequence[tuple[Prompt, str]], method: Method, given: dict[TextSequence, list[int]]
    ) -> None:
        """Take up texts that are to be scored, all that follow one prompt as copies of the first of them."""
        all_prepared = [
            prepare(GenerationRequest("", prompt, UNLIMITED), method, self.members, self.union, may_be_empty=True)
            for prompt, _ in asked
        ]
        prompts = [tuple(tuple(ids) for ids in prepared.ids.values()) for prepared in all_prepared]
        firsts: dict[object, TextSequence] = {}
        for (prompt, text), prepared, ids in zip(asked, all_prepared, prompts, strict=True):
            columns = cut(prepared.plan.lead, prompt, text)
            if ids in firsts:
                scored = self.add_again(firsts[ids], 0)
            else:
                scored = firsts[ids] = self.begin(prepared, copies=prompts.count(ids) > 1)
            given[scored] = columns

    def drop(self, text: TextSequence) -> None:
        """Give up a text and free its slots. Dropping one that has ended changes nothing.

        Within a step, where only a garbage collector would think of it, the slots are freed when it ends.
        """
        if self._is_stepping:
            self._given_up.append(text)
        elif text in self.active:
            self.active.remove(text)
            self._backlog.forget(text)
            with contextlib.ExitStack() as closing:
                for hypothesis in text.hypotheses:
                    closing.callback(close_text, hypothesis, self.members)

    def run(self, text: TextSequence) -> Iterator[str]:
        """Step until a text has ended, yielding its text as it becomes safe to show.

        Other active texts go on meanwhile. Leaving the loop early gives the text up.
        """
        try:
            while text.finish is None:
                if text not in self.active:
                    raise RuntimeError("the text was given up before it ended")
                if ids := self.backlog(text):
                    self.read({text: min(ids, self._backlog.longest_block or ids)})
                self.step()
                while fresh := text.take_text():  # others may write on while this one is not being read
                    yield fresh
            if fresh := text.take_text():
                yield fresh
        finally:
            self.drop(text)

    def close(self) -> None:
        """Unload all members, even if one fails at it. Idempotent."""
        with contextlib.ExitStack() as closing:  # the last that is put in comes first
            for member in self.members:
                closing.callback(member.backend.unload)
            closing.callback(self._hearing.close)
            for text in list(self.active):
                closing.callback(self.drop, text)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[list[TextSequence]]:
        """While models work, slots are not freed; give the list that will hold the texts that ended meanwhile."""
        ended: list[TextSequence] = []
        self._is_stepping = True
        try:
            yield ended
        finally:
            self._is_stepping = False
            ended += [text for text in self.active if text.finish is not None]
            over = [*ended, *self._given_up, *self._stepping.lost]
            self._given_up.clear()
            self._stepping.lost.clear()
            with contextlib.ExitStack() as dropping:
                for text in over:
                    dropping.callback(self.drop, text)
