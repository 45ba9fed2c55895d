"""What every baseline is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar

from unisono.errors import SpecError, nearest, shown
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question

NAMES = ("member", "judge")
"""Parameters that are names of members; the others are numbers or flags."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One question as a baseline decides it. What is right is not in it."""

    question: str
    """The question's id."""
    candidates: Mapping[str, Answer]
    """The answer of each member, in the members' order; members that failed have none."""
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


class Baseline(ABC):
    """A way to choose among whole answers: a frozen dataclass whose fields, each with a default, are parameters."""

    kind: ClassVar[str]
    """What its name begins with."""
    source: ClassVar[str]
    """Who proposed it: authors, title, number."""
    first: ClassVar[str]
    """The parameter that is written right after the baseline's name; ``""`` for none."""
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str:
        """In one line, as `make_baseline` reads it and tables show it: only what differs from the default."""
        head, rest = self.kind, []
        for key in fields(self):
            value = getattr(self, key.name)
            if value == key.default:
                continue
            if key.name == self.first:
                head += f":{value}"
            else:
                rest.append(key.name if value is True else f"{key.name}:{value}")
        return " ".join([head, *rest])

    def check(self, members: Sequence[str]) -> None:
        """Refuse a parameter that names no member that answers. Raises a `SpecError` that suggests the nearest."""
        for name in (getattr(self, key.name) for key in fields(self) if key.name in NAMES):
            if name is not None and name not in members:
                raise SpecError(
                    f"{self.name} names {shown(name)}, which is no member that votes{nearest(name, members)}",
                    hint=f"members that vote: {', '.join(members)}",
                )

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        """Run models about the members' answers to one question.

        Returns:
            Plain JSON; empty where the answers are enough.

        Raises:
            UnisonoError: a model cannot read what it is asked.
        """
        return {}

    @abstractmethod
    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Choose an answer to each question, which has one candidate or more. Runs no model."""


def check_number(baseline: str, name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Refuse what is no number from ``low`` to ``high``. Raises a `SpecError` that names the value."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:  # NaN is not, either
        number = "a whole number" if whole else "a number"
        raise SpecError(
            f"the parameter {name!r} of {baseline!r} is {shown(value)}: it must be {number} from {low:g} to {high:g}",
            hint=f"write {name}:NUMBER",
        )
