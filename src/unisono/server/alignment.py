"""Where in a text that is shown the characters begin that a tokenizer reads of it."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence

from unisono.vocab.normal_forms import NORMAL_FORMS, NormalForm, lowered

_Units = Sequence[tuple[int, str]]
"""Parts of a text that are normalised by themselves: where each begins, and its normal form."""


def align(read: str, text: str) -> list[int]:
    """For each character that was read, and their end: the character of the text where what it stands for begins.

    A tokenizer may add spaces, before a text above all, leave some out, and read a normal form of the text
    (`PromptEncoder.encode_text`).
    """
    added = len(read) - len(text)
    if read == " " * added + text:
        return [0] * added + list(range(len(text) + 1))
    for form, uncased in itertools.product((None, *NORMAL_FORMS), (False, True)):
        units = [(start, lowered(unit) if uncased else unit) for start, unit in _units(text, form)]
        if (places := _places(read, units, len(text))) is not None:
            return places
    return [min(place, len(text)) for place in range(len(read) + 1)]


def _places(read: str, units: _Units, end: int) -> list[int] | None:
    """`align`, for one normal form; ``None`` where the text was not read in it."""
    whole = "".join(unit for _, unit in units)
    places = [0] * max(0, _spaces(read) - _spaces(whole))  # the first spaces are those that were added
    for start, unit in units:
        while read.startswith(" ", len(places)) and not read.startswith(unit, len(places)):
            places.append(start)
        if read.startswith(unit, len(places)):
            places += [start] * len(unit)
        elif unit.strip(" "):
            return None
    if read[len(places) :].strip(" "):
        return None
    return places + [end] * (len(read) + 1 - len(places))


def _units(text: str, form: NormalForm | None) -> Iterator[tuple[int, str]]:
    if form is None:
        yield from enumerate(text)
        return
    start, unit = 0, ""
    for place, character in enumerate(text):
        apart = unicodedata.normalize(form, unit) + unicodedata.normalize(form, character)
        if unit and not unicodedata.combining(character) and unicodedata.normalize(form, unit + character) == apart:
            yield start, unicodedata.normalize(form, unit)
            start, unit = place, ""
        unit += character
    if unit:
        yield start, unicodedata.normalize(form, unit)


def _spaces(text: str) -> int:
    return len(text) - len(text.lstrip(" "))
