"""The fields of the OpenAI API that are refused, each with its reason, and the values of them that ask for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from unisono.errors import nearest, shown
from unisono.server.errors import Refusal
from unisono.server.schemas import Record


@dataclass(frozen=True, slots=True)
class UnsupportedField:
    """A field that is not honoured."""

    why: str
    neutral: tuple[object, ...] = ()
    """Values, beside null, that ask for what happens anyway."""


R = TypeVar("R", bound=Record)

STORED = "nothing is stored here"
CACHED = "prompts that begin alike are read once without being asked to, and kept as long as slots are free"
REFUSED_IN_CHATS: dict[str, UnsupportedField] = {
    "audio": UnsupportedField("answers are text"),
    "modalities": UnsupportedField("answers are text", (["text"],)),
    "function_call": UnsupportedField("it is deprecated: use tools and tool_choice", ("none",)),
    "functions": UnsupportedField("it is deprecated: use tools", ([],)),
    "metadata": UnsupportedField(STORED, ({},)),
    "store": UnsupportedField(STORED, (False,)),
    "moderation": UnsupportedField("nothing is moderated here"),
    "prediction": UnsupportedField("nothing is predicted for a request; to draft, use unisono.speculate"),
    "prompt_cache_key": UnsupportedField(CACHED),
    "prompt_cache_options": UnsupportedField(CACHED),
    "prompt_cache_retention": UnsupportedField(CACHED),
    "reasoning_effort": UnsupportedField("models write as their templates let them", ("none",)),
    "service_tier": UnsupportedField(
        "all requests are served alike, in the order in which they come", ("auto", "default")
    ),
    "verbosity": UnsupportedField("models write as much as they do", ("medium",)),
    "web_search_options": UnsupportedField("nothing is searched for"),
}
REFUSED_IN_COMPLETIONS: dict[str, UnsupportedField] = {
    "best_of": UnsupportedField("ask for n texts and choose", (1,)),
    "suffix": UnsupportedField("texts are continued, not filled in", ("",)),
}


def read_record(record: type[R], body: Mapping[str, Any], refused: Mapping[str, UnsupportedField]) -> R:
    """Read the body of a request.

    Raises:
        Refusal: it names the first field that is wrong, unknown, or refused with a value that asks for something.
    """
    given = dict(body)
    for name, field in refused.items():
        value = given.pop(name, None)
        if value is not None and not any(
            value == neutral and type(value) is type(neutral) for neutral in field.neutral
        ):
            raise unsupported(name, value, field.why)
    try:
        return record.model_validate(given)
    except ValidationError as error:
        raise explained(error, given, [*record.model_fields, *refused]) from None


def unsupported(name: str, value: object, why: str) -> Refusal:
    """A field that is not honoured."""
    return Refusal(400, f"{name} is {shown(value)}, which is not supported: {why}", param=name, code="unsupported")


def explained(error: ValidationError, given: object, known: list[str], within: str = "", depth: int = 0) -> Refusal:
    """The first thing that pydantic found wrong, in OpenAI's form.

    Args:
        error: what it found.
        given: what it looked at.
        known: the fields that there are.
        within: what stands before the name of a field.
        depth: how far inside of what it looked at the record is.
    """
    problems = error.errors(include_url=False, include_context=False)
    problems.sort(key=lambda each: each["type"] != "literal_error")  # of another kind: the rest follows from that
    paths = [_path(each["loc"][depth:], given, lacks=each["type"] == "missing") for each in problems]
    path = max((each for each in paths if each[: len(paths[0])] == paths[0]), key=len)  # of a union, the nearest
    first = problems[paths.index(path)]
    name = _named(path, within)
    if first["type"] == "extra_forbidden":
        key = str(path[-1])
        near = nearest(key, known) if len(path) == 1 else ""
        return Refusal(400, f"unknown field {shown(name)}{near}", param=name, code="unknown_field")
    if first["type"] == "missing":
        return Refusal(400, f"the field {name!r} is missing", param=name, code="missing_field")
    words = dict.fromkeys(_lower(each["msg"]) for each, its in zip(problems, paths, strict=True) if its == path)
    return Refusal(400, f"{name} is {shown(first['input'])}: {', or '.join(words)}", param=name, code="invalid_value")


def _path(loc: tuple[int | str, ...], given: Any, *, lacks: bool) -> tuple[int | str, ...]:
    """The part of a place that is in the body, and the field that it lacks; the rest tells which type was tried."""
    path: list[int | str] = []
    for place, step in enumerate(loc):
        inside = isinstance(given, Mapping) and step in given
        if inside or (isinstance(given, list) and isinstance(step, int) and step < len(given)):
            given = given[step]
            path.append(step)
        elif lacks and isinstance(given, Mapping) and place == len(loc) - 1:
            path.append(step)
    return tuple(path)


def _named(path: tuple[int | str, ...], within: str) -> str:
    name = within
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{step}" if name else step
    return name or "the body"


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
