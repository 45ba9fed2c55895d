"""Turns what pydantic finds wrong in a request's body into a refusal that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from unisono.errors import nearest, shown
from unisono.server.errors import Refusal, invalid
from unisono.validation import explain

Path = tuple[int | str, ...]
"""The keys and indices that lead to a value."""
WAYS_OUT = {
    ("ChatRequest", "logprobs"): "; top_logprobs says how many of the most likely pieces to list",
    ("CompletionRequest", "logprobs"): ", that of the most likely pieces to list",
    **dict.fromkeys(
        (("ChatRequest", "response_format.type"), ("CompletionRequest", "response_format.type")),
        "; for a grammar, use unisono.constraint",
    ),
}
"""What to do about a wrong value, by record and field, where it is not plain."""


def explained(error: ValidationError, given: object, known: list[str], within: str = "", depth: int = 0) -> Refusal:
    """Turn the first of pydantic's errors into a refusal.

    ``within`` precedes the field's name; ``depth`` is that of the record in ``given``.
    """
    problems: list[Any] = list(error.errors(include_url=False))
    problems.sort(key=lambda each: each["type"] != "literal_error")  # a wrong kind explains the other errors
    paths = [_path(each["loc"][depth:], given, lacks=each["type"] == "missing") for each in problems]
    path = _closest(problems, paths)
    ours = [problem for problem, its in zip(problems, paths, strict=True) if its == path]
    kind, value, context = ours[0]["type"], ours[0]["input"], ours[0].get("ctx", {})
    if kind.startswith("union_tag_"):  # of records that are told by a key
        key = context["discriminator"].strip("'")
        path, value = (*path, key), value.get(key) if isinstance(value, Mapping) else value
    name = _named(path, within)
    if kind == "extra_forbidden":
        key = str(path[-1])
        unknown = f"unknown field {shown(name)}" + (nearest(key, known) if len(path) == 1 else "")
        said = f"{name} is given, but has no place there" if key in known else unknown
        return Refusal(400, said, param=name, code="unknown_field")
    if kind in ("missing", "union_tag_not_found"):
        return Refusal(400, f"the field {name!r} is missing", param=name, code="missing_field")
    return invalid(name, f"{name} is {shown(value)}: {explain(ours)}{WAYS_OUT.get((error.title, name), '')}")


def _closest(problems: list[Any], paths: list[Path]) -> Path:
    """Where the value is wrong: of a union, the type that came furthest counts, and of that its first error."""
    branches: dict[tuple[int | str, ...], Path] = {}
    """By the names that pydantic has for types of unions, which are no keys."""
    for problem, path in zip(problems, paths, strict=True):
        if path[: len(paths[0])] == paths[0]:
            branches.setdefault(tuple(step for step in problem["loc"] if step not in path), path)
    return max(branches.values(), key=lambda path: (len(path), [step for step in path if isinstance(step, int)]))


def _path(loc: tuple[int | str, ...], given: Any, *, lacks: bool) -> Path:
    path: list[int | str] = []
    for place, step in enumerate(loc):
        inside = isinstance(given, Mapping) and step in given
        if inside or (isinstance(given, list) and isinstance(step, int) and step < len(given)):
            given = given[step]
            path.append(step)
        elif lacks and isinstance(given, Mapping) and place == len(loc) - 1:
            path.append(step)
    return tuple(path)


def _named(path: Path, within: str) -> str:
    name = within
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{step}" if name else step
    return name or "the body"
