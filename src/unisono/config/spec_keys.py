"""The keys of an ensemble file: old names, names that nobody knows, and what is wrong with a value at which line."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from unisono.config.compact import plain_number, read_number, renamed
from unisono.config.member import Misplaced
from unisono.config.yaml_source import Places, path_of, place_of
from unisono.errors import deprecated, nearest, shown
from unisono.validation import explain

Where = tuple[Hashable, ...]
OWN = "x-"
"""What keys begin with that are not read, as in compose files."""


def is_own(key: object) -> bool:
    """Whether a key at the top of a file is its author's own, such as one that only holds what aliases stand for."""
    return isinstance(key, str) and key.startswith(OWN)


def with_new_names(data: dict[str, Any], places: Places) -> tuple[dict[str, Any], dict[Where, Where]]:
    """New names in place of old ones, and which old names stood where. Raises a `SpecError` where both stand."""
    old_names: dict[Where, Where] = {}

    def rename(record: Mapping[str, Any], where: Where, new: str, old: str) -> dict[str, Any]:
        if old in record and new not in record:
            deprecated(f"{path_of((*where, old))} is now called {new}")
            old_names[*where, new] = (*where, old)
            for place in [place for place in places if place[: len(where) + 1] == (*where, old)]:
                places[*where, new, *place[len(where) + 1 :]] = places[place]
        return renamed(record, new, old, f"{path_of(where, '')}.{{}}".lstrip("."))

    data = rename(data, (), "sampling", "draw")
    if isinstance(members := data.get("members"), list):
        data["members"] = [
            rename(member, ("members", index), "share_weights_with", "weights_of")
            if isinstance(member, Mapping)
            else member
            for index, member in enumerate(members)
        ]
    return data, old_names


def explained(
    problem: dict[str, Any], source: str, places: Places, old_names: Mapping[Where, Where], whole: type[BaseModel]
) -> str:
    """What pydantic found wrong in the record that is ``whole``, with the file, the line and the key."""
    where: Where = tuple(problem["loc"])
    kind, value = problem["type"], problem["input"]
    prefix = f"{source}{place_of(where, places)}: "
    where = old_names.get(where, where)
    error = problem.get("ctx", {}).get("error")
    if isinstance(error, Misplaced):
        where = (*where, *error.where)
        return (
            f"{source}{place_of(where, places)}: {path_of(old_names.get(where, where))} {error.message}; {error.hint}"
        )
    if kind == "extra_forbidden":
        return unknown_key(source, where, places, _record_at(where, whole))
    if kind == "missing":
        return f"{prefix}{path_of(where[:-1])} lacks the key {where[-1]!r}"
    if kind == "too_short" and where == ("members",):
        return f"{prefix}there are no members; list at least one, each with a name and a model"
    if kind == "string_pattern_mismatch":
        return f"{prefix}{path_of(where)} is {shown(value)}: use letters, digits, '.', '_' and '-'"
    empty = "it is empty; write some text, or leave the key out"
    message = empty if kind == "string_too_short" else explain([problem], an_object="a mapping")
    if kind == "value_error" and isinstance(value, Mapping):
        prefix = f"{source}{place_of(_inner(where, value, message), places)}: "
    if kind == "model_type":
        return f"{prefix}{path_of(where)} is {shown(value)}: a member is a mapping with a name and a model"
    if kind == "value_error" or not where:
        return f"{prefix}{message}{_way_out(problem)}"
    return f"{prefix}{path_of(where)} is {shown(value)}: {message}{_as_number(value, kind)}"


def _as_number(value: object, kind: str) -> str:
    """How a number that YAML takes for text is written: ``1e3`` has no point."""
    plain = plain_number(value) if kind in ("float_type", "int_type") else None
    fits = plain is not None and (kind == "float_type" or isinstance(read_number(plain), int))
    return f"; write {plain}" if fits else ""


def _inner(where: tuple[Hashable, ...], value: Mapping[Any, Any], message: str) -> tuple[Hashable, ...]:
    """Where the key of a mapping stands that a message speaks of first."""
    found = {str(key): re.search(rf"\b{re.escape(str(key))}\b", message) for key in value}
    spoken_of = {key: match.start() for key, match in found.items() if match}
    return (*where, min(spoken_of, key=spoken_of.__getitem__)) if spoken_of else where


def _way_out(problem: dict[str, Any]) -> str:
    hint = getattr(problem.get("ctx", {}).get("error"), "hint", None)
    return f"; {hint}" if hint else ""


def _record_at(where: Where, whole: type[BaseModel]) -> type[BaseModel]:
    """The record that has, or lacks, the last key of a place."""
    record = whole
    for key in where[:-1]:
        field = record.model_fields.get(str(key))
        inner = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        record = next((kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), record)
    return record


def unknown_key(source: str, where: tuple[Hashable, ...], places: Places, model: type[BaseModel]) -> str:
    known = [name for name, field in model.model_fields.items() if not field.exclude]
    key = str(where[-1])
    inside = f" in {path_of(where[:-1])}" if len(where) > 1 else ""
    near = nearest(key, known)
    own = "" if inside or near else f"; a key of your own begins with {OWN}"
    return f"{source}{place_of(where, places)}: unknown key {shown(key)}{inside}{near}; known: {', '.join(known)}{own}"
