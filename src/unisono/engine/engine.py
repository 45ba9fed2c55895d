"""The loop: draft, ask, combine, choose, commit."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Self

from unisono.engine.beam import Beam
from unisono.engine.choosing import Chooser
from unisono.engine.hearing import Hearing, Question
from unisono.engine.member import Cursor, Member
from unisono.engine.method import AUTO, NGRAM, Method
from unisono.engine.ngram import NgramIndex
from unisono.engine.pace import Pace
from unisono.engine.passes import by_model
from unisono.engine.plan import make_plan
from unisono.engine.settle import Settling
from unisono.engine.speculate import Drafting
from unisono.engine.text import Text, close_text, copy_text
from unisono.engine.window import Window
from unisono.errors import PromptError, SpecError
from unisono.types import Limits, Prompt
from unisono.vocab.respell import Tail
from unisono.vocab.union import UnionVocabulary

DEFAULT_METHOD = Method()


class NoRoom(RuntimeError):
    """Fewer slots are free than a text needs."""


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
        method.check({member.name: member.weight for member in members})
        self.members = members
        self.union = union
        self.method = method
        self.active: list[Text] = []
        self._stepping = False
        self._given_up: list[Text] = []
        self._pace = pace or Pace()
        chooser = Chooser(union)
        self._hearing = Hearing(members, chooser, self._pace)
        self._drafting = Drafting(members, union, self._hearing, chooser, self._pace)
        self._settling = Settling(members, union, chooser, self._drafting)

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
            NoRoom: too few slots are free.
        """
        plan = make_plan(self.method if method is None else method, self.members, self.union)
        prompts = {member.name: member.begin(prompt) for member in self.members}
        for member in self.members:
            check_length(member.name, len(prompts[member.name]), member.backend.facts.context)
        width = plan.draw.beam_width
        if width > self.slots:
            raise SpecError(
                f"beam_width is {width}, but there are slots for {self.slots} texts at once",
                hint=f"load with batch={width} or more, or say draw: {{beam_width: {width}}} in the ensemble's file",
            )
        if width > self.free:
            room = f"{self.free} of {self.slots} slots are free" if self.free else f"all {self.slots} slots are taken"
            raise NoRoom(f"{room}: finish a text, or load with a larger batch")
        tail = Tail() if plan.respells else None
        cursors = {
            member.name: Cursor(member.backend.open(), prompts[member.name], tail=tail) for member in self.members
        }
        seed = secrets.randbits(64) if plan.draw.seed is None else plan.draw.seed
        text = Text(prompt, cursors, limits or Limits(), plan, trace=trace, seed=seed)
        if width > 1:
            text.beam = Beam(text.copy(cursors), width, plan.draw.length_penalty)
        if plan.drafter in (NGRAM, AUTO):
            column_V = plan.lead.map.column_V
            text.history = NgramIndex(self.union.end, (int(column_V[token]) for token in prompts[plan.lead.name]))
        self.active.append(text)
        return text

    def add_again(self, text: Text, seed: int) -> Text:
        """Take up another text of a prompt that was taken up before, with another seed.

        All members read the prompt now, if they have not, and it is not read again.

        Raises:
            NoRoom: all slots are taken.
            RuntimeError: the text has been written on.
        """
        if text.pieces or text.beam is not None or text not in self.active:
            raise RuntimeError("the text has been written on: take up its prompt anew")
        if not self.free:
            raise NoRoom(f"all {self.slots} slots are taken: finish a text, or load with a larger batch")
        self.prefill(text)
        twin = copy_text(text, self.members, seed)
        self.active.append(twin)
        return twin

    def prefill(self, text: Text) -> None:
        """Let all members read a text's prompt now, also those whom a gate would not ask for a while."""
        for hypothesis in text.hypotheses:
            self._weigh_prompt(hypothesis)
            for member in self.members:
                member.prefill(hypothesis.cursors[member.name])

    def step(self) -> list[Text]:
        """Write on at every active text, by one piece or by as many as a draft allows; return those that ended."""
        if not self.active:
            return []
        began = time.perf_counter()
        for member in self.members:
            member.begin_step()
        beams = [text for text in self.active if text.beam is not None]
        texts = [hypothesis for text in self.active for hypothesis in text.hypotheses]
        windows = [Window(text, self.members, self.union) for text in texts]
        self._stepping = True
        try:
            for text in texts:
                self._weigh_prompt(text)
            self._drafting.extend(windows)
            self._ask(windows, keep=bool(beams))
            self._settling.settle([window for window in windows if window.text in self.active])
            for text in beams:
                windows += self._settling.spread(text, [window for window in windows if window.text in text.hypotheses])
        except BaseException:
            self._undo(windows)
            raise
        finally:
            spent = time.perf_counter() - began
            for window in windows:
                window.conclude(spent)
            self._stepping = False
            ended = self._retire()
        if not beams:
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
            for hypothesis in text.hypotheses:
                close_text(hypothesis, self.members)

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

    def _weigh_prompt(self, text: Text) -> None:
        """Let all members score a text's prompt before they read it, where weights follow from that."""
        if text.plan.combine.reads_losses and not text.losses:
            text.losses = {
                member.name: member.prompt_loss(text.prompt, text.cursors[member.name].slot) for member in self.members
            }

    def _ask(self, windows: Sequence[Window], *, keep: bool) -> None:
        """Ask the leads, read the gates, and ask the others where these are open.

        Args:
            windows: of all texts.
            keep: whether what is heard has to last, as it does where a beam copies slots while it is settled.
        """
        led = [window for window in windows if window.awaits_lead]
        self._hearing.hear(
            Question(member, [(window, 0, window.last) for window in led if window.plan.lead is member], keep=True)
            for member in self.members
        )
        position = 0
        while led := [window for window in led if window.reaches(position)]:
            self._hearing.read_gates(led, position)
            position += 1
        self._hearing.hear(
            Question(member, [(window, *span) for window in windows if (span := window.span(member))], keep=keep)
            for member in self.members
        )

    def _undo(self, windows: Sequence[Window]) -> None:
        """After a failure: keep what was chosen and forget the rest, so that a step can begin anew."""
        for window in windows:
            with contextlib.suppress(Exception):
                self._settling.commit(window)
                for member in self.members:
                    member.unread_last(window.text.cursors[member.name])

    def _retire(self) -> list[Text]:
        ended = [text for text in self.active if text.finish is not None]
        for text in (*ended, *self._given_up):
            self.drop(text)
        self._given_up.clear()
        return ended


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
