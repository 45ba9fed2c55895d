"""The grammar of values that no tag ends: texts within delimiters, lists and mappings in brackets.

See `unisono.chat.call_literals`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from unisono.chat.call_literals import Literals
from unisono.chat.value_rules import ANY_NAME, ValueRules, Write, list_ways
from unisono.chat.value_schemas import ANYTHING, expressions, fits_nothing, holds, joined, without


class LiteralValues(ValueRules):
    """Rules for values; what stands before and behind one is not theirs."""

    no_ways = "allows no value"

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
        super().__init__(whole, options, write)
        self.form = form
        self._any = f"{rule}_anything"
        self._entry_rules_of = entry_rules_of
        self._needs_any = False

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
            entry = f"{self._write(self.form.key[0])} {ANY_NAME} {self._write(self.form.key[1])} {name}"
            ways += ['"{" "}"', f'"{{" {entry} ({item} {entry})* "}}"']
        return [f"{name}: {' | '.join(ways)}", *lines, self._json(f"{name}_number", {"type": "number"})]

    def _ways(self, name: str, leaf: Mapping[str, Any], where: str, stop: str) -> tuple[list[str], list[str]]:
        if leaf == ANYTHING:
            self._needs_any = True
            return [self._any], []
        if "enum" in leaf:
            return [self._write(self.form.written(value)) for value in leaf["enum"] if self._can_be_read(value)], []
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

    def _can_be_read(self, value: Any) -> bool:
        """Whether no text within a value holds what ends it: where nothing escapes it, no such text can be read."""
        before, behind = self.form.text
        return before == '"' or self.form.is_quoted or not (holds(value, before) or holds(value, behind))

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
