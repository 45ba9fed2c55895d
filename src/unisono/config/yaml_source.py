"""A YAML document, and where each of its values stands, for messages that name the place."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from unisono.errors import SpecError, shown

Place = tuple[int, int]
"""Line and column, counted from 1."""
Places = dict[tuple[Hashable, ...], Place]
"""By the keys and indices that lead to a value."""


def read_yaml(text: str, path: Path) -> tuple[Any, Places]:
    """Return the document, and where each of its values stands; ``path`` is its name in messages.

    Raises:
        SpecError: it is no YAML, a key is given twice or is no plain text, or it is nested too deeply.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        places: Places = {}
        if node is not None:
            _locate(node, (), places, path)
        return yaml.safe_load(text), places
    except SpecError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(
            f"{path}{where}: this is not valid YAML: {error.problem or error.context}",
            hint=_without_the_space(text.splitlines()[mark.line])
            if mark and mark.line < text.count("\n") + 1
            else None,
        ) from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise SpecError(f"{path}: this is not valid YAML: {error}") from error
    except RecursionError:
        raise SpecError(f"{path}: this is nested too deeply, or refers to itself") from None


def place_of(where: tuple[Hashable, ...], places: Places) -> str:
    """Where a value stands, or what it is in, as a message goes on: ``, line 3, column 5``; nothing where unknown."""
    while where and where not in places:
        where = where[:-1]
    if where not in places:
        return ""
    line, column = places[where]
    return f", line {line}, column {column}"


def path_of(where: tuple[Hashable, ...], whole: str = "the spec") -> str:
    """The keys and indices that lead to a value, in one word: ``members[0].name``; ``whole`` where there are none."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or whole


def _without_the_space(line: str) -> str | None:
    slip = re.match(r"\s*(gate|speculate)\s*:\s*([\w.-]+)\s*:\s+([\w.-]+)", line)
    return slip and f"write {slip[1]}: {slip[2]}:{slip[3]}"


def _locate(node: yaml.Node, where: tuple[Hashable, ...], places: Places, path: Path) -> None:
    places.setdefault(where, _place(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _locate(item, (*where, index), places, path)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line, column = _place(key)
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError(f"{path}, line {line}, column {column}: a key has to be plain text")
            inner = (*where, key.value)
            if inner in places:
                raise SpecError(f"{path}, line {line}, column {column}: the key {shown(key.value)} is given twice")
            places[inner] = line, column
            _locate(value, inner, places, path)


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1
