"""What the command line gives a command to work on: texts, constraints, and flags under their old names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unisono.config.constraint import JSON_SCHEMA, Constraint
from unisono.errors import SpecError, deprecated

if TYPE_CHECKING:
    from unisono.config.method import MethodOptions
    from unisono.records import Limits

T = TypeVar("T")
INLINE = ""
"""The value of a ``--trace`` without a file."""


@dataclass(frozen=True, slots=True)
class RunFlags:
    """What ``unisono run`` was asked to do, with one text or with a file of prompts."""

    spec: Path
    limits: Limits
    method: MethodOptions
    constraint: Constraint | None
    raw: bool = False
    system: str | None = None
    n: int = 1
    as_json: bool = False
    trace: str | None = None
    prompts: Path | None = None
    out: Path | None = None
    batch: int = 1
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


def conversation(text: str, raw: bool, system: str | None) -> tuple[str | None, list[Any] | None]:
    """The ``prompt`` or ``messages`` that a text from the command line stands for. Raises a `SpecError`."""
    if raw:
        if system is not None:
            raise SpecError("--system does not go with --raw", hint="raw text has no roles; write it into the text")
        return text, None
    opening = [] if system is None else [{"role": "system", "content": system}]
    return None, [*opening, {"role": "user", "content": text}]


def read_constraint(json_schema: Path | None, constraint: str | None) -> Constraint | None:
    """The constraint that ``--json-schema`` or ``--constraint`` gives. Raises a `SpecError`."""
    if json_schema is None:
        return Constraint.parse(constraint)
    if constraint is not None:
        raise SpecError("--json-schema does not go with --constraint", hint="a text has one constraint")
    try:
        return Constraint(JSON_SCHEMA, json_schema.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is not UTF-8, at byte {error.start}"
        raise SpecError(f"the schema {str(json_schema)!r} cannot be read: {why}", hint="check the file") from error


def read_text(text: str | None) -> str:
    """The text to answer: the argument, or stdin where it is left out or ``-``. Raises a `SpecError`."""
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise SpecError("there is no text", hint="give it as an argument or on stdin, or use --prompts FILE")
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise SpecError(f"the text on stdin is not UTF-8: {error.reason} at byte {error.start}") from error


def refuse_flags(why: str, hint: str, given: Mapping[str, object]) -> None:
    """Refuse flags that are given though they mean nothing here. Raises a `SpecError`."""
    for flag, value in given.items():
        if value:
            raise SpecError(f"{flag} {why}", hint=hint)


def renamed_flag(value: T | None, old_value: T | None, new: str, old: str) -> T | None:
    """The value of a flag that had another name, with a warning where the old name is used.

    Raises:
        SpecError: both are given.
    """
    if old_value is None:
        return value
    if value is not None:
        raise SpecError(f"{new} and {old}, its old name, are both given", hint=f"leave {old} out")
    deprecated(f"{old} is now {new}")
    return old_value
