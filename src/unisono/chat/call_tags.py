"""Arguments in tags that have their names, as MiniMax M3 writes them: ``<key>value</key>``, lists as ``<item>`` tags.

Each tag may have a token before it. What is within a tag is a text, or tags where a schema wants a list or a mapping,
or says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unisono.chat.call_characters import Broken, Characters, Scan
from unisono.chat.call_literals import NESTED
from unisono.chat.call_segments import FormUnknown
from unisono.chat.call_values import kinds_of, part_of, read_value

_DEEPEST = 40


@dataclass(frozen=True, slots=True)
class Tags:
    """How tags are written that have the names of arguments."""

    open: str
    """Before a name, in the tag before a value."""
    close: str
    """The same in the tag behind a value: the other one's, and a slash."""
    end: str
    """Behind a name, in both."""
    item: str
    """The name of the tag around an entry of a list."""

    def opened(self, name: str) -> str:
        return f"{self.open}{name}{self.end}"

    def closed(self, name: str) -> str:
        return f"{self.close}{name}{self.end}"

    def written(self, value: Any) -> str:
        """What stands within a tag."""
        if isinstance(value, list):
            return "".join(f"{self.opened(self.item)}{self.written(each)}{self.closed(self.item)}" for each in value)
        if isinstance(value, Mapping):
            return "".join(f"{self.opened(key)}{self.written(each)}{self.closed(key)}" for key, each in value.items())
        words = {True: "true", False: "false"}
        return "" if value is None else words[value] if isinstance(value, bool) else str(value)


def find_tags(opened: str, closed: str, end: str, listed: str, mapped: str) -> Tags:
    """How tags are written, by what a template makes of `NESTED`. Raises a `FormUnknown` for another kind of tags."""
    item = re.match(rf"{re.escape(opened)}(\w+){re.escape(end)}", listed)
    tags = Tags(opened, closed, end, item[1] if item else "")
    if closed != opened + "/" or [listed, mapped] != [tags.written(value) for value in NESTED.values()]:
        raise FormUnknown("its chat template writes the arguments of a call one by one, and each one's name twice")
    return tags


def read_tagged(chars: Characters, tags: Tags, name: str, schema: object, whole: object, depth: int = 0) -> Scan[Any]:
    """The value of a tag with this name, which has been opened, up to behind its end."""
    kinds = kinds_of(schema, whole)
    nests = tags.open.strip() != "<" if kinds is None else bool(kinds & {"array", "object"})
    if depth > _DEEPEST:
        raise Broken
    if not nests:
        text = yield from chars.up_to(tags.closed(name))
        return read_value(text, schema, whole) if text else _nothing(kinds)
    children = list[tuple[str, Any]]()
    while True:
        text = yield from chars.up_to(tags.open)
        char = yield from chars.char()
        if char == "/":
            break
        if text.strip():
            raise Broken
        key = char + (yield from chars.up_to(tags.end))
        part = part_of(schema, whole, None if key == tags.item else key)
        children.append((key, (yield from read_tagged(chars, tags, key, part, whole, depth + 1))))
    for wanted in name + tags.end:
        if (yield from chars.char()) != wanted:
            raise Broken
    if not children:
        return read_value(text, schema, whole) if text else _nothing(kinds)
    if text.strip():
        raise Broken
    if all(key == tags.item for key, _ in children) and (kinds is None or "array" in kinds):
        return [value for _, value in children]
    if len(dict(children)) < len(children):
        raise Broken
    return dict(children)


def _nothing(kinds: frozenset[str] | None) -> Any:
    """What a tag is that holds nothing: a text, or what else a schema wants."""
    if kinds is None or "string" in kinds or not kinds & {"array", "object", "null"}:
        return ""
    return [] if "array" in kinds else {} if "object" in kinds else None
