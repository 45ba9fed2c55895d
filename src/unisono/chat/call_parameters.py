"""Calls whose arguments stand one by one, each a name and a value, as Qwen3-Coder and GLM 4.5 write them.

Where texts are written as all values are, a value whose schema wants a text is that text, as it is, and any other is
JSON. Some templates mark texts: DeepSeek V3.2 by an attribute, Gemma 4 and LFM 2.5 by delimiters. What stands around
names and values is `ParameterSegments`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unisono.chat.call_literals import NESTED, Literals, find_literals
from unisono.chat.call_segments import CallSegments, FormUnknown, common_length
from unisono.chat.call_tags import Tags, find_tags
from unisono.chat.call_values import read_value, text_of
from unisono.chat.template_probe import ARGUMENTS, IDS, NAMES

_KEYS, _VALUES = tuple(ARGUMENTS), tuple(map(str, ARGUMENTS.values()))


@dataclass(frozen=True, slots=True)
class ParameterSegments:
    """What stands around the names and values of a call's arguments, as a template writes it."""

    first: str
    """Between the function's name and the first argument's."""
    middle: str
    """Between an argument's name and its value."""
    stop: str
    """Behind each value."""
    again: str
    """Between that and the next argument's name."""
    close: str
    """Between that and the end of the call's arguments."""
    none: str
    """Behind a function's name where there are no arguments."""
    text_middle: str | None = None
    """In place of ``middle`` before a text; ``None`` where texts are written as other values are."""
    literals: Literals | None = None
    """How values are written that nothing ends but what follows; ``None`` where ``stop`` does."""
    tags: Tags | None = None
    """Of arguments in tags that have their names."""

    def written(self, arguments: Mapping[str, Any]) -> str:
        """What stands behind a function's name."""
        texts = (f"{key}{self._around(key, value)}" for key, value in arguments.items())
        return f"{self.first}{self.again.join(texts)}{self.close}" if arguments else self.none

    def _around(self, key: str, value: object) -> str:
        """An argument's value with what stands beside it."""
        if self.tags is not None:
            return self.middle + self.tags.written(value) + self.tags.closed(key)
        if self.literals is not None:
            return self.middle + self.literals.written(value)
        is_text = isinstance(value, str) and self.text_middle is not None
        return f"{self.text_middle if is_text else self.middle}{text_of(value)}{self.stop}"

    @property
    def kinds(self) -> tuple[str, str, str] | None:
        """What stands between a name and the sign of a value's kind, and the signs of a text and of another value."""
        if self.text_middle is None or self.literals is not None or self.tags is not None:
            return None
        size = common_length(self.text_middle, self.middle)
        return self.middle[:size], self.text_middle[size:], self.middle[size:]

    def value(self, text: str, schema: object, whole: object) -> Any:
        """The value that was written as a text, without the line breaks that belong to the form. See `read_value`."""
        if self.middle.endswith("\n"):
            text = text.removeprefix("\n")
        if self.stop.startswith("\n"):
            text = text.removesuffix("\n")
        return read_value(text, schema, whole)


@functools.lru_cache(64)
def ends_of(form: ParameterSegments) -> re.Pattern[str]:
    """What a text ends with where a value has ended: a stop behind which a further argument (group 1), or the end of
    all, is told. A stop alone may be a part of the value, as of code that reads such calls.
    """
    stop, again, close = map(_spaced, (form.stop, form.again, form.close))
    return re.compile(rf"{stop}\s*(?:({again})|{close})\Z")


def _spaced(text: str) -> str:
    """An expression for a text whose white space may be another."""
    return r"\s*".join(map(re.escape, text.split()))


def find_parameters(
    write: Callable[[Mapping[str, Any]], str], two: str | None, controls: Iterable[str] = ()
) -> tuple[CallSegments, ParameterSegments]:
    """Cut answers of one call, which ``write`` makes, and of two; ``None`` where a template refuses two.

    The middle of the `CallSegments` is empty. Raises a `FormUnknown`.
    """
    before, parameters, behind = _Around(write, two, tuple(controls)).cut()
    alone = CallSegments(before, "", behind, None, "")
    between, end = _between(two)
    stop = parameters.stop if parameters.tags is None else parameters.tags.closed(_KEYS[1])
    head = stop + parameters.close
    if two is None or not two.startswith(write(ARGUMENTS).rpartition(_VALUES[1])[0]) or not between.startswith(head):
        return alone, parameters
    between = between.removeprefix(head)
    shared = common_length(between, behind)
    end = end.removeprefix(head + behind[:shared])
    return CallSegments(before, "", behind[:shared], between[shared:], end), parameters


def _between(two: str | None) -> tuple[str, str]:
    """What stands between the last argument of the first of two calls and the second one's name, and behind both."""
    if two is None:
        return "", ""
    first, _, second = two.rpartition(NAMES[1])
    return first.rpartition(_VALUES[1])[2], second.rpartition(_VALUES[1])[2]


@dataclass(frozen=True, slots=True)
class _Around:
    """Cuts what stands before a call's name, around its arguments, and behind the call."""

    write: Callable[[Mapping[str, Any]], str]
    two: str | None
    controls: tuple[str, ...]

    def cut(self) -> tuple[str, ParameterSegments, str]:
        one, none = self.write(ARGUMENTS), self.write({})
        if any(identity in one for identity in IDS):
            raise FormUnknown("its chat template writes the arguments of a call one by one, and its id beside them")
        before, first, middle, again, its_middle, last = _cut(one, NAMES[0], _KEYS[0], _VALUES[0], _KEYS[1], _VALUES[1])
        its_before, bare = _cut(none, NAMES[0])
        if before != its_before:
            raise _each_otherwise()
        if _KEYS[0] in again:
            return before, *self._tagged(first, middle, again, last, bare)
        if middle != its_middle or not _up_to_tag(again[: common_length(again, last)]).strip():
            return before, *self._marked(first, middle, again, its_middle, last, bare)
        stop = _up_to_tag(again[: common_length(again, last)])
        again, last = again.removeprefix(stop), last.removeprefix(stop)
        close, behind = self._closed(last, stop, bare)
        parameters = ParameterSegments(first, middle, stop, again, close, bare[: len(bare) - len(behind)])
        _check(parameters)
        return before, parameters, behind

    def _marked(
        self, first: str, text_middle: str, text_again: str, middle: str, last: str, bare: str
    ) -> tuple[ParameterSegments, str]:
        """The same where texts are written otherwise than other values are, behind the call's name."""
        swapped = self.write(dict(zip(_KEYS, reversed(list(ARGUMENTS.values())), strict=True)))
        _, *others = _cut(swapped, NAMES[0], _KEYS[0], _VALUES[1], _KEYS[1], _VALUES[0])
        if others[:2] != [first, middle] or others[3] != text_middle:
            raise _each_otherwise()
        again, text_last = others[2], others[4]
        if again == text_again and last == text_last:  # what ends values is the same
            stop = _up_to_tag(again[: common_length(again, last)])
            again, last = again.removeprefix(stop), last.removeprefix(stop)
            close, behind = self._closed(last, stop, bare)
            bare = bare[: len(bare) - len(behind)]
            parameters = ParameterSegments(first, middle, stop, again, close, bare, text_middle)
            _check(parameters)
            self._check_others(parameters)
            return parameters, behind
        opening, closing = text_middle.removeprefix(middle), text_again.removesuffix(again)
        is_delimited = text_middle == middle + opening and text_again == closing + again and text_last == closing + last
        if not (opening.strip() and closing.strip() and is_delimited):
            raise _each_otherwise()
        close, behind = self._closed(last, "", bare)
        bare = bare[: len(bare) - len(behind)]
        parameters = ParameterSegments(first, middle, "", again, close, bare, text_middle)
        if _solid(bare) != _solid(first + close) or not (_solid(middle) and _solid(again)):
            raise _each_otherwise()
        literals = find_literals((opening, closing), *self._nested(parameters))
        return replace(parameters, literals=literals), behind

    def _tagged(self, first: str, end: str, again: str, last: str, bare: str) -> tuple[ParameterSegments, str]:
        """The same where what ends a value has the argument's name."""
        closed, _, rest = again.partition(_KEYS[0])
        opened = rest.removeprefix(end)
        head, last = first.removesuffix(opened), last.removeprefix(f"{closed}{_KEYS[1]}{end}")
        close = re.match(rf"\s*{re.escape(closed)}\w+{re.escape(end)}", last)
        if not opened.strip() or head == first or close is None or bare != head + last:
            raise FormUnknown("its chat template writes the arguments of a call one by one, and each one's name twice")
        behind = last.removeprefix(close.group())
        parameters = ParameterSegments(first, end, "", opened, close.group(), head + close.group())
        stops = [f"{closed}{key}{end}" for key in NESTED]
        tags = find_tags(opened, closed, end, *self._nested(parameters, stops))
        return replace(parameters, tags=tags), behind

    def _closed(self, last: str, stop: str, bare: str) -> tuple[str, str]:
        """What ends the arguments, and what stands behind that."""
        close, between = last, _between(self.two)[0].removeprefix(stop)
        if self.two is not None and (shared := close[: common_length(close, between)]).strip():
            close = shared
        places = [close.find(control) for control in self.controls if control in close]
        close = _up_to_tag(close[: min(places, default=len(close))], first=True)
        behind = last.removeprefix(close)
        if len(behind) > common_length(last[::-1], bare[::-1]) or not close.strip():
            raise FormUnknown("its chat template writes the arguments of a call one by one, and none in another way")
        return close, behind

    def _nested(self, parameters: ParameterSegments, stops: Sequence[str] = ()) -> list[str]:
        """What a template makes of a list and of a mapping; ``stops`` stand behind them."""
        stop, last = stops or (parameters.stop, parameters.stop)
        first, again = (f"{key}{parameters.middle}" for key in NESTED)
        _, found, rest = self.write(NESTED).partition(parameters.first + first)
        listed, also_found, rest = rest.partition(stop + parameters.again + again)
        place = rest.rfind(last + parameters.close)
        if not found or not also_found or place < 0:
            raise _each_otherwise()
        return [listed, rest[:place]]

    def _check_others(self, parameters: ParameterSegments) -> None:
        """Refuse values that are neither texts nor JSON."""
        for written, value in zip(self._nested(parameters), NESTED.values(), strict=True):
            if read_value(written) != value:
                raise _each_otherwise()


def _each_otherwise() -> FormUnknown:
    return FormUnknown("its chat template writes the arguments of a call one by one, each in another way")


def _check(parameters: ParameterSegments) -> None:
    """Refuse what could not be read again: `ParameterSegments` that do not tell where a value ends, or a name."""
    ways = ((parameters.first, parameters.none), (parameters.again, parameters.close))
    for each, other in (map(_solid, way) for way in ways):
        if each.startswith(other) or other.startswith(each):
            raise FormUnknown("its chat template writes the arguments of a call one by one, and does not end them")
    if any(key in part for key in _KEYS for part in (parameters.again, parameters.close)):
        raise FormUnknown("its chat template writes the arguments of a call one by one, and each one's name twice")
    if not parameters.middle.strip():
        raise FormUnknown("its chat template writes the arguments of a call one by one, and none in another way")


def _cut(text: str, *words: str) -> list[str]:
    parts = []
    for word in words:
        part, found, text = text.partition(word)
        if not found:
            raise FormUnknown("its chat template writes the arguments of a call one by one, and not all of them")
        parts.append(part)
    return [*parts, text]


def _up_to_tag(text: str, *, first: bool = False) -> str:
    """A text up to the end of its last tag, or of its first one; the whole where there is none."""
    place = text.find(">") if first else text.rfind(">")
    return text[: place + 1] if place >= 0 else text


def _solid(text: str) -> str:
    return "".join(text.split())
