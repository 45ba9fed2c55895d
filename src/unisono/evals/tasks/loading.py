"""Tasks by name: those of `RECIPES`, and all that lm-evaluation-harness has."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from unisono.config.ensemble import FittedOn, TunedOn
from unisono.errors import SpecError, nearest, shown
from unisono.evals import check_installed
from unisono.evals.records import Question, Task
from unisono.evals.tasks.definitions import Definition, Interpret, quiet
from unisono.evals.tasks.rows import RECIPES, Recipe, Row, read_rows

SHOTS_FOLDER = "shots"


def load_tasks(
    names: Iterable[str],
    *,
    data: Path | None = None,
    limit: int | None = None,
    fewer: bool = False,
    last: bool = False,
    shots: int | None = None,
    chat: bool = False,
    tuned_on: Sequence[TunedOn] = (),
    fitted_on: Sequence[FittedOn] = (),
) -> list[Task]:
    """Load tasks with their questions.

    Prompts and metrics are those of lm-evaluation-harness's definitions, also where the questions come from files.

    Args:
        names: those of `RECIPES`; without ``data``, any of lm-evaluation-harness that generates a text or chooses.
        data: a folder with ``NAME.jsonl`` of each task, and examples in its folder ``shots``; by default the hub's.
        limit: questions of each task, in its order; by default all.
        fewer: whether a task may have fewer questions than ``limit``.
        last: whether they are the last ones, and half of the task at most: for tuning.
        shots: examples in each prompt; by default the definition's number, or the paper's where it has none.
        chat: whether prompts are messages, which members read through their templates.
        tuned_on: questions to leave out: the last ones of tasks.
        fitted_on: questions to leave out, by their ids.

    Raises:
        SpecError: there is no such task, a file is missing or broken, or there are too few questions or examples.
        BackendMissing: lm-evaluation-harness, or a library that a task needs, is not installed.
    """
    wanted = list(dict.fromkeys(names))
    for what, value, least in (("limit", limit, 1), ("shots", shots, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise SpecError(f"{what} is {shown(value)}: it must be a whole number, {least} or more")
    if not wanted:
        raise SpecError("no task is named", hint=f"choose one of {', '.join(RECIPES)}")
    if data is not None:
        _check_data(wanted, data)
    lm_eval, cut = load_lm_eval(), Slice(limit, fewer, last, tuned_on, fitted_on)
    with quiet():
        if data is not None:
            return [_from_files(lm_eval, name, data, cut, shots, chat=chat) for name in wanted]
        return [_from_hub(lm_eval, name, cut, shots, chat=chat) for name in wanted]


@dataclass(frozen=True, slots=True)
class Slice:
    limit: int | None
    fewer: bool
    last: bool
    tuned_on: Sequence[TunedOn]
    fitted_on: Sequence[FittedOn] = ()

    def of(self, task: str, source: str, ordered: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """The selected questions of an order. Raises a `SpecError` when there are too few."""
        if self.last:
            half = len(ordered) // 2
            if not half:
                raise SpecError(f"the task {task!r} has one question", hint="give it more: half of them are kept apart")
            return list(ordered[-min(self.limit or half, half) :])
        seen = [each for each in self.tuned_on if (order_of(each.task), each.source) == (order_of(task), source)]
        spared = max((each.last for each in seen), default=0)
        fitted = [each for each in self.fitted_on if (order_of(each.task), each.source) == (order_of(task), source)]
        ids = {identity for each in fitted for identity in each.questions}
        known = [each for each in ordered[: max(0, len(ordered) - spared)] if each[1] not in ids]
        spared = len(ordered) - len(known)
        how = "fitted" if ids and not seen else "tuned"
        if not known:
            raise SpecError(
                f"the ensemble was {how} on all {len(ordered)} questions of the task {task!r}",
                hint="ask others, or evaluate the ensemble as it was before",
            )
        if self.limit is not None and self.limit > len(known) and not self.fewer:
            without = f" beside the {spared} that the ensemble was {how} on" if spared else ""
            raise SpecError(
                f"limit is {self.limit}, but the task {task!r} has {len(known)} questions{without}",
                hint="give a smaller one, or leave it out for all",
            )
        return list(known[: self.limit])


def order_of(task: str) -> str:
    """The name that determines a task's order: lm-evaluation-harness's, where ours is an alias."""
    recipe = RECIPES.get(task)
    return task if recipe is None else recipe.definition.partition("_{part}")[0]  # groups are called so


def may_hold(task: Task, tuned: TunedOn | FittedOn) -> bool:
    """Whether a task may hold unrecognisable questions that an ensemble was tuned on."""
    if (order_of(task.name), task.source) == (order_of(tuned.task), tuned.source):
        return False  # they are left out
    return order_of(task.name) == order_of(tuned.task) or bool(_datasets(task.source) & _datasets(tuned.source))


def _datasets(source: str) -> set[str]:
    return set(source.rpartition(" sha256:")[0].split("; "))


def load_lm_eval() -> ModuleType:
    """The module that imports lm-evaluation-harness. Raises `BackendMissing` when that is not installed."""
    check_installed("evaluation by lm-evaluation-harness", "lm_eval", "datasets")
    from unisono.evals import lm_eval

    return lm_eval


def _check_data(names: Sequence[str], data: Path) -> None:
    for name in names:
        if name not in RECIPES:
            raise SpecError(
                f"there is no task {shown(name)} for data in files{nearest(name, RECIPES)}",
                hint=f"choose one of {', '.join(RECIPES)}; without --data, any of lm-evaluation-harness",
            )
    if not os.path.isdir(data):
        raise SpecError(f"there is no folder {str(data)!r}", hint="--data names a folder with NAME.jsonl of each task")


def _from_files(lm_eval: Any, name: str, data: Path, cut: Slice, shots: int | None, *, chat: bool) -> Task:
    recipe = RECIPES[name]
    index = lm_eval.definitions(recipe.folder)
    known = [each for each in index if recipe.holds(each)]
    wanted = recipe.shots if shots is None else shots
    by_part, source = _rows_of(data / f"{name}.jsonl", recipe, known)
    chosen = cut.of(name, source, _ordered(by_part))
    parts = list(dict.fromkeys(part for part, _ in chosen))
    default = lm_eval.default_shots(index[parts[0]])
    examples: Mapping[str, Sequence[Row]] = {}
    examples_from = ""
    if recipe.shots_file is not None and (default if wanted is None else wanted):
        examples, examples_from = _rows_of(data / SHOTS_FOLDER / recipe.shots_file, recipe, known)
    definitions = {}
    for part in parts:
        values, shown_first = ([row.values for row in rows.get(part, ())] for rows in (by_part, examples))
        task = lm_eval.build(index[part], values, shown_first, recipe.overrides)
        definitions[part] = Definition(task, wanted, chat=chat)
    interpret = lm_eval.minerva_answer if name == "math500" else None
    return _task(name, definitions, by_part, chosen, (source, examples_from), interpret)


def _rows_of(path: Path, recipe: Recipe, known: Sequence[str]) -> tuple[dict[str, list[Row]], str]:
    rows, digest = read_rows(path, recipe, known)
    by_part: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_part[row.part].append(row)
    return by_part, f"{path.name} sha256:{digest}"


def _from_hub(lm_eval: Any, name: str, cut: Slice, shots: int | None, *, chat: bool) -> Task:
    recipe = RECIPES.get(name)
    tasks = lm_eval.from_hub(order_of(name), recipe.folder if recipe else None, choices=tuple(RECIPES))
    wanted = recipe.shots if recipe is not None and shots is None else shots
    definitions = {task.config.task: Definition(task, wanted, chat=chat) for task in tasks}
    rows_of = {
        part: [Row(f"{part}.{place}", part, {}) for place in range(len(definition.documents))]
        for part, definition in definitions.items()
    }
    documents = [[dict(document) for document in definition.documents] for definition in definitions.values()]
    content = json.dumps(documents, sort_keys=True, default=repr).encode()
    names = {task.DATASET_PATH + (f" ({task.DATASET_NAME})" if task.DATASET_NAME else "") for task in tasks}
    source = f"{'; '.join(sorted(names))} sha256:{hashlib.sha256(content).hexdigest()}"
    chosen = cut.of(name, source, _ordered(rows_of))
    interpret = lm_eval.minerva_answer if name == "math500" else None
    return _task(name, definitions, rows_of, chosen, (source, ""), interpret)


def _ordered(rows_of: Mapping[str, Sequence[Row]]) -> list[tuple[str, str]]:
    """In an order of names alone: parts alternate, so that any first few cover all; within a part, ids go by sha256."""
    order: list[tuple[int, bytes, str, str]] = []
    for part, rows in rows_of.items():
        ranked = sorted((row.id for row in rows), key=_digest)
        order += [(turn, _digest(part), part, identity) for turn, identity in enumerate(ranked)]
    return [(part, identity) for _, _, part, identity in sorted(order)]


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogatepass")).digest()


def _task(
    name: str,
    definitions: Mapping[str, Definition],
    rows_of: Mapping[str, Sequence[Row]],
    chosen: Sequence[tuple[str, str]],
    sources: tuple[str, str],
    interpret: Interpret | None,
) -> Task:
    questions: dict[tuple[str, str], Question] = {}
    wanted = set(chosen)
    used = {part: definitions[part] for part in dict.fromkeys(part for part, _ in chosen)}
    for part, definition in used.items():
        asked = {place: row for place, row in enumerate(rows_of[part]) if (part, row.id) in wanted}
        for question in definition.questions(asked, name, interpret):
            questions[part, question.id] = question
    first = next(iter(used.values()))
    for part, definition in used.items():
        if (definition.metrics[0], definition.asks_choices) != (first.metrics[0], first.asks_choices):
            raise SpecError(
                f"the parts of {name!r} are not counted alike: {first.name} by {first.metrics[0]}, "
                f"{part} by {definition.metrics[0]}",
                hint="ask for the parts by their own names",
            )
    return Task(
        name=name,
        metrics=first.metrics,
        shots=first.shots,
        version=", ".join(sorted({definition.version for definition in used.values()})),
        source=sources[0],
        examples=sources[1],
        questions=[questions[key] for key in chosen],
    )
