"""The interface of baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar

from unisono.errors import SpecError, nearest, shown
from unisono.evals import check_installed
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question

NAMES = ("member", "judge")
"""Parameters that name members; the others are numbers or flags."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One question as a baseline sees it, without the right answer."""

    question: str
    candidates: Mapping[str, Answer]
    """By member, in the members' order; failed members are absent."""
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    member: str
    confidence: float
    asked: tuple[str, ...]
    """The members that had to answer first: all, or those that a cascade reached."""


class Baseline(ABC):
    """Chooses among whole answers: a frozen dataclass whose fields, each with a default, are its parameters."""

    kind: ClassVar[str]
    """The first word of its name."""
    source: ClassVar[str]
    """The paper: authors, title, number."""
    first: ClassVar[str] = ""
    """The parameter written right after the baseline's name; ``""`` for none."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Optional libraries without which it cannot decide."""
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str:
        """As `make_baseline` reads it, with non-default parameters only."""
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
        """Check parameters and libraries before anything is asked. Raises a `SpecError` or `BackendMissing`."""
        self.check_libraries()
        for name in (getattr(self, key.name) for key in fields(self) if key.name in NAMES):
            if name is not None and name not in members:
                raise SpecError(
                    f"{self.name} names {shown(name)}, which is not a member that votes{nearest(name, members)}",
                    hint=f"members that vote: {', '.join(members)}",
                )

    def check_libraries(self) -> None:
        """Raise `BackendMissing`, which says what to install, without a library that it needs to decide."""
        check_installed(f"the baseline {self.kind}", *self.libraries)

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        """Run models on the members' answers to one question. Returns plain JSON, empty when no more is needed."""
        return {}

    @abstractmethod
    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Choose an answer for each question, which has at least one candidate. Runs no model."""


def check_number(baseline: str, name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:  # NaN is not, either
        number = "a whole number" if whole else "a number"
        raise SpecError(
            f"the parameter {name!r} of {baseline!r} is {shown(value)}: it must be {number} from {low:g} to {high:g}",
            hint=f"write {name}:NUMBER",
        )
