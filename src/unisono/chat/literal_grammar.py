"""The grammar of values that no tag ends: texts within delimiters, lists and mappings in brackets.

See `unisono.chat.call_literals`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from unisono.chat.call_literals import Literals
from unisono.chat.value_schemas import (
    ANYTHING,
    DEEPEST,
    alone,
    expressions,
    fits_nothing,
    joined,
    leaves,
    unkept,
    without,
)
from unisono.constraints.json_schema import KEYWORDS
from unisono.errors import SpecError

Write = Callable[[str], str]
"""Makes a text literals and, in the place of control tokens, marks."""
_OF_LISTS = ("type", "items", "minItems", "maxItems")
_MOST_ITEMS = 50
"""Of a list whose number of items is restricted: each is a rule."""
_KEY = r"/[A-Za-z0-9_.-]+/"
_MOST_RULES = 1000
"""Of the values of one tool."""


class LiteralValues:
    """Rules for values; what stands before and behind one is not theirs."""

    def __init__(
        self,
        rule: str,
        form: Literals,
        whole: Mapping[str, Any],
        options: Mapping[str, Any],
        write: Write,
        *,
        entry_rules_of: Callable[[str, Mapping[str, Any], LiteralValues, Write, str], list[str]],
    ) -> None:
        """``rule`` begins the name of the rule that all values of any kind share."""
        self.form = form
        self._any = f"{rule}_anything"
        self._whole = whole
        self._options = options
        self._write = write
        self._entry_rules_of = entry_rules_of
        self._needs_any = False
        self._depth = 0
        self._rules = 0

    def rule(self, name: str, schema: Any, where: str, stop: str = "") -> list[str]:
        self._rules += 1
        if self._depth > DEEPEST or self._rules > _MOST_RULES:
            raise too_deep(where)
        self._depth += 1
        lines, ways = [], list[str]()
        for number, leaf in enumerate(leaves(schema, self._whole, where)):
            its_ways, its_lines = self._ways(f"{name}_{number}", leaf, where)
            ways += its_ways
            lines += its_lines
        self._depth -= 1
        if not ways:
            raise SpecError(f"{where} allows no value", hint="leave the argument out of the schema")
        return [f"{name}: {' | '.join(ways)}", *lines]

    def anything(self) -> list[str]:
        """The rules of a value of any kind, if one is needed."""
        if not self._needs_any:
            return []
        name, item = self._any, self._write(self.form.item)
        ways, lines = self._text(f"{name}_text", {"type": "string"}, "")
        ways += [f"{name}_number", *map(self._write, self.form.words), '"[" "]"', f'"[" {name} ({item} {name})* "]"']
        if self.form.key is None:
            ways.append(f"{name}_object")
            lines.append(self._json(f"{name}_object", {"type": "object"}))
        else:
            entry = f"{self._write(self.form.key[0])} {_KEY} {self._write(self.form.key[1])} {name}"
            ways += ['"{" "}"', f'"{{" {entry} ({item} {entry})* "}}"']
        return [f"{name}: {' | '.join(ways)}", *lines, self._json(f"{name}_number", {"type": "number"})]

    def _json(self, name: str, leaf: Mapping[str, Any]) -> str:
        return f"{name}: %json {json.dumps(alone(leaf, self._whole, self._options))}"

    def _ways(self, name: str, leaf: Mapping[str, Any], where: str) -> tuple[list[str], list[str]]:
        if leaf == ANYTHING:
            self._needs_any = True
            return [self._any], []
        if "enum" in leaf:
            return [self._write(self.form.written(value)) for value in leaf["enum"]], []
        match leaf["type"]:
            case "string":
                return self._text(name, leaf, where)
            case "boolean":
                return [self._write(word) for word, value in self.form.words.items() if value is not None], []
            case "null":
                return [self._write(self.form.null)], []
            case "array":
                return self._listed(name, leaf, where)
            case "object" if self.form.key is not None:
                return [name], self._entry_rules_of(name, leaf, self, self._write, where)
            case _:
                return [name], [self._json(name, leaf)]

    def _text(self, name: str, leaf: Mapping[str, Any], where: str) -> tuple[list[str], list[str]]:
        before, behind = self.form.text
        parts = expressions(leaf, where)
        if before == '"':
            return [name], [self._json(name, leaf)]
        if self.form.is_quoted:  # one terminal: where a quote ends a text is told by what follows it
            ends = re.escape(",)]}:")
            plain = rf"[^{before}\\\n]|{before}[^{before}\\\n\s{ends}]"
            texts = rf"({plain})*" if parts else rf"({plain}|\\[{before}\\nt])*"
            within = " & ".join(f"/{before}({part}){before}/" for part in parts)
            return [name.upper()], [f"{name.upper()}: /{before}{texts}{before}/" + (f" & {within}" if within else "")]
        text = f"{joined([*parts, '(?s:.+)'])}{without(before)}"
        ways = [f"{self._write(before)} {name.upper()} {self._write(behind)}"]
        if all(map(fits_nothing, parts)):
            ways.append(self._write(before + behind))
        return ways, [f"{name.upper()}: {text}"]

    def _listed(self, name: str, leaf: Mapping[str, Any], where: str) -> tuple[list[str], list[str]]:
        lines = self.rule(f"{name}_item", leaf.get("items", True), f"{where}.items")
        ways = list_ways(leaf, f"{name}_item", self._write(self.form.item), where)
        return [f'"[" {way} "]"' for way in ways], lines


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


def too_deep(where: str) -> SpecError:
    return SpecError(
        f"{where} is nested more than {DEEPEST} levels deep, or is large or within itself, to which arguments that are "
        "written one by one cannot be kept",
        hint="give a flatter schema, or make a member the lead that writes calls as JSON",
    )
