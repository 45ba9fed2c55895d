"""Baselines as they are written on the command line: ``NAME``, ``NAME:VALUE``, ``NAME:VALUE key:value flag``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, ClassVar, TypeVar

from unisono.config.compact import read_number
from unisono.errors import SpecError, nearest, shown
from unisono.evals.baselines.base import Case, Choice
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question

NAMES = ("member", "judge")
"""Parameters that are names; the others are numbers or flags."""


class Parametric(ABC):
    """What baselines have in common: a frozen dataclass whose fields, each with a default, are parameters.

    By itself it suits any members and gathers nothing.
    """

    kind: ClassVar[str]
    """What its name begins with."""
    source: ClassVar[str]
    first: ClassVar[str]
    """The parameter that is written right behind the baseline's name; ``""`` for none."""
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str:
        """In one line, as `read` reads it: what differs from the default."""
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

    def check(self, members: Sequence[str]) -> None:  # noqa: B027
        """Any members will do."""

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        """The answers say enough."""
        return {}

    @abstractmethod
    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """See `Baseline.decide`."""


Kind = TypeVar("Kind", bound=Parametric)


def read(kinds: Mapping[str, type[Kind]], words: str) -> Kind:
    """Make the baseline that is written so. Raises a `SpecError` that suggests the nearest name or parameter."""
    head, *rest = words.split() or [""]
    name, colon, value = head.partition(":")
    if name not in kinds:
        raise SpecError(
            f"unknown baseline {shown(name)}{nearest(name, kinds)}; known: {', '.join(kinds)}",
            hint="parameters follow a colon, as in cascade:0.8",
        )
    kind = kinds[name]
    known = {key.name: key.default for key in fields(kind)}
    pairs = [word.partition(":") for word in rest]
    if colon:
        if not kind.first:
            raise SpecError(f"{name!r} is given {shown(value)}, but {_ways(kind)}", hint=f"write {name} alone")
        pairs.insert(0, (kind.first, colon, value))
    given: dict[str, object] = {}
    for key, colon, text in pairs:
        if key not in known:
            raise SpecError(f"unknown parameter {shown(key)} of {name!r}{nearest(key, known)}", hint=_ways(kind))
        is_flag = isinstance(known[key], bool)
        if key in given or is_flag == bool(colon) or (colon and not text):
            wrong = "is given twice" if key in given else "is a flag" if is_flag else "lacks its value"
            raise SpecError(f"the parameter {key!r} of {name!r} {wrong}", hint=_ways(kind))
        given[key] = True if is_flag else text if key in NAMES else read_number(text)
    return kind(**given)


def check_number(baseline: str, name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Refuse what is no number from ``low`` to ``high``. Raises a `SpecError` that names the value."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:  # NaN is not, either
        number = "a whole number" if whole else "a number"
        raise SpecError(
            f"the parameter {name!r} of {baseline!r} is {shown(value)}: it must be {number} from {low:g} to {high:g}",
            hint=f"write {name}:NUMBER",
        )


def _ways(kind: type[Parametric]) -> str:
    known: Sequence[Field[Any]] = fields(kind)
    if not known:
        return f"{kind.kind} has no parameters"
    forms = [
        f"{kind.kind}:{key.name.upper()}"
        if key.name == kind.first
        else key.name
        if isinstance(key.default, bool)
        else f"{key.name}:{'NAME' if key.name in NAMES else 'NUMBER'}"
        for key in known
    ]
    return f"its parameters are written {', '.join(forms)}"
