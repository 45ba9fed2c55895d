"""The loop: draft, ask, combine, choose, commit."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Self

from unisono.engine.hearing import Hearing, Question
from unisono.engine.member import Cursor, Member
from unisono.engine.method import AUTO, NGRAM, Method
from unisono.engine.ngram import NgramIndex
from unisono.engine.pace import Pace
from unisono.engine.passes import by_model
from unisono.engine.plan import make_plan
from unisono.engine.speculate import Drafting
from unisono.engine.text import Text
from unisono.engine.trace import step_record
from unisono.engine.window import Window, rows_at
from unisono.errors import ModelError, PromptError
from unisono.fusion.fold import Array, bring
from unisono.fusion.sample import greedy
from unisono.types import Limits, Prompt
from unisono.vocab.union import UnionVocabulary

DEFAULT_METHOD = Method()


class Engine:
    """Loaded members and the texts that they are writing. Not thread-safe: one thread drives it."""

    def __init__(
        self,
        members: list[Member],
        union: UnionVocabulary,
        method: Method = DEFAULT_METHOD,
        *,
        pace: Pace | None = None,
    ) -> None:
        """Join members that were mapped into one union.

        Args:
            members: at least one; the weights sum to 1.
            union: the vocabulary of their maps.
            method: how texts are written that bring no method of their own.
            pace: how far drafts go; by default as far as it pays.

        Raises:
            SpecError: the method does not fit the members.
        """
        method.check([member.name for member in members])
        self.members = members
        self.union = union
        self.method = method
        self.active: list[Text] = []
        self._stepping = False
        self._given_up: list[Text] = []
        self._pace = pace or Pace()
        self._hearing = Hearing(members, union, self._pace)
        self._drafting = Drafting(members, union, self._hearing, self._pace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def slots(self) -> int:
        """How many texts can be written at once; members that share a model share its slots."""
        return min(group[0].backend.facts.slots // len(group) for group in by_model(self.members))

    @property
    def context(self) -> int:
        """The smallest of the members' contexts, in tokens of the member that has it; each member ends a text
        when its own is full.
        """
        return min(member.backend.facts.context for member in self.members)

    def add(
        self, prompt: Prompt, limits: Limits | None = None, *, method: Method | None = None, trace: bool = False
    ) -> Text:
        """Take up a new text; it joins the others at the next step.

        Args:
            prompt: what to continue or answer.
            limits: when to stop.
            method: how it is written; by default as the engine's others.
            trace: whether to keep a record of every step.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than a member's context.
            SpecError: the method does not fit the members.
            RuntimeError: all slots are taken.
        """
        plan = make_plan(self.method if method is None else method, self.members)
        prompts = {member.name: member.begin(prompt) for member in self.members}
        for member in self.members:
            check_length(member.name, len(prompts[member.name]), member.backend.facts.context)
        if len(self.active) >= self.slots:
            raise RuntimeError(f"all {self.slots} slots are taken: finish a text, or load with a larger batch")
        cursors = {member.name: Cursor(member.backend.open(), prompts[member.name]) for member in self.members}
        text = Text(cursors, limits or Limits(), plan, is_answer=prompt.messages is not None, trace=trace)
        if plan.drafter in (NGRAM, AUTO):
            column_V = plan.lead.map.column_V
            text.history = NgramIndex(self.union.end, (int(column_V[token]) for token in prompts[plan.lead.name]))
        self.active.append(text)
        return text

    def prefill(self, text: Text) -> None:
        """Let all members read a text's prompt now, also those whom a gate would not ask for a while."""
        for member in self.members:
            member.prefill(text.cursors[member.name])

    def step(self) -> list[Text]:
        """Write on at every active text, by one piece or by as many as a draft allows; return those that ended."""
        if not self.active:
            return []
        began = time.perf_counter()
        for member in self.members:
            member.begin_step()
        windows = [Window(text, self.members) for text in self.active]
        self._stepping = True
        try:
            self._drafting.extend(windows)
            self._ask(windows)
            self._settle(windows)
        except BaseException:
            self._undo(windows)
            raise
        finally:
            spent = time.perf_counter() - began
            for window in windows:
                window.conclude(spent)
            self._stepping = False
            ended = self._retire()
        self._drafting.learn_step(windows, spent)
        return ended

    def drop(self, text: Text) -> None:
        """Give up a text and free its slots. Dropping one that has ended changes nothing.

        Within a step, where only a garbage collector would think of it, the slots are freed when it ends.
        """
        if self._stepping:
            self._given_up.append(text)
        elif text in self.active:
            self.active.remove(text)
            for member in self.members:
                member.backend.close(text.cursors[member.name].slot)

    def run(self, text: Text) -> Iterator[str]:
        """Step until a text has ended, yielding its text as it becomes safe to show.

        Other active texts go on meanwhile. Leaving the loop early gives the text up.
        """
        try:
            while text.finish is None:
                if text not in self.active:
                    raise RuntimeError("the text was given up before it ended")
                self.step()
                while fresh := text.take_text():  # others may write on while this one is not being read
                    yield fresh
            if fresh := text.take_text():
                yield fresh
        finally:
            self.drop(text)

    def close(self) -> None:
        """Unload all members. Idempotent."""
        for text in list(self.active):
            self.drop(text)
        self._hearing.close()
        for member in self.members:
            member.backend.unload()

    def _ask(self, windows: Sequence[Window]) -> None:
        """Ask the leads, read the gates, and ask the others where these are open."""
        led = [window for window in windows if window.awaits_lead]
        self._hearing.hear(
            Question(member, [(window, 0, window.last) for window in led if window.plan.lead is member], keep=True)
            for member in self.members
        )
        position = 0
        while led := [window for window in led if window.reaches(position)]:
            self._hearing.read_gates(led, position)
            position += 1
        spans = [(window, *span) for window in windows if (span := window.asked_span()) is not None]
        self._hearing.hear(
            Question(member, [span for span in spans if not span[0].knows(member, span[2])]) for member in self.members
        )

    def _settle(self, windows: Sequence[Window]) -> None:
        """Choose position by position, as long as the drafts hold, and let every member go on from there."""
        position, alive = 0, list(windows)
        while alive:
            groups: defaultdict[tuple[bool, object], list[Window]] = defaultdict(list)
            for window in alive:
                all_vote = window.asked(position)
                groups[all_vote, window.plan.rule if all_vote else window.plan.lead].append(window)
            for (asked, _), group in groups.items():
                self._choose(group, position, asked=asked)
            alive = [window for window in alive if window.alive]
            position += 1
        for window in windows:
            self._commit(window)

    def _choose(self, windows: Sequence[Window], position: int, *, asked: bool) -> None:
        """Choose the piece at a position of windows that have the same voters and rule."""
        plan = windows[0].plan
        voters = self.members if asked else [plan.lead]
        own = rows_at(windows, plan.lead, position)
        p_BU_K = [own if voter is plan.lead else bring(rows_at(windows, voter, position), own) for voter in voters]
        q_BU = plan.rule(p_BU_K, [voter.weight for voter in voters]) if asked else own
        columns = greedy(q_BU)
        _check_numbers(q_BU, columns, p_BU_K, voters)
        for row, (window, column) in enumerate(zip(windows, columns, strict=True)):
            p_U_by_member = {voter.name: p_BU[row] for voter, p_BU in zip(voters, p_BU_K, strict=True)}
            if window.text.steps is not None:
                p = float(q_BU[row, column])
                window.record(step_record(window, position, column, p, p_U_by_member, self.union))
            self._drafting.learn(window, position, column, p_U_by_member, asked=asked)
            window.settle(position, column, self.union.piece(column), asked=asked)

    def _commit(self, window: Window) -> None:
        """Let every member go on from what was chosen, each with its own ids for it."""
        text, piece = window.text, None if window.choice is None else self.union.piece(window.choice)
        for member in self.members:
            if member.name in window.committed:
                continue
            cursor = text.cursors[member.name]
            member.cut(cursor, window.accepted)
            if window.choice is not None and piece is not None:
                cursor.ids.extend(member.spell(window.choice, piece, first=window.opens_answer))
            window.committed.add(member.name)
        if text.finish is None and any(
            len(text.cursors[member.name].ids) > member.backend.facts.context for member in self.members
        ):
            text.end("context")

    def _undo(self, windows: Sequence[Window]) -> None:
        """After a failure: keep what was chosen and forget the rest, so that a step can begin anew."""
        for window in windows:
            with contextlib.suppress(Exception):
                self._commit(window)
                for member in self.members:
                    member.unread_last(window.text.cursors[member.name])

    def _retire(self) -> list[Text]:
        ended = [text for text in self.active if text.finish is not None]
        for text in (*ended, *self._given_up):
            self.drop(text)
        self._given_up.clear()
        return ended


def _check_numbers(q_BU: Array, columns: list[int], p_BU_K: Sequence[Array], voters: Sequence[Member]) -> None:
    """Refuse to go on from distributions that are none: the largest of NaNs is NaN."""
    for row, column in enumerate(columns):
        if not math.isfinite(float(q_BU[row, column])):
            broken = [
                voter.name
                for voter, p_BU in zip(voters, p_BU_K, strict=True)
                if not math.isfinite(float(p_BU[row, column]))
            ]
            raise ModelError(
                f"member {', '.join(map(repr, broken))} gave probabilities that are not numbers",
                hint="its weights are damaged, or its dtype overflows: try dtype: float32 or bfloat16",
            )


def check_length(member: str, length: int, context: int) -> None:
    """Refuse a prompt that a member's context cannot hold. Raises a `PromptError`."""
    if length > context:
        raise PromptError(
            f"the prompt has {length} tokens for member {member!r}, more than its context of {context}",
            hint="shorten the prompt, or raise the member's context in the spec",
        )
    if length == 0:
        raise PromptError(
            f"member {member!r} reads this prompt as nothing at all", hint="check the member's chat_template"
        )
