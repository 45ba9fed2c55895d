"""The folder of a run: its manifest, the answers, and the times. After any end, a run continues from it.

- ``run.json``: what was asked for and what it ran on.
- ``questions.jsonl``: the questions in words, for people.
- ``answers.jsonl``: one line an answer, in an order that no interruption changes; the same in every run.
- ``times.jsonl``: how long each took.

Answers are written in waves: first the times of a wave, then its answers. A time without its answer shows that its wave
was cut off. Such a wave is dropped and asked again as a whole: what was read before a question can change the last bits
of a number, so it must always be the same.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any, Self

import filelock

from unisono.errors import SpecError, shown
from unisono.evals.records import Answer, Key, Question, Results, Task, Times
from unisono.user_files import DATA, DOCUMENT, check_plain, complete_lines, read_bytes, write_lines

ABOUT, QUESTIONS, ANSWERS, TIMES = "run.json", "questions.jsonl", "answers.jsonl", "times.jsonl"
LOCK = ".lock"
FIXED = ("spec", "chat", "wave", "batch")
"""What a continued run must share with the folder, besides its models, tasks and systems."""
OWN_EXAMPLE = "own_example"
"""Of a question that stands, with its answer, among the examples in its own prompt."""
INVOCATION = ("command", "date", "versions", "machine")


class RunFolder:
    """A run's folder while one process writes it."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Create the folder, or continue in it: `about` may add tasks, systems and questions. Raises a `SpecError`."""
        self.folder = folder
        self.known: dict[Key, Answer] = {}
        self.times: dict[Key, Times] = {}
        about = dict(json.loads(json.dumps(about)))
        with contextlib.ExitStack() as opened, _writing(folder):
            begun = _is_begun(folder)
            opened.enter_context(_locked(folder))
            if begun:
                there = read_about(folder)
                check_same(folder, there, about)
                about |= {what: _joined(there[what], about[what]) for what in ("tasks", "systems")}
                tuned_on = [*there.get("tuned_on", []), *about.get("tuned_on", [])]
                about["tuned_on"] = [each for place, each in enumerate(tuned_on) if each not in tuned_on[:place]]
                about["models"] = {**there.get("models", {}), **about.get("models", {})}
                about["earlier"] = _earlier(there, about)
            self._answers = opened.enter_context(FileIO(folder / ANSWERS, "ab"))
            self._read()
            self._times = opened.enter_context(FileIO(folder / TIMES, "ab"))
            self.about = about
            _replace(folder / ABOUT, (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def lacks(self, tasks: Iterable[Task], systems: Iterable[str]) -> bool:
        asked = itertools.product([(task.name, each.id) for task in tasks for each in task.questions], systems)
        return any((*question, system) not in self.known for question, system in asked)

    def write_questions(self, questions: Iterable[Question]) -> None:
        records = {(each["task"], each["question"]): each for each in _questions(self.folder)}
        records |= {
            (each.task, each.id): {
                "task": each.task,
                "part": each.part,
                "question": each.id,
                "prompt": each.words or each.prompt.text or "",
                "choices": list(each.choices),
                "target": each.target,
                **({OWN_EXAMPLE: True} if each.is_own_example else {}),
            }
            for each in questions
        }
        with _writing(self.folder):
            _replace(self.folder / QUESTIONS, _lines(records.values()))

    def write(self, answers: Sequence[Answer], times: Sequence[Times]) -> None:
        self._wave += 1
        times = [replace(each, wave=self._wave) for each in times]
        write_lines(self._times, [each.to_json() for each in times])
        write_lines(self._answers, [each.to_json() for each in answers])
        self.known |= {each.key: each for each in answers}
        self.times |= {each.key: each for each in times}

    def close(self) -> None:
        self._opened.close()

    def _read(self) -> None:
        records, _ = complete_lines(self.folder / ANSWERS, "task", what="a run's answers", line_is="an answer")
        answers = list(map(Answer.from_json, records))
        there = {answer.key for answer in answers}
        times = _read_times(self.folder)
        torn = {each.wave for each in times if each.key not in there}
        cut_off = {each.key for each in times if each.wave in torn}
        answers = list(itertools.takewhile(lambda each: each.key not in cut_off, answers))
        self.known = {answer.key: answer for answer in answers}
        self.times = {each.key: each for each in times if each.key in self.known}
        self._wave = max((each.wave for each in self.times.values()), default=0)
        lines = read_bytes(self.folder / ANSWERS, DATA).splitlines(keepends=True)
        # The answers first: until then the times show that a wave was cut off.
        self._answers.truncate(sum(map(len, lines[: len(answers)])))
        _replace(self.folder / TIMES, _lines(each.to_json() for each in self.times.values()))


def read_results(folder: Path) -> Results:
    """Read a run's folder, finished or not. Raises a `SpecError` when it holds no run."""
    if not os.path.isfile(folder / ABOUT):
        raise SpecError(
            f"{str(folder)!r} is not the folder of a run: it has no {ABOUT}", hint="name the --out of a run"
        )
    answers, _ = complete_lines(folder / ANSWERS, "task", what="a run's answers", line_is="an answer")
    about = read_about(folder)
    tasks = about.get("tasks", ())
    examples: dict[str, dict[str, Any]] = {task["name"]: {} for task in tasks}
    for each in _questions(folder):
        examples.get(each["task"], {})[each["question"]] = each
    for task in tasks:
        task["questions"] = list(examples[task["name"]])
        task["own_examples"] = sum(bool(each.get(OWN_EXAMPLE)) for each in examples[task["name"]].values())
    about["examples"] = examples
    return Results(about, list(map(Answer.from_json, answers)), _read_times(folder))


def _questions(folder: Path) -> list[dict[str, Any]]:
    if not (folder / QUESTIONS).is_file():
        return []
    return complete_lines(folder / QUESTIONS, "task", what="a run's questions", line_is="a question")[0]


def read_about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads(read_bytes(folder / ABOUT, DOCUMENT))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"cannot read {str(folder / ABOUT)!r}: {error}", hint="choose another --out") from error
    if not isinstance(about, dict):
        raise SpecError(f"{str(folder / ABOUT)!r} is not about a run", hint="choose another --out")
    return about


def check_same(folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a run can continue in a folder. Raises a `SpecError` that says what differs."""
    for words, before, now in _pairs(there, wanted):
        if before != now:
            raise SpecError(
                f"{str(folder)!r} holds a run {words}: {_difference(before, now)}",
                hint="choose another --out, or ask for what was asked for before",
            )


def _difference(before: object, now: object) -> str:
    """Both values; of texts the first line that differs, of values that begin alike from near there on."""
    where = ""
    if isinstance(before, str) and isinstance(now, str) and "\n" in before + now:
        lines = itertools.zip_longest(before.splitlines(), now.splitlines())
        number, (old, new) = next((each for each in enumerate(lines, 1) if each[1][0] != each[1][1]), (0, ("", "")))
        if number:
            where, before, now = f"line {number} is ", old, new
    words, others = shown(before), shown(now)
    if words == others:
        texts = repr(before), repr(now)
        same = next((place for place, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]), 0)
        start = max(0, same - 20)
        words, others = (f"…{text[start : start + 60]}" for text in texts)
    return f"{where}{words}, not {others}"


def _pairs(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """All that has to be the same: what it would mean if not, and both values."""
    for key in FIXED:
        yield f"with another {key}", there.get(key), wanted.get(key)
    for name, model in wanted.get("models", {}).items():
        yield f"in which {name!r} was another model", there.get("models", {}).get(name, model), model
    for what in ("tasks", "systems"):
        old = {each["name"]: each for each in there.get(what, ())}
        for new in wanted.get(what, ()):
            subject, before = f"{what.removesuffix('s')} {new['name']!r}", old.get(new["name"], new)
            for key in (key for key in new if key != "kind"):
                yield f"in which {subject} had another {key}", before.get(key, new[key]), new[key]


def _read_times(folder: Path) -> list[Times]:
    if not (folder / TIMES).is_file():
        return []
    records, _ = complete_lines(folder / TIMES, "task", what="a run's times", line_is="a time")
    latest = {each.key: each for each in (Times(**record) for record in records)}
    return list(latest.values())


def _joined(there: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list(({each["name"]: each for each in there} | {each["name"]: each for each in wanted}).values())


def _earlier(there: Mapping[str, Any], about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    now, last = ({key: each.get(key) for key in INVOCATION} for each in (about, there))
    return [each for each in there.get("earlier", []) if each not in (now, last)] + ([last] if last != now else [])


def _is_begun(folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ABOUT, QUESTIONS, ANSWERS, TIMES, LOCK):
        with contextlib.suppress(FileNotFoundError):
            check_plain(folder / name, (folder / name).stat())
    if (folder / ABOUT).exists():
        return True
    ours = {LOCK, ANSWERS, *(_new(folder / name).name for name in (ABOUT, TIMES)), TIMES}
    strange = next((path.name for path in folder.iterdir() if path.name not in ours), None)
    if strange is not None:
        raise SpecError(
            f"{str(folder)!r} is not the folder of a run: it holds {strange!r}", hint="choose another --out"
        )
    return False


def _replace(path: Path, data: bytes) -> None:
    """Replace a file atomically: readers see the old one or the new one."""
    _new(path).write_bytes(data)
    os.replace(_new(path), path)


def _new(path: Path) -> Path:
    return path.with_suffix(".new")


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return "".join(lines).encode(errors="backslashreplace")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpecError(f"cannot write into {str(folder)!r}: {error.strerror}", hint="choose another --out") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with filelock.FileLock(folder / LOCK, timeout=0):
            yield
    except filelock.Timeout:
        raise SpecError(
            f"another process writes into {str(folder)!r}", hint="wait for it, or choose another --out"
        ) from None
