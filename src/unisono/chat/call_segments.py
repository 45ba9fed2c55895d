"""Calls cut at their seams: what a template writes before a name, between it and the arguments, and behind these.

Where a template writes the name outside of a call's JSON, this is its form. Segments may hold control tokens.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.chat.template_probe import ARGUMENTS, IDS, NAMES
from unisono.vocab.marks import Mark

IDENTITY, NUMBERS = "\ue000", ("\ue001", "\ue002")
"""Stand for a call's id, and for its number, from 0 or from 1, within a segment."""
_OPEN = re.compile(f"[{IDENTITY}{''.join(NUMBERS)}]")


class FormUnknown(Exception):
    """A template writes calls in no form that unisono can read and write. The message says why."""


class OneByOne(FormUnknown):
    """A template writes the arguments of a call one by one; see `unisono.chat.call_parameters`."""


@dataclass(frozen=True, slots=True)
class CallSegments:
    """What stands around the names and the arguments of an answer's calls, as a template writes it."""

    before: str
    """Before the first name."""
    middle: str
    """Between a name and its arguments."""
    behind: str
    """Behind the arguments of each call."""
    again: str | None
    """Between that and the next call's name; ``None`` where there is never more than one call."""
    end: str
    """Behind the last call."""

    def at(self, mark: Mark, number: int = 0) -> str:
        """The segment of a mark of the call with this number, from 0."""
        segments = {"call_begin": self.before, "call_arguments": self.middle, "call_end": self.behind}
        return filled(segments.get(mark, self.again or ""), number)


def cut_open(segment: str) -> list[str]:
    """The texts of a segment, between which a number or an id stands."""
    return _OPEN.split(segment)


def fixed(segment: str) -> str:
    """What a segment begins with, up to a number or an id."""
    return cut_open(segment)[0]


def filled(segment: str, number: int) -> str:
    """A segment of the call with this number, from 0; ids are of nine letters and digits, as in `new_call_id`."""
    for first, sign in enumerate(NUMBERS):
        segment = segment.replace(sign, str(first + number))
    return segment.replace(IDENTITY, f"call{number:05d}")


def find_segments(one: str, two: str | None, controls: Collection[str]) -> tuple[CallSegments, str]:
    """Cut answers of one call and of two; ``None`` where a template refuses two. Also gives the arguments as written.

    Raises a `FormUnknown` where a call is no name and one JSON object of arguments behind it.
    """
    before, middle, arguments, closing = _around_call(_without_ids(one), NAMES[0])
    alone = CallSegments(before, middle, closing, None, "")
    try:
        first, its_middle, _, rest = _around_call(_without_ids(two or ""), NAMES[0])
        between, next_middle, _, last = _around_call(rest, NAMES[1])
    except FormUnknown:
        return alone, arguments
    shared = _common(between, closing, controls)
    behind, again = between[:shared], between[shared:]
    numbered = _numbered(its_middle, next_middle)
    whole = CallSegments(before, numbered or middle, behind, again, last[shared:])
    if first != before or its_middle != middle or numbered is None or not last.startswith(behind):
        return alone, arguments
    if cut_open(again)[1:] != cut_open(before)[1:]:
        return alone, arguments
    return whole, arguments


def recipient_behind(segments: CallSegments, channel: str) -> CallSegments:
    """The same where answers begin with a channel's name behind ``channel``, and the recipient may stand behind that.

    Some templates write the recipient before the channel; models write it behind the channel's name, and the format
    that they were trained on takes both.
    """
    before, middle = segments.before, segments.middle
    if not channel or channel in before:
        return segments
    ahead, found, rest = middle.partition(channel)
    name = re.match(r"\w+", rest)
    if found and not ahead.strip() and name is not None:
        moved = channel + name.group() + before
        return CallSegments(moved, rest[name.end() :], segments.behind, segments.again, segments.end)
    return CallSegments(channel + before, middle, segments.behind, segments.again, segments.end)


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How long the beginning is that two texts, or two lists of ids, have in common."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _without_ids(text: str) -> str:
    for identity in IDS:
        text = text.replace(identity, IDENTITY)
    return text


def _around_call(text: str, name: str) -> tuple[str, str, str, str]:
    """The text before a name, between it and its arguments, the arguments, and the rest."""
    for match in re.finditer(r"\{", text):
        try:
            read, behind = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if read != ARGUMENTS:
            continue
        before, found, middle = text[: match.start()].rpartition(name)
        if not found:
            raise FormUnknown("its chat template writes a call's arguments before its name")
        if any(each in part for each in NAMES for part in (before, middle)):
            raise FormUnknown("its chat template writes a call's name more than once")
        return before, middle, text[match.start() : behind], text[behind:]
    if name in text and all(str(value) in text for value in ARGUMENTS.values()):
        raise OneByOne("its chat template writes the arguments of a call one by one, and not as one JSON object")
    raise FormUnknown("its chat template does not write a call as a JSON object with a name and arguments")


def _common(one: str, other: str, controls: Collection[str]) -> int:
    """How much two texts begin with in common, cut before a control token that is not whole."""
    length = common_length(one, other)
    for text in (one, other):
        for control in filter(None, controls):
            for match in re.finditer(re.escape(control), text):
                length = match.start() if match.start() < length < match.end() else length
    return length


def _numbered(first: str, second: str) -> str | None:
    """The middle of two calls, with a sign where their numbers stand; ``None`` where they differ otherwise."""
    if first == second:
        return first
    for number, sign in enumerate(NUMBERS):
        one, other = (re.sub(rf"(?<!\d){n}(?!\d)", sign, text) for n, text in ((number, first), (number + 1, second)))
        if one == other:
            return one
    return None
