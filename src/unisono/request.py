"""What a batch is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unisono.chat.messages import Prompt
from unisono.config.constraint import Constraint
from unisono.config.method import Method
from unisono.errors import SpecError, shown
from unisono.records import Limits

DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Request:
    """One of several texts that are written as a batch."""

    id: str
    """Comes back with the result."""
    prompt: Prompt
    limits: Limits = DEFAULT_LIMITS
    trace: bool = False
    method: Method | None = None
    """How this one is written, as ``ensemble.method.but(gate="first:8")`` says it; ``None`` for as the
    ensemble writes, which is `Ensemble.method`."""
    constraint: Constraint | str | Mapping[str, Any] | None = None
    """What the text has to be, as `Constraint.parse` reads it; ``None`` where it is free."""


def check_request(request: Request) -> None:
    """Refuse fields of the wrong type before they reach the engine. Raises a `SpecError`."""
    if not isinstance(request.prompt, Prompt):
        raise SpecError(
            f"the prompt of a request is {shown(request.prompt)}, not a Prompt", hint='write Prompt(text="…")'
        )
    if not isinstance(request.limits, Limits):
        raise SpecError(
            f"the limits of a request are {shown(request.limits)}, not Limits", hint="write Limits(max_new_tokens=64)"
        )
