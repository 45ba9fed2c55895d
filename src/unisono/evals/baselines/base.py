"""What every baseline is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One question as a baseline decides it. What is right is not in it."""

    question: str
    """The question's id."""
    candidates: Mapping[str, Answer]
    """The answer of each member, in the members' order; of those that failed there is none."""
    evidence: Mapping[str, Any]
    """What `Baseline.gather` found; empty where it gathers nothing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision."""

    member: str
    """Whose answer is taken."""
    confidence: float
    """How sure the baseline is of it, from 0 to 1."""
    asked: tuple[str, ...]
    """The members that had to answer before this was known: all of them, or those that a cascade came to."""


class Baseline(Protocol):
    """A way to choose among whole answers."""

    source: ClassVar[str]
    """Who proposed it: authors, title, number."""

    @property
    def name(self) -> str:
        """As it stands on the command line and in tables, parameters that differ from the default included."""
        ...

    def check(self, members: Sequence[str]) -> None:
        """Refuse what does not fit the members that answer. Raises a `SpecError`."""
        ...

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        """Run models about the members' answers to one question.

        Returns:
            Plain JSON; empty where the answers say enough.

        Raises:
            UnisonoError: a model cannot read what it is asked.
        """
        ...

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Choose an answer to each question, each of which has a candidate at least. Runs no model."""
        ...
