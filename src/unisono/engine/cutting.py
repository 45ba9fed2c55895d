"""A text that is scored, as those have it who listen to its reading: cut into pieces, spelled by each member."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from unisono.backends.base import Array
from unisono.chat.messages import Prompt
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.engine.request import PreparedRequest
from unisono.vocab.union import UnionVocabulary

MemberKey = tuple[str, int, str | None]
"""A member as it reads, whatever its weight and temperature: its name, its model and its adapter."""


class Listener(Protocol):
    """Whoever wants to know something of the distributions before the pieces of texts."""

    @property
    def members(self) -> Sequence[Member]: ...
    @property
    def union(self) -> UnionVocabulary: ...
    @property
    def plan(self) -> Plan:
        """Its lead cuts the texts."""

    @property
    def prepare(self) -> Callable[[Prompt, Plan], PreparedRequest]:
        """Encodes a prompt for its members."""

    @property
    def weighs_prompt(self) -> bool:
        """Whether it wants to know how unlikely members find the prompt."""

    def score(self, jobs: Sequence[Job], logits_K: Sequence[Array]) -> None:
        """Look at positions; ``logits_K`` has the rows of a pass of each member's model, until this returns."""


def key_of(member: Member) -> MemberKey:
    return member.name, member.model, member.adapter


class Line(NamedTuple):
    """A text as one member reads it."""

    ids: list[int]
    """The prompt, and all of the text but its last piece."""
    ends: list[int]
    """By position, how many of them stand before its piece."""


@dataclass(slots=True, eq=False)
class Cutting:
    """A text as a listener has it: cut into pieces by its lead, spelled by each member."""

    text: int
    """Which of the texts that are scored."""
    listener: Listener
    columns: list[int]
    lines: dict[MemberKey, Line]
    openings: frozenset[str]
    """The members for which an answer begins at the first piece, and which open one in their own way."""
    losses: Mapping[str, float]
    """By member, how unlikely it finds the prompt; empty where no setting asks."""
    prompt_tokens: Mapping[str, int]

    def written(self, position: int) -> bytes:
        return b"".join(self.listener.union.piece(column) or b"" for column in self.columns[:position])


class Job(NamedTuple):
    """A position of a text that is to be scored, and where the rows of a pass have it."""

    cutting: Cutting
    position: int
    rows: Sequence[int]
    """One a member of the listener."""

    @property
    def column(self) -> int:
        return self.cutting.columns[self.position]
