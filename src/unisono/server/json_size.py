"""How many values JSON has, and how deep they stand: each costs time, however few bytes it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

IDS = ("prompt", "tokens")
"""Fields of which token ids do not count: tokens have a limit of their own."""


DEEPEST = 256
"""The levels of a body: what walks through it, level by level, has a stack of some thousand calls."""


def is_deeper(value: Any, most: int = DEEPEST) -> bool:
    """Whether there are more levels of lists and objects than a number."""
    level = [value]
    for _ in range(most):
        parts = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for part in parts for each in part if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def body_has_more(body: Mapping[str, Any], most: int) -> bool:
    """Whether a request's body has more values than a number, without token ids."""
    for given in map(body.get, IDS):
        lists = [each for each in (given, *given) if isinstance(each, list)] if isinstance(given, list) else []
        most += sum(len(each) for each in lists if all(type(id_) is int for id_ in each))
    return has_more(body.values(), most)


def has_more(values: Iterable[Any], most: int) -> bool:
    """Whether there are more values than a number, nested ones included."""
    count = 0
    inside: list[Sequence[Any]] = [list(values)]
    while inside and count <= most:
        level = inside.pop()
        count += len(level)
        inside += [each for each in level if isinstance(each, list)]
        inside += [[*each.values()] for each in level if isinstance(each, dict)]
    return count > most
