"""Reads lines of JSON as rows of the datasets that lm-evaluation-harness's definitions were written for.

A line has an ``id`` and a ``question``, and, as its task needs, ``choices`` with an ``answer`` (a letter) or an
``answer_index``; an ``answer`` that is a text, or a list of all accepted texts; a ``solution``; and the key that
names its part. A whole number is a text, too. Other keys are ignored.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unisono.errors import SpecError, nearest, shown
from unisono.user_files import read_data, read_json, why_no_json

FORM = "each line is an object of JSON; docs/evaluation.md shows one of each task"
LETTERS = string.ascii_uppercase
_PLACES = [str(place) for place in range(len(LETTERS))]


@dataclass(frozen=True, slots=True)
class Line:
    path: Path
    number: int
    values: Mapping[str, Any]

    def fault(self, words: str, hint: str = FORM) -> SpecError:
        return SpecError(f"{str(self.path)!r}, line {self.number}: {words}", hint=hint)

    def text(self, key: str) -> str:
        """A text; a whole number is one, too."""
        value = _as_text(given := self._value(key))
        if not isinstance(value, str) or not value:
            raise self.fault(f"{key} is {shown(given)}, not a text")
        return value

    def texts(self, key: str, *, fewest: int = 1, most: int | None = None) -> list[str]:
        given = self._value(key)
        value = [_as_text(each) for each in given] if isinstance(given, list) else given
        if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
            raise self.fault(f"{key} is {shown(given)}, not a list of texts")
        if len(value) < fewest or (most is not None and len(value) > most):
            count = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
            raise self.fault(f"{key} has {len(value)} texts, not {count}")
        return value

    def choice(self, *, fewest: int = 2, most: int = len(LETTERS)) -> tuple[list[str], int]:
        """The choices, and the index of the right one. Raises a `SpecError`."""
        choices = self.texts("choices", fewest=fewest, most=most)
        letters = LETTERS[: len(choices)]
        answer = self.values.get("answer")
        letter = answer.strip().upper() if isinstance(answer, str) else None
        if "answer_index" not in self.values:
            self._value("answer")
            if letter is None or letter not in tuple(letters):
                hint = "an answer is a letter; give a number as answer_index, counted from 0"
                raise self.fault(f"answer is {shown(answer)}, none of its choices {', '.join(letters)}", hint)
            return choices, letters.index(letter)
        given = self.values["answer_index"]
        index = int(given) if isinstance(given, str) and given in _PLACES else given
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(choices):
            raise self.fault(f"answer_index is {shown(given)}, none of its choices 0 to {len(choices) - 1}")
        if "answer" in self.values and letters[index] != letter and choices[index] != _as_text(answer):
            raise self.fault(f"answer is {shown(answer)}, but answer_index is {index}, {letters[index]}")
        return choices, index

    def answers(self) -> list[str]:
        """All accepted answers; one may stand alone."""
        only = self._value("answer")
        return self.texts("answer") if isinstance(only, list) else [self.text("answer")]

    def _value(self, key: str) -> Any:
        if key not in self.values:
            raise self.fault(f"the key {key!r} is missing")
        return self.values[key]


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a task from lm-evaluation-harness's definitions and lines of a file."""

    definition: str
    """The name of lm-evaluation-harness's task; ``{part}`` in it is what the line's ``part_key`` says."""
    folder: str
    """Its folder among lm-evaluation-harness's tasks."""
    row: Callable[[Line], dict[str, Any]]
    """Converts a line to a row of the original dataset."""
    part_key: str = ""
    shots: int | None = None
    """Examples per prompt; ``None`` for the definition's number."""
    shots_file: str | None = None
    """The file of examples; ``None`` when the definition has its own."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Replaced keys of the definition for rows that come from lines."""

    def part_of(self, line: Line) -> str:
        return self.definition.format(part=line.text(self.part_key)) if self.part_key else self.definition

    def holds(self, definition: str) -> bool:
        """Whether a definition is this task or one of its parts."""
        before, several, after = self.definition.partition("{part}")
        if not several:
            return definition == before
        return definition.startswith(before) and definition.endswith(after)


def _arc(line: Line) -> dict[str, Any]:
    choices, index = line.choice()
    labels = list(LETTERS[: len(choices)])
    return {
        "question": line.text("question"),
        "choices": {"text": choices, "label": labels},
        "answerKey": labels[index],
    }


def _gsm8k(line: Line) -> dict[str, Any]:
    solution = line.text("solution")
    if "#### " not in solution:
        raise line.fault("solution has no '#### ', behind which its answer stands")
    return {"question": line.text("question"), "answer": solution}


def _mmlu(line: Line) -> dict[str, Any]:
    choices, index = line.choice(fewest=4, most=4)
    return {"question": line.text("question"), "choices": choices, "answer": index}


def _bbh(line: Line) -> dict[str, Any]:
    return {"input": line.text("question"), "target": line.text("answer")}


def _triviaqa(line: Line) -> dict[str, Any]:
    aliases = line.answers()
    return {"question": line.text("question"), "answer": {"aliases": aliases, "value": aliases[0]}}


def _nq_open(line: Line) -> dict[str, Any]:
    return {"question": line.text("question"), "answer": line.answers()}


def _hellaswag(line: Line) -> dict[str, Any]:
    choices, index = line.choice()
    return {"query": line.text("question"), "choices": choices, "gold": index, "label": str(index)}


def _piqa(line: Line) -> dict[str, Any]:
    choices, index = line.choice(fewest=2, most=2)
    return {"goal": line.text("question"), "sol1": choices[0], "sol2": choices[1], "label": index}


def _math500(line: Line) -> dict[str, Any]:
    solution = line.text("solution")
    if "\\boxed" not in solution:
        raise line.fault("solution has no \\boxed, in which its answer stands")
    return {"problem": line.text("question"), "solution": solution, "answer": line.text("answer")}


RECIPES: dict[str, Recipe] = {
    "gsm8k": Recipe("gsm8k", "gsm8k", _gsm8k, shots_file="gsm8k.train.jsonl"),
    "mmlu": Recipe("mmlu_{part}", "mmlu/default", _mmlu, part_key="subject", shots=5, shots_file="mmlu.dev.jsonl"),
    "bbh": Recipe("bbh_cot_fewshot_{part}", "bbh/cot_fewshot", _bbh, part_key="task"),
    "triviaqa": Recipe("triviaqa", "triviaqa", _triviaqa, shots=5, shots_file="triviaqa.shots.jsonl"),
    "nq_open": Recipe("nq_open", "nq_open", _nq_open, shots=5, shots_file="nq_open.shots.jsonl"),
    "arc_easy": Recipe("arc_easy", "arc", _arc, shots_file="arc_easy.train.jsonl"),
    "arc_challenge": Recipe("arc_challenge", "arc", _arc, shots_file="arc_challenge.train.jsonl"),
    "hellaswag": Recipe(
        "hellaswag",
        "hellaswag",
        _hellaswag,
        shots_file="hellaswag.shots.jsonl",
        overrides={"process_docs": None},  # the lines are processed already
    ),
    "piqa": Recipe("piqa", "piqa", _piqa, shots_file="piqa.shots.jsonl"),
    "math500": Recipe("minerva_math500", "minerva_math", _math500),
}


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    part: str
    values: Mapping[str, Any]
    answer: str | None = None
    """The right answer in words, if the line has one."""


def read_rows(path: Path, recipe: Recipe, definitions: Sequence[str]) -> tuple[list[Row], str]:
    """A file's rows in order, and the sha256 of its content.

    Raises a `SpecError` when the file cannot be read or is empty, or a line is broken, names no part, or repeats an id.
    """
    try:
        data = read_data(path)
    except OSError as error:
        raise SpecError(
            f"cannot read {str(path)!r}: {error.strerror}",
            hint="--data names a folder with NAME.jsonl of each task, and examples in its folder shots",
        ) from error
    rows: list[Row] = []
    numbers: dict[str, int] = {}
    for number, words in enumerate(data.split(b"\n"), 1):
        if not words.strip():
            continue
        line = _line(path, number, words)
        row = _row(line, recipe, definitions)
        if row.id in numbers:
            raise line.fault(f"its id {shown(row.id)} is that of line {numbers[row.id]}", "an id names one line")
        numbers[row.id] = number
        rows.append(row)
    if not rows:
        raise SpecError(f"{str(path)!r} has no lines", hint=FORM)
    return rows, hashlib.sha256(data).hexdigest()


def _line(path: Path, number: int, words: bytes) -> Line:
    try:
        values = read_json(words)
    except (ValueError, RecursionError) as error:
        raise Line(path, number, {}).fault(why_no_json(error)) from error
    line = Line(path, number, values)
    if not isinstance(values, dict):
        raise line.fault(f"it is {shown(values)}, not an object")
    return line


def _row(line: Line, recipe: Recipe, definitions: Sequence[str]) -> Row:
    part = recipe.part_of(line)
    if part not in definitions:
        key = recipe.part_key
        known = [name.removeprefix(recipe.definition.partition("{")[0]) for name in definitions]
        value = line.text(key) if key else part
        raise line.fault(f"{key} is {shown(value)}, which lm-evaluation-harness does not know{nearest(value, known)}")
    answer = _as_text(line.values.get("answer"))
    words = None if "choices" in line.values or not isinstance(answer, str) else answer
    return Row(line.text("id"), part, recipe.row(line), words)
