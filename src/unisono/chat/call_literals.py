"""Values of arguments that no tag ends, as Gemma 4 writes them (``key:<|"|>text<|"|>``), and calls as of Python.

A text stands between delimiters, lists and mappings in brackets, and all else as it is. What is read may also be JSON,
or as Python writes it: models write what they have seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unisono.chat.call_characters import Broken, Characters, Scan
from unisono.chat.call_segments import FormUnknown
from unisono.chat.json_values import refuse_constant

NESTED: Mapping[str, Any] = {
    "probe_list": ["probe item", True, None],
    "probe_map": {"probe_inner": "probe 'text'", "probe_other": 70718},
}
"""Arguments by which a template shows how it writes values of several kinds."""
PYTHON_WORDS = {"True": True, "False": False, "None": None}
"""As templates write these that make texts of values by Python's rules; models write what they have read."""
_DEEPEST = 40
_ENDS = ",)]}:"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_QUOTES = "'\""


@dataclass(frozen=True, slots=True)
class Literals:
    """How a template writes values that no tag ends."""

    text: tuple[str, str]
    """What stands around a text."""
    true: Literal["true", "True"] = "true"
    null: str = "null"
    item: str = ", "
    """Between the entries of a list, and of a mapping."""
    key: tuple[str, str] | None = None
    """Around a key of a mapping, with what stands between it and its value; ``None`` where mappings are JSON."""

    @property
    def is_json(self) -> bool:
        return self.text == ('"', '"') and self.true == "true" and self.null == "null" and self.key is None

    @property
    def is_quoted(self) -> bool:
        """Whether texts stand between quotes, which they may hold, too."""
        return self.text[0] in _QUOTES

    @property
    def words(self) -> dict[str, Any]:
        return {self.true: True, "false" if self.true == "true" else "False": False, self.null: None}

    def written(self, value: Any) -> str:
        if isinstance(value, str):
            return self.text[0] + (self.escaped(value) if self.is_quoted else value) + self.text[1]
        if value is None or isinstance(value, bool):
            return next(word for word, meant in self.words.items() if meant is value)
        if isinstance(value, list):
            return f"[{self.item.join(map(self.written, value))}]"
        if isinstance(value, Mapping) and self.key is not None:
            before, behind = self.key
            entries = (f"{before}{key}{behind}{self.written(each)}" for key, each in value.items())
            return f"{{{self.item.join(entries)}}}"
        return json.dumps(value, ensure_ascii=False)

    def escaped(self, text: str) -> str:
        if self.text[0] == '"':
            return json.dumps(text, ensure_ascii=False)[1:-1]
        escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
        return re.sub(rf"{self.text[0]}(?=$|[\s{re.escape(_ENDS)}])", lambda quote: "\\" + quote.group(), escaped)


def find_literals(text: tuple[str, str], listed: str, mapped: str) -> Literals:
    """How values are written, by what a template makes of `NESTED` and what it writes around a text.

    Raises a `FormUnknown` where that is a way of another kind.
    """
    found = re.fullmatch(
        rf"\[{re.escape(text[0])}probe item{re.escape(text[1])}(\W+?)([Tt]rue)\1(null|None)\]", listed, re.DOTALL
    )
    if found is None:
        raise _other_way()
    item, true, null = found.groups()
    key = None
    if not _is_json(mapped):
        value = re.escape(text[0] + NESTED["probe_map"]["probe_inner"] + text[1] + item)
        pattern = rf"\{{(.*?)probe_inner(.*?){value}(.*?)probe_other(.*?)70718\}}"
        keyed = re.fullmatch(pattern, mapped, re.DOTALL)
        if keyed is None or (keyed[1], keyed[2]) != (keyed[3], keyed[4]):
            raise _other_way()
        key = keyed[1], keyed[2]
    return Literals(text, "true" if true == "true" else "True", null, item, key)


def _other_way() -> FormUnknown:
    words = "its chat template writes the arguments of a call one by one, and lists or mappings in another way"
    return FormUnknown(words)


def _is_json(text: str) -> bool:
    try:
        return bool(json.loads(text) == NESTED["probe_map"])
    except ValueError:
        return False


def read_literal(chars: Characters, form: Literals, depth: int = 0) -> Scan[tuple[Any, bool]]:
    """The next value, and whether it is told what it is; a word, or a number, is told by its text alone."""
    if depth > _DEEPEST:
        raise Broken
    char = yield from chars.solid()
    if char in _QUOTES:
        return (yield from _quoted(chars, char)), True
    if form.text[0].startswith(char):
        for wanted in form.text[0][1:]:
            if (yield from chars.char()) != wanted:
                raise Broken
        return (yield from chars.up_to(form.text[1])), True
    if char == "[":
        return (yield from _listed(chars, form, depth)), True
    if char == "{":
        return (yield from _mapped(chars, form, depth)), True
    if char in _ENDS:
        raise Broken
    text = yield from chars.scalar(char, _ENDS)
    return text, False


def whole_literal(text: str) -> Any:
    """The list or the mapping that a text is, as JSON or as Python writes it; the text where it is none."""
    if text[:1] not in ("[", "{"):
        return text
    value: Any = text
    reader = read_literal(Characters(), Literals(('"', '"')))
    next(reader)
    for place, char in enumerate(text):
        try:
            reader.send(char)
        except StopIteration as ended:
            value = ended.value[0] if place == len(text) - 1 else text
            break
        except Broken:
            break
    return value


def _inner(chars: Characters, form: Literals, depth: int) -> Scan[Any]:
    """A value within another."""
    value, is_told = yield from read_literal(chars, form, depth + 1)
    return value if is_told else plain_word(value)


def plain_word(text: str) -> Any:
    """What a word or a number is, of which no schema says it."""
    if text in PYTHON_WORDS:
        return PYTHON_WORDS[text]
    try:
        value = json.loads(text, parse_constant=refuse_constant)
    except ValueError:
        return text
    return text if value in (float("inf"), float("-inf")) else value


def _listed(chars: Characters, form: Literals, depth: int) -> Scan[list[Any]]:
    values = list[Any]()
    separator = yield from chars.solid()
    if separator != "]":
        chars.back(separator)
    while separator != "]":
        values.append((yield from _inner(chars, form, depth)))
        separator = yield from _separator(chars, "]")
    return values


def _mapped(chars: Characters, form: Literals, depth: int) -> Scan[dict[str, Any]]:
    values = dict[str, Any]()
    separator = yield from chars.solid()
    if separator != "}":
        chars.back(separator)
    while separator != "}":
        key = yield from _key(chars, form)
        if key in values:
            raise Broken
        values[key] = yield from _inner(chars, form, depth)
        separator = yield from _separator(chars, "}")
    return values


def _key(chars: Characters, form: Literals) -> Scan[str]:
    """A key of a mapping, up to its value."""
    char = yield from chars.solid()
    if char not in _QUOTES and not form.text[0].startswith(char):
        return (char + (yield from chars.up_to(":"))).rstrip()
    chars.back(char)
    key, _ = yield from read_literal(chars, form)
    yield from chars.expect(":")
    return str(key)


def _separator(chars: Characters, end: str) -> Scan[str]:
    char = yield from chars.solid()
    if char not in (",", end):
        raise Broken
    return char


def _quoted(chars: Characters, quote: str) -> Scan[str]:
    """A text up to the quote behind which a value can end; some templates write those of the text as they are."""
    parts = list[str]()
    while True:
        char = yield from chars.char()
        if char == "\\":
            parts.append((yield from _escaped(chars)))
        elif char != quote:
            parts.append(char)
        else:
            space, ahead = "", (yield from chars.char())
            while ahead.isspace():
                space, ahead = space + ahead, (yield from chars.char())
            chars.back(space + ahead)
            if ahead in _ENDS:
                return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            parts.append(quote)


def _escaped(chars: Characters) -> Scan[str]:
    char = yield from chars.char()
    if char != "u":
        return _ESCAPES.get(char, char if char in "\\'\"/" else "\\" + char)
    digits = ""
    while len(digits) < 4:
        digits += yield from chars.char()
    if not re.fullmatch("[0-9A-Fa-f]{4}", digits):
        raise Broken
    return chr(int(digits, 16))
