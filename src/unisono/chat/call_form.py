"""How a member writes tool calls: as JSON objects, or between texts that name them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from unisono.chat.call_parameters import ParameterSegments
from unisono.chat.call_segments import CallSegments, filled, fixed
from unisono.chat.json_values import read_arguments
from unisono.vocab.marks import Mark

SEPARATORS = ((", ", ": "), (",", ":"))
"""Between the entries of a mapping, and between a key and its value: as Python writes JSON, and without spaces."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """How an answer writes calls: as JSON objects with a name and arguments, between marks, or by `segments`.

    `Ensemble.call_form` returns one; its fields are for `find_calls` and `call_grammar`.
    """

    opening: str  # before the first call; empty where a call is nothing but its object
    between: str | None  # between two calls; ``None`` where there is never more than one
    closing: str
    name_key: str
    arguments_key: str
    name_first: bool = True
    separators: tuple[str, str] | None = SEPARATORS[0]
    """As in `SEPARATORS`; ``None`` where the object is laid out in another way."""
    other_keys: tuple[str, ...] = ()
    """Further keys of the object, such as an id. They are read and ignored, and not written."""
    begin_token: str | None = None
    """The control token in ``opening``, which is a mark and no text; ``None`` where all is text."""
    end_token: str | None = None
    """The same of ``closing``."""
    text_token: str | None = None
    """The same of what stands around texts within a call."""
    only_first: bool = False
    """Whether a call stands where an answer begins, and never behind its text: of models that name a channel first."""
    segments: CallSegments | None = None
    """Of calls whose name stands outside of their JSON: the keys mean nothing then."""
    parameters: ParameterSegments | None = None
    """Of calls whose arguments stand one by one, behind the name."""
    recipient: str = ""
    """What an answer's text begins with, of models that first write whom they speak to, as calls begin with a name."""

    @property
    def by_seams(self) -> bool:
        """Whether what stands around names and arguments is marks: it holds control tokens."""
        return self.segments is not None and self.begin_token is not None and self.parameters is None

    @property
    def seams(self) -> CallSegments:
        """The form cut at its seams; of an object, as it is where the name comes first."""
        if self.segments is not None:
            return self.segments
        item, key = self.separators or SEPARATORS[0]
        head, frame = f'{{{json_text(self.name_key)}{key}"', f'"{item}{json_text(self.arguments_key)}{key}'
        again = None if self.between is None else self.between + head
        return CallSegments(self.opening + head, frame, "}", again, self.closing)

    @property
    def head(self) -> str:
        """What calls begin with, as far as it is the same for each."""
        return self.opening if self.segments is None else fixed(self.segments.before)

    @property
    def sign(self) -> str:
        """What tells that a call begins: of arguments one by one, the last tag, for models leave out what is before."""
        if self.recipient:
            return self.between_head.strip()
        return self.head.strip()[self.head.strip().rfind("<") if self.parameters is not None else 0 :]

    @property
    def between_head(self) -> str:
        """The same of what stands between two calls."""
        if self.segments is None or self.segments.again is None:
            return self.between or ""
        return fixed(self.segments.behind + self.segments.again)

    def framed(self, name: str) -> tuple[str, str]:
        """The text of a call's object, or of its name, before and after its arguments."""
        if self.segments is not None:
            return f"{name}{filled(self.segments.middle, 0)}", ""
        item, key = self.separators or SEPARATORS[0]
        named = f"{json_text(self.name_key)}{key}{json_text(name)}"
        arguments = f"{json_text(self.arguments_key)}{key}"
        return ("{" + named + item + arguments, "}") if self.name_first else ("{" + arguments, item + named + "}")

    @property
    def tokens(self) -> dict[Mark, str | None]:
        """The control tokens that are marks where calls are not by seams."""
        return {"call_begin": self.begin_token, "call_end": self.end_token, "call_text": self.text_token}

    def written(self, name: str, arguments: str) -> str:
        if self.parameters is not None:
            return f"{self.opening}{name}{self.parameters.written(read_arguments(arguments))}{self.closing}"
        before, behind = self.framed(name)
        return f"{self.opening}{before}{arguments}{behind}{self.closing}"


def json_text(value: Any, separators: tuple[str, str] | None = None) -> str:
    """JSON as templates write it: other scripts than Latin as they are."""
    return json.dumps(value, separators=separators, ensure_ascii=False)
