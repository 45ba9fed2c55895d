"""Rules of Lark for values that may hold further values, and for lists of them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from unisono.chat.value_schemas import DEEPEST, alone, leaves, unkept
from unisono.constraints.json_schema import KEYWORDS
from unisono.errors import SpecError

Write = Callable[[str], str]
"""Makes a text literals and, in the place of control tokens, marks."""
ANY_NAME = r"/[A-Za-z0-9_.-]+/"
"""Of an argument that no schema names."""
_OF_LISTS = ("type", "items", "minItems", "maxItems")
_MOST_ITEMS = 50
"""Of a list whose number of items is restricted: each is a rule."""
_MOST_RULES = 1000
"""Of the values of one tool."""


class ValueRules(ABC):
    """Writes rules for values, each by its part of a schema; a subclass knows how values are written."""

    no_ways: ClassVar[str]
    """What is said of a schema for which it has no value."""

    def __init__(self, whole: Mapping[str, Any], options: Mapping[str, Any], write: Write) -> None:
        """``whole`` is the schema that has the definitions; ``options`` are those of JSON."""
        self._whole = whole
        self._options = options
        self._write = write
        self._depth = 0
        self._rules = 0

    def rule(self, name: str, schema: Any, where: str, stop: str = "") -> list[str]:
        """The lines of a rule, and of those that it needs. Raises a `SpecError` where a schema cannot be kept to."""
        self._rules += 1
        if self._depth > DEEPEST or self._rules > _MOST_RULES:
            raise _too_deep(where)
        self._depth += 1
        lines, ways = [], list[str]()
        for number, leaf in enumerate(leaves(schema, self._whole, where)):
            its_ways, its_lines = self._ways(f"{name}_{number}", leaf, where, stop)
            ways += its_ways
            lines += its_lines
        self._depth -= 1
        if not ways:
            raise SpecError(f"{where} {self.no_ways}", hint="leave the argument out of the schema")
        return [f"{name}: {' | '.join(ways)}", *lines]

    def _json(self, name: str, leaf: Mapping[str, Any]) -> str:
        """The rule of what is written as JSON."""
        return f"{name}: %json {json.dumps(alone(leaf, self._whole, self._options))}"

    @abstractmethod
    def _ways(self, name: str, leaf: Mapping[str, Any], where: str, stop: str) -> tuple[list[str], list[str]]:
        """The ways in which values of a leaf of the schema are written, and the rules that these need."""


def list_ways(leaf: Mapping[str, Any], one: str, between: str, where: str) -> list[str]:
    """How many entries a list may have, each of which is ``one``, in rules. Raises a `SpecError`."""
    if odd := next((key for key in leaf if key in KEYWORDS and key not in _OF_LISTS), None):
        raise unkept(odd, where)
    least, most = leaf.get("minItems", 0), leaf.get("maxItems")
    if max(least, most or 0) > _MOST_ITEMS:
        raise unkept("minItems" if least > _MOST_ITEMS else "maxItems", where)
    more = f" ({between} {one})*" if most is None else ""
    counts = range(max(least, 1), max(least, 1) + 1 if most is None else most + 1)
    return [*([] if least else [""]), *(f" {between} ".join([one] * count) + more for count in counts)]


def _too_deep(where: str) -> SpecError:
    return SpecError(
        f"{where} is nested more than {DEEPEST} levels deep, or is large or within itself, to which arguments that are "
        "written one by one cannot be kept",
        hint="give a flatter schema, or make a member the lead that writes calls as JSON",
    )
