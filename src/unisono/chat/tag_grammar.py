"""The grammar of values in tags that have the names of arguments. See `unisono.chat.call_tags`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from unisono.chat.call_tags import Tags
from unisono.chat.call_values import text_of
from unisono.chat.value_rules import ANY_NAME, ValueRules, Write, list_ways
from unisono.chat.value_schemas import ANYTHING, expressions, fits_nothing, joined, without


class TagValues(ValueRules):
    """Rules for values, each with the tag behind it."""

    no_ways = "allows no value that its tag can hold"

    def __init__(
        self,
        form: Tags,
        whole: Mapping[str, Any],
        options: Mapping[str, Any],
        write: Write,
        *,
        entry_rules_of: Callable[[str, Mapping[str, Any], TagValues, Write, str], list[str]],
    ) -> None:
        super().__init__(whole, options, write)
        self.form = form
        self._entry_rules_of = entry_rules_of

    def _ways(self, name: str, leaf: Mapping[str, Any], where: str, stop: str) -> tuple[list[str], list[str]]:
        behind = self._write(stop)
        if leaf == ANYTHING:
            return self._anything(name, stop)
        if "enum" in leaf:
            texts = [text_of(value) for value in leaf["enum"] if value is not None]
            return [self._write(text + stop) for text in texts if self.form.open.strip() not in text], []
        match leaf["type"]:
            case "string":
                return self._text(name, expressions(leaf, where), stop)
            case "array":
                item = f"{name}_item"
                opened, closed = self.form.opened(self.form.item), self.form.closed(self.form.item)
                lines = self.rule(item, leaf.get("items", True), f"{where}.items", closed)
                return [f"{way} {behind}" for way in list_ways(leaf, f"{self._write(opened)} {item}", "", where)], lines
            case "object":
                return [f"{name} {behind}"], self._entry_rules_of(name, leaf, self, self._write, where)
            case "null":
                return [], []  # such arguments are left out
            case _:
                return [f"{name} {behind}"], [self._json(name, leaf)]

    def _text(self, name: str, parts: list[str], stop: str) -> tuple[list[str], list[str]]:
        tag = self.form.open.strip()
        if not self._write(stop).startswith("<"):  # text ends the text
            return [f"{name}_text"], [f"{name}_text[suffix={json.dumps(stop)}]: {joined(parts)}{without(tag)}"]
        text = f"{name.upper()}: {joined([*parts, '(?s:.+)'])}{without(tag)}"
        empty = [self._write(stop)] if all(map(fits_nothing, parts)) else []
        return [f"{name.upper()} {self._write(stop)}", *empty], [text]

    def _anything(self, name: str, stop: str) -> tuple[list[str], list[str]]:
        """A text, or tags of any names; that each has one name is not kept to."""
        inner, end = f"{name}_inner", f"{ANY_NAME} {self._write(self.form.end)}"
        tag = f"({self._write(self.form.open)} {end} {inner})+"
        ways, lines = self._text(name, [], stop)
        inner_ways, inner_lines = self._text(inner, [], self.form.close)
        within = [*(f"{way} {end}" for way in inner_ways), f"{tag} {self._write(self.form.close)} {end}"]
        return [*ways, f"{tag} {self._write(stop)}"], [*lines, *inner_lines, f"{inner}: {' | '.join(within)}"]
