"""Gates: when the other members are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from unisono.config.compact import Number, read_form, read_named
from unisono.errors import SpecError, nearest, shown
from unisono.fusion.fold import Array
from unisono.fusion.gate_scores import GATE_KINDS, GateKind

_BOUNDARY = " boundary"
_OFF = ("off", "no", "none", "never", "false")
_FORMS = "write it as always, confidence:0.5 or {kind: confidence, threshold: 0.5}"
_ENDS = "write always, which asks the others at every step, or first:0, which never asks them"


@dataclass(frozen=True, slots=True)
class Gate:
    """When the other members are asked. The default asks them at every step.

    Raises:
        SpecError: the kind is unknown, or a value is out of range or does not belong to the kind.
    """

    kind: str = "always"
    """``always``, ``confidence``, ``margin``, ``entropy``, ``every``, ``first`` or ``certain``."""
    threshold: float | None = None
    """For ``confidence`` and ``margin`` a probability, 0 to 1; for ``entropy`` nats, 0 to 20."""
    n: int | None = None
    """For ``every`` and ``first``: a number of pieces."""
    boundary: bool = False
    """Whether the gate stays shut directly after a piece that ends inside another member's token (SAFE, arXiv
    2510.15346)."""

    def __post_init__(self) -> None:
        if self.kind is False:  # type: ignore[comparison-overlap]  # what YAML makes of off and no
            raise SpecError("the gate is off", hint=_ENDS)
        if not isinstance(self.kind, str) or self.kind not in GATE_KINDS:
            is_off = isinstance(self.kind, str) and self.kind.lower() in _OFF
            near = "" if is_off or not isinstance(self.kind, str) else nearest(self.kind, GATE_KINDS)
            raise SpecError(
                f"unknown gate {shown(self.kind)}{near}; known: {', '.join(GATE_KINDS)}",
                hint=_ENDS if is_off else _FORMS,
            )
        kind = GATE_KINDS[self.kind]
        for key in ("threshold", "n"):
            value = getattr(self, key)
            if key != kind.parameter and value is not None:
                having = ", ".join(name for name, other in GATE_KINDS.items() if other.parameter == key)
                own = f"write {self.kind!r} with {kind.parameter}" if kind.parameter else f"leave {key} out"
                raise SpecError(
                    f"the gate {self.kind!r} has no {key}, but {key} is {shown(value)}",
                    hint=f"{own}, or choose a gate that has {key}: {having}",
                )
            if key == kind.parameter:
                object.__setattr__(self, key, self._checked(key, value, kind))
        if not isinstance(self.boundary, bool):
            raise SpecError(f"boundary is {shown(self.boundary)}", hint="it is true or false")
        if self.boundary and self.is_certain:
            raise SpecError(
                "boundary is true, but the gate 'certain' leaves the text as it is, and a boundary would change it",
                hint="leave boundary out, or write always boundary",
            )

    def _checked(self, key: str, value: object, kind: GateKind) -> int | float:
        if value is None:
            raise SpecError(
                f"the gate {self.kind!r} needs {key}", hint=f"write {self.kind}:NUMBER, or give the key {key}"
            )
        words = f"a whole number of {kind.low} or more, {kind.high:,} at most" if key == "n" else ""
        number = Number(kind.low, kind.high, f"the others are asked {kind.meaning}", whole=key == "n", words=words)
        checked = number.checked(f"the {key} of the gate {self.kind!r}", value, f"{self.kind}:{{0}} or {key}: {{0}}")
        return checked if key == "n" else float(checked)

    @property
    def parameter(self) -> float | None:
        """The number of the kind: ``threshold`` or ``n``."""
        return self.threshold if self.n is None else self.n

    @property
    def always_open(self) -> bool:
        """Whether all members are asked at every step."""
        return self.kind == "always" and not self.boundary

    @property
    def is_certain(self) -> bool:
        """Whether members are asked in turn, until the rest cannot change the choice."""
        return self.kind == "certain"

    @property
    def reads_lead(self) -> bool:
        """Whether the lead is asked before it is known who else is."""
        return not self.always_open and not self.is_certain

    def score(self, p_BU: Array, positions: Sequence[int]) -> list[float]:
        """Score rows of the lead's folded distribution; ``positions`` counts the pieces before each."""
        return GATE_KINDS[self.kind].score(p_BU, positions)

    def opens(self, score: float) -> bool:
        """Whether a score means that the others are asked, but for the boundary."""
        return GATE_KINDS[self.kind].opens(score, self.parameter or 0)

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a `Gate`, a line such as ``"confidence:0.5"`` or ``"confidence:0.5 boundary"``, or a mapping of the
        fields. ``None`` is the default.

        Raises:
            SpecError: it is none of these.
        """
        if isinstance(value, cls):
            return value
        if value is None or value is False:
            return cls() if value is None else cls(False)  # type: ignore[arg-type]  # which is refused
        named = value if isinstance(value, Mapping) else {}
        slip = next((_meant(kind, named[kind]) for kind in GATE_KINDS if kind in named), "")
        return cls(**read_form(cls, "gate", value, _read_words, hint=_FORMS, slip=slip))

    def __str__(self) -> str:
        number = "" if self.parameter is None else f":{self.parameter}"
        return f"{self.kind}{number}{_BOUNDARY if self.boundary else ''}"


def _read_words(text: str) -> dict[str, Any]:
    words = text.removesuffix(_BOUNDARY)
    kind = GATE_KINDS.get(words.partition(":")[0])
    return {**read_named(words, "kind", kind.parameter if kind else ""), "boundary": words != text}


def _meant(kind: str, number: object) -> str:
    """What is meant by ``gate: {confidence: 0.5}``."""
    key, given = GATE_KINDS[kind].parameter, "NUMBER" if number is None else shown(number)
    return f"write {kind}:{given} or {{kind: {kind}, {key}: {given}}}" if key else f"write {kind}"
