"""The loop: every member votes, the votes are combined, a piece is drawn, everyone goes on from it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from unisono.engine.member import Cursor, Member
from unisono.engine.sequence import Sequence
from unisono.errors import ModelError, PromptError
from unisono.fusion.combine import CombineRule, mean
from unisono.fusion.fold import Array, bring
from unisono.fusion.sample import greedy
from unisono.types import Limits, Prompt, StepRecord
from unisono.vocab.union import UnionVocabulary


class Engine:
    """Loaded members and the texts that they are writing. Not thread-safe: one thread drives it."""

    def __init__(self, members: list[Member], union: UnionVocabulary, rule: CombineRule = mean) -> None:
        """Join members that were mapped into one union.

        Args:
            members: at least one; the weights sum to 1.
            union: the vocabulary of their maps.
            rule: how their distributions become one.
        """
        self.members = members
        self.union = union
        self.active: list[Sequence] = []
        self._rule = rule
        self._groups = _by_device(members)
        self._pool = ThreadPoolExecutor(len(self._groups)) if len(self._groups) > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def slots(self) -> int:
        """How many texts can be written at once."""
        return min(member.backend.facts.slots for member in self.members)

    @property
    def context(self) -> int:
        """The smallest of the members' contexts, in tokens of the member that has it; each member ends a text
        when its own is full.
        """
        return min(member.backend.facts.context for member in self.members)

    def add(self, prompt: Prompt, limits: Limits | None = None, *, trace: bool = False) -> Sequence:
        """Take up a new text; it joins the others at the next step.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than a member's context.
            RuntimeError: all slots are taken.
        """
        prompts = {member.name: member.begin(prompt) for member in self.members}
        for member in self.members:
            check_length(member.name, len(prompts[member.name]), member.backend.facts.context)
        if len(self.active) >= self.slots:
            raise RuntimeError(f"all {self.slots} slots are taken: finish a text, or load with a larger batch")
        cursors = {member.name: Cursor(member.backend.open(), prompts[member.name]) for member in self.members}
        sequence = Sequence(cursors, limits or Limits(), is_answer=prompt.messages is not None, trace=trace)
        self.active.append(sequence)
        return sequence

    def step(self) -> list[Sequence]:
        """Choose one piece for every active text; return the texts that ended with it."""
        if not self.active:
            return []
        p_BU_K = self._vote()
        q_BU = self._rule(p_BU_K, [member.weight for member in self.members])
        columns = greedy(q_BU)
        self._check_numbers(q_BU, columns, p_BU_K)
        for row, column in enumerate(columns):
            sequence = self.active[row]
            if sequence.steps is not None:
                masses = {
                    member.name: float(p_BU[row, column]) for member, p_BU in zip(self.members, p_BU_K, strict=True)
                }
                voted = tuple(member.name for member in self.members)
                piece = self.union.piece(column)
                sequence.steps.append(StepRecord(piece, float(q_BU[row, column]), voted, masses))
            self._commit(sequence, column)
        return self._retire()

    def drop(self, sequence: Sequence) -> None:
        """Give up a text and free its slots. Dropping one that has ended changes nothing."""
        if sequence in self.active:
            self.active.remove(sequence)
            for member in self.members:
                member.backend.close(sequence.cursors[member.name].slot)

    def run(self, sequence: Sequence) -> Iterator[str]:
        """Step until a text has ended, yielding its text as it becomes safe to show.

        Other active texts go on meanwhile. Leaving the loop early gives the text up.
        """
        try:
            while sequence.finish is None:
                if sequence not in self.active:
                    raise RuntimeError("the text was given up before it ended")
                self.step()
                if text := sequence.take_text():
                    yield text
        finally:
            self.drop(sequence)

    def close(self) -> None:
        """Unload all members. Idempotent."""
        for sequence in list(self.active):
            self.drop(sequence)
        if self._pool is not None:
            self._pool.shutdown()
        for member in self.members:
            member.backend.unload()

    def _vote(self) -> list[Array]:
        """Ask every member about every active text: ``p_BU`` by member, all where the first one's lies."""
        before = {member.name: member.seconds for member in self.members}
        first = [sequence.at_first_piece for sequence in self.active]
        votes: dict[str, Array] = {}

        def ask(group: list[Member]) -> None:
            for member in group:
                votes[member.name] = member.vote([text.cursors[member.name] for text in self.active], first)

        if self._pool is None:
            ask(self.members)
        else:
            for asked in [self._pool.submit(ask, group) for group in self._groups]:
                asked.result()
        for member in self.members:
            spent = member.seconds - before[member.name]
            for sequence in self.active:
                sequence.member_seconds[member.name] += spent
        lead = votes[self.members[0].name]
        return [bring(votes[member.name], lead) for member in self.members]

    def _check_numbers(self, q_BU: Array, columns: list[int], p_BU_K: list[Array]) -> None:
        """Refuse to go on from distributions that are none: the largest of NaNs is NaN."""
        for row, column in enumerate(columns):
            if not math.isfinite(float(q_BU[row, column])):
                broken = [
                    member.name
                    for member, p_BU in zip(self.members, p_BU_K, strict=True)
                    if not math.isfinite(float(p_BU[row, column]))
                ]
                raise ModelError(
                    f"member {', '.join(map(repr, broken))} gave probabilities that are not numbers",
                    hint="its weights are damaged, or its dtype overflows: try dtype: float32 or bfloat16",
                )

    def _commit(self, sequence: Sequence, column: int) -> None:
        """Let every member go on from the chosen piece, each with its own ids for it."""
        piece = self.union.piece(column)
        if piece is None:
            sequence.end("end")
            return
        first = sequence.at_first_piece
        for member in self.members:
            sequence.cursors[member.name].ids.extend(member.spell(column, piece, first=first))
        sequence.append(piece)
        if sequence.finish is None and any(
            len(sequence.cursors[member.name].ids) > member.backend.facts.context for member in self.members
        ):
            sequence.end("context")

    def _retire(self) -> list[Sequence]:
        ended = [sequence for sequence in self.active if sequence.finish is not None]
        for sequence in ended:
            self.drop(sequence)
        return ended


def _by_device(members: list[Member]) -> list[list[Member]]:
    """Members that share a device take turns on it; the groups run side by side."""
    groups: defaultdict[str, list[Member]] = defaultdict(list)
    for member in members:
        groups[member.backend.facts.device].append(member)
    return list(groups.values())


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
