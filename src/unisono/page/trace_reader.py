"""Reads recorded traces for the page: every line is checked, so that nothing in a file can surprise it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from unisono.errors import SpecError, shown
from unisono.outcomes import TRACE_VERSION, Kind
from unisono.step_records import Part
from unisono.user_files import read_data, short_float, why_no_json, why_unread
from unisono.validation import explain

MOST = 200_000_000
"""The most bytes of a trace: a page holds it whole."""
MOST_NAMED = 5
"""Lines that a note names."""

Byte = Annotated[int, Field(ge=0, le=255)]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Top(_Record):
    bytes: list[Byte] | None
    p: FiniteFloat
    mark: str | None = None


class _Gate(_Record):
    score: FiniteFloat
    threshold: FiniteFloat
    asked: bool
    inside: str | None = None


class _Draft(_Record):
    drafter: str
    bytes: list[Byte]
    accepted: bool


class _Token(_Record):
    id: int
    bytes: list[Byte]


class _Seconds(_Record):
    total: FiniteFloat


class _Member(_Record):
    name: str
    weight: FiniteFloat


class _GateKind(_Record):
    kind: str
    parameter: FiniteFloat | None = None


class _About(_Record):
    version: int
    members: list[_Member]
    lead: str
    gate: _GateKind
    prompt: str | list[dict[str, Any]] | None = None


class _Step(_Record):
    """What the page reads of a step."""

    bytes: list[Byte] | None
    p: FiniteFloat
    voted: list[str]
    members: dict[str, FiniteFloat]
    kind: Kind
    winners: list[str]
    top: dict[str, list[_Top]] = {}
    likeliest: list[_Top] | None = None
    mark: str | None = None
    part: Part = "answer"
    lead: str | None = None
    unasked: list[str] = []
    absent: list[str] = []
    subtracted: list[str] = []
    certain: bool | None = None
    unknown: FiniteFloat | None = None
    entropy: FiniteFloat | None = None
    variation: FiniteFloat | None = None
    gate: _Gate | None = None
    draft: _Draft | None = None
    spelled: dict[str, list[_Token]] = {}
    seconds: _Seconds | None = None
    about: _About | None = None


@dataclass(slots=True)
class TracedText:
    name: str
    prompt: str | None
    """What was asked, as it is shown; ``None`` where the trace does not say it."""
    steps: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trace:
    """The texts of a file, and what a reader has to know of it."""

    name: str
    texts: list[TracedText]
    notes: list[str]

    def to_json(self) -> str:
        texts = [{"name": text.name, "prompt": text.prompt, "steps": text.steps} for text in self.texts]
        return json.dumps(
            {"name": self.name, "texts": texts, "notes": self.notes}, separators=(",", ":"), allow_nan=False
        )


def read_trace(path: Path) -> Trace:
    """Read a file of `unisono run --trace`, or of answers with their steps (``--out`` with ``--trace``).

    A last line that is cut off, and answers without steps are left out, and noted. Raises a `SpecError` that names
    the line.
    """
    try:
        lines = read_data(path, MOST, named=True).splitlines(keepends=True)
    except OSError as error:
        raise SpecError(f"cannot read the trace {str(path)!r}: {why_unread(error)}", hint="name another file") from None
    texts: list[TracedText] = []
    notes: list[str] = []
    without: list[int] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_float=short_float, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not line.endswith(b"\n") and number > 1:
                notes.append(f"The file is cut off in line {number}: what stands before it is shown.")
                break
            raise _wrong(path, number, why_no_json(error)) from None
        if _has_no_steps(record):
            without.append(number)
        else:
            _add(texts, record, path, number)
    if without:
        where = ", ".join(map(str, without[:MOST_NAMED])) + (" and others" if len(without) > MOST_NAMED else "")
        notes.append(
            f"Answers that failed, or were written without --trace, are left out: {len(without)} (line {where})."
        )
    if not any(text.steps for text in texts):
        raise SpecError(f"the trace {str(path)!r} has no steps", hint="write one: unisono run SPEC TEXT --trace FILE")
    return Trace(path.name, texts, notes)


def _has_no_steps(record: Any) -> bool:
    """Whether a line of ``--out`` tells an error in the place of an answer, or an answer alone."""
    if not isinstance(record, dict) or "steps" in record or "voted" in record:
        return False
    return isinstance(record.get("error"), str) or isinstance(record.get("text"), str)


def _add(texts: list[TracedText], record: Any, path: Path, number: int) -> None:
    """Add a line's step to the last text, or a line's whole answer as a text of its own."""
    if not isinstance(record, dict):
        raise _wrong(path, number, f"it is {shown(record)}, and a step is an object")
    answers = isinstance(record.get("steps"), list)
    steps: Iterable[Any] = record["steps"] if answers else [record]
    for place, each in enumerate(steps):
        step = _checked(each, path, number, is_first=not place and (answers or not texts))
        if step.about is not None:
            name = f"answer {record['id']}" if answers and "id" in record else f"answer {len(texts) + 1}"
            texts.append(TracedText(name, _words(step.about.prompt)))
        texts[-1].steps.append(_plain(step))


def _plain(step: _Step) -> dict[str, Any]:
    """A step as the page reads it. Members that named no likeliest piece are left out of them."""
    told = step.model_dump(exclude_unset=True, exclude={"about": {"prompt"}})
    if step.top:
        told["top"] = {name: pieces for name, pieces in told["top"].items() if pieces}
    plain: dict[str, Any] = _without_none(told)
    return plain


def _without_none(value: Any) -> Any:
    """Without what is ``None``, but for the bytes of END."""
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None or key == "bytes"}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_without_none(each) for each in value]
    return value


def _checked(step: Any, path: Path, number: int, *, is_first: bool) -> _Step:
    """A line's step. Raises a `SpecError` where it is none, or begins a trace of another version."""
    about = step.get("about") if isinstance(step, dict) else None
    version = about.get("version") if isinstance(about, dict) else None
    if (is_first or about is not None) and version != TRACE_VERSION and isinstance(step, dict) and "voted" in step:
        which = "an earlier version, or lacks its beginning" if version is None else f"version {shown(version)}"
        raise SpecError(
            f"the trace {str(path)!r} is of {which}: this unisono shows version {TRACE_VERSION}",
            hint="record it again with this unisono, or show it with the one that wrote it",
        )
    try:
        return _Step.model_validate(step)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise _wrong(path, number, f"it is no step of a trace: {where}: {explain([first])}") from None


def _words(prompt: Any) -> str | None:
    """A prompt as it is shown: a text as it is, messages with their roles where there are several."""
    if not isinstance(prompt, list):
        return None if prompt is None else str(prompt)
    if len(prompt) == 1:
        return str(prompt[0].get("content", ""))
    return "\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in prompt)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _wrong(path: Path, number: int, why: str) -> SpecError:
    return SpecError(
        f"line {number} of the trace {str(path)!r} cannot be shown: {why}",
        hint="show what `unisono run SPEC TEXT --trace FILE` wrote",
    )
