"""lm-evaluation-harness: the one file that imports it, and the library of the datasets that it reads."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from unisono.errors import SpecError, nearest, shown

STRUCTURE = ("tag", "group", "task_list")
"""Keys of a definition's file that say where it belongs, not what it is."""


@functools.cache
def _manager(folder: str | None) -> TaskManager:
    """What finds definitions: to read all of them takes many seconds, those of one folder none."""
    if folder is None:
        return TaskManager()
    return TaskManager(include_path=Path(lm_eval.tasks.__file__).parent / folder, include_defaults=False)


def definitions(folder: str) -> dict[str, Path]:
    """Where the definitions of a folder of lm-evaluation-harness's tasks stand, by name."""
    manager = _manager(folder)
    return {name: manager.task_index[name].yaml_path for name in manager.all_subtasks}


def default_shots(definition: Path) -> int:
    """How many examples a definition puts into a prompt."""
    return load_yaml(definition, resolve_func=False).get("num_fewshot") or 0


def build(
    definition: Path,
    rows: Sequence[Mapping[str, Any]],
    examples: Sequence[Mapping[str, Any]],
    overrides: Mapping[str, Any],
) -> Any:
    """Make the task of a definition, on rows that are given in place of its dataset.

    Args:
        definition: its file.
        rows: as the original dataset has them; they stand in its split of questions.
        examples: these in the one that examples are drawn from, where the definition has such a split.
        overrides: keys to replace.

    Raises:
        SpecError: the definition cannot use the rows.
    """
    config = {key: value for key, value in load_yaml(definition).items() if key not in STRUCTURE} | dict(overrides)
    splits = {config.get("test_split") or config["validation_split"]: rows}
    if split := config.get("fewshot_split") or config.get("training_split"):
        splits[split] = examples

    def custom_dataset(**_: Any) -> datasets.DatasetDict:
        return datasets.DatasetDict({name: datasets.Dataset.from_list(list(each)) for name, each in splits.items()})

    with _making(config["task"], "a row does not have the form of its dataset"), _no_progress():
        return ConfigurableTask(config={**config, "custom_dataset": custom_dataset})


def from_hub(name: str, folder: str | None, choices: Sequence[str]) -> list[Any]:
    """Make a task of lm-evaluation-harness, or those of a group or tag, on the datasets of the hub.

    Args:
        name: lm-evaluation-harness's.
        folder: where it stands among its tasks; ``None`` where that is not known.
        choices: names to tell to whoever gave a wrong one.

    Raises:
        SpecError: there is no such task, or it is no definition in a file, or its data cannot be had.
    """
    manager = _manager(folder)
    if name not in manager.all_tasks:
        raise SpecError(
            f"there is no task {shown(name)}{nearest(name, [*choices, *manager.all_tasks])}",
            hint=f"choose of {', '.join(choices)}, or one that `unisono lm-eval ls tasks` lists",
        )
    with _making(name, "its data comes from the hub: see that it can be reached, or give files (--data)"):
        tasks = list(manager.load([name])["tasks"].values())
    for task in tasks:
        if not isinstance(task, ConfigurableTask):
            raise SpecError(
                f"the task {name!r} is a program of its own, not a definition",
                hint="`unisono lm-eval` runs all of lm-evaluation-harness's tasks",
            )
    return tasks


def dataset_name(task: Any) -> str:
    """The dataset of the hub that a task reads."""
    return f"{task.DATASET_PATH}" + (f" ({task.DATASET_NAME})" if task.DATASET_NAME else "")


def minerva_answer(text: str) -> str:
    """The answer that lm-evaluation-harness's definitions of MATH find in a text."""
    from lm_eval.tasks.minerva_math import utils

    answer: str = utils.normalize_final_answer(utils.get_unnormalized_answer(text))
    return answer


@contextlib.contextmanager
def _making(name: str, hint: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the code of a definition, the datasets library or the network raises
        words = " ".join(str(error).split())
        raise SpecError(f"the task {name!r} cannot be made: {type(error).__name__}: {words}", hint=hint) from error


@contextlib.contextmanager
def _no_progress() -> Iterator[None]:
    restore: Callable[[], None] = (
        datasets.disable_progress_bars if datasets.are_progress_bars_disabled() else datasets.enable_progress_bars
    )
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        restore()
