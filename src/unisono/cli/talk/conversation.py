"""A conversation: what was asked and answered, and the messages that members read of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from unisono.chat.messages import Message
from unisono.records import Finish

REASONING = "reasoning_content"
"""The key of a message under which past reasoning stands."""
Ending = Finish | Literal["stopped"]
"""Why an answer ended; ``stopped``: by the user, or by a model that failed."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str
    reasoning: str | None = None
    ending: Ending = "end"

    @property
    def can_continue(self) -> bool:
        """Whether the answer was cut off, and was not ended by the members themselves."""
        return self.ending in ("stopped", "length", "context")

    def messages(self) -> list[Message]:
        said = Message(role="assistant", content=self.answer)
        if self.reasoning:
            said["extra"] = {REASONING: self.reasoning}
        return [Message(role="user", content=self.question), said]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A system message and the turns so far. What changes it gives another one."""

    system: str | None = None
    turns: tuple[Turn, ...] = ()

    def messages(self) -> list[Message]:
        """All of it, as members read it."""
        opening = [] if self.system is None else [Message(role="system", content=self.system)]
        return [*opening, *(message for turn in self.turns for message in turn.messages())]

    def asked(self, question: str) -> list[Message]:
        """The same, and a question that is to be answered."""
        return [*self.messages(), Message(role="user", content=question)]

    def with_turn(self, turn: Turn) -> Conversation:
        return replace(self, turns=(*self.turns, turn))

    def without_last(self, count: int = 1) -> Conversation:
        return replace(self, turns=self.turns[: max(0, len(self.turns) - count)])

    def without_first(self, count: int = 1) -> Conversation:
        return replace(self, turns=self.turns[count:])
