"""Adapter for lm-evaluation-harness: the one file that imports it and the datasets library it uses."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval.models
import lm_eval.tasks
from lm_eval.api.model import LM
from lm_eval.api.registry import model_registry
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from tqdm import tqdm

from unisono.errors import BackendMissing, SpecError, nearest, shown
from unisono.evals.requests import Conversation
from unisono.evals.respondent import Arguments, Respondent

STRUCTURE = ("tag", "group", "task_list")
"""Keys of a definition's file that say where it belongs, not what it is."""


class UnisonoLM(LM):  # type: ignore[misc]  # its library has no types
    """An ensemble, or one of its members, as a model of lm-evaluation-harness.

    ``--model unisono --model_args spec=duo.yaml[,member=smol][,batch=8][,max_gen_toks=256]``, plus settings that
    override the file: ``gate=confidence:0.5``, ``combine=geometric``, ``lead=…``, ``draw=…``.

    `loglikelihood` cuts a text, together with its context where the context's ids stay the same, into pieces of the
    lead's tokenizer. Each member spells these, and one teacher-forced pass per member gives the combined distribution
    before each. The score is the sum of their logarithms: the probability that the ensemble writes the text in this one
    way, as single models are scored. The sum over all ways to cut the bytes cannot be computed; with
    ``vocabulary=bytes`` the score is that sum over the ways that each member's beam holds, byte by byte.

    `loglikelihood_rolling` scores texts of any length without a context; see `rolling_windows`.
    """

    def __init__(
        self,
        spec: str | None = None,
        *,
        batch_size: int | str | None = None,
        device: str | None = None,
        respondent: Respondent | None = None,
        **arguments: Any,
    ) -> None:
        """Load what the arguments name, see `Arguments`, unless a loaded `respondent` is given.

        ``batch`` takes precedence over lm-evaluation-harness's flag `batch_size`. Its flag `device` is always set, and
        ignored: the spec says where each member runs. Raises a `UnisonoError`.
        """
        super().__init__()
        if respondent is None:
            given = Arguments.read({"spec": spec, **arguments}, batch_size=batch_size)
            respondent = Respondent.load(given)
        self._respondent = respondent

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        return self._all("generate_until", self._respondent.write, requests, disable_tqdm)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._all("loglikelihood", self._respondent.score, requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        return self._all("loglikelihood_rolling", self._respondent.score_whole, requests, disable_tqdm)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Keep the messages: each member applies its own template, and goes on with an answer that is begun."""
        return Conversation.of(chat_history, add_generation_prompt=add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """The members and the hashes of their templates: the key of lm-evaluation-harness's request cache."""
        return self._respondent.templates

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The same, for lm-evaluation-harness's records. Raises a `SpecError` for a template by name."""
        if isinstance(chat_template, str):
            raise SpecError(
                f"the chat template {shown(chat_template)} cannot be chosen: each member has its own",
                hint="write --apply_chat_template alone; a member's template stands in the ensemble file "
                "(chat_template: …)",
            )
        return self._respondent.templates if chat_template else None

    def close(self) -> None:
        self._respondent.close()

    def _all(
        self, kind: str, answer_all: Callable[..., Iterable[tuple[int, Any]]], requests: Sequence[Any], quiet: bool
    ) -> list[Any]:
        """Results in the order asked; each is cached as soon as it is known."""
        results: dict[int, Any] = {}
        asked = [(*request.args, _name(request)) for request in requests]
        with tqdm(total=len(requests), desc=f"Running {kind} requests", disable=quiet) as progress:
            for place, answer in answer_all(asked):
                results[place] = answer
                self.cache_hook.add_partial(kind, requests[place].args, answer)
                progress.update()
        return [results[place] for place in range(len(requests))]


def register() -> None:
    """Register the model ``unisono`` in this process, as its entry point does."""
    if "unisono" not in model_registry:
        model_registry.register("unisono", target=UnisonoLM)


def run_command_line(arguments: Sequence[str]) -> None:
    from lm_eval.__main__ import cli_evaluate

    register()
    before = sys.argv
    sys.argv = ["unisono lm-eval", *arguments]
    try:
        cli_evaluate()
    finally:
        sys.argv = before


@functools.cache
def _manager(folder: str | None) -> TaskManager:
    """Finds definitions. Reading all of them takes many seconds; one folder is immediate."""
    if folder is None:
        return TaskManager()
    return TaskManager(include_path=Path(lm_eval.tasks.__file__).parent / folder, include_defaults=False)


def definitions(folder: str) -> dict[str, Path]:
    manager = _manager(folder)
    return {name: manager.task_index[name].yaml_path for name in manager.all_subtasks}


def default_shots(definition: Path) -> int:
    return load_yaml(definition, resolve_func=False).get("num_fewshot") or 0


def build(
    definition: Path,
    rows: Sequence[Mapping[str, Any]],
    examples: Sequence[Mapping[str, Any]],
    overrides: Mapping[str, Any],
) -> Any:
    """Make a definition's task on rows, in its dataset's format, in place of that dataset.

    `examples` are rows for the split of examples, if the definition has one; `overrides` replace keys of its file.
    Raises a `SpecError` when it cannot use the rows, and `BackendMissing` when it needs a library.
    """
    with _making(definition.stem, "see the definition's file"):
        loaded = load_yaml(definition)  # which imports the code that it names
    config = {key: value for key, value in loaded.items() if key not in STRUCTURE} | dict(overrides)
    splits = {config.get("test_split") or config["validation_split"]: rows}
    if split := config.get("fewshot_split") or config.get("training_split"):
        splits[split] = examples

    def custom_dataset(**_: Any) -> datasets.DatasetDict:
        return datasets.DatasetDict({name: datasets.Dataset.from_list(list(each)) for name, each in splits.items()})

    with _making(config["task"], "a row does not have the form of its dataset"), _no_progress():
        return ConfigurableTask(config={**config, "custom_dataset": custom_dataset})


def from_hub(name: str, folder: str | None, choices: Sequence[str]) -> list[Any]:
    """Make a task of lm-evaluation-harness, or those of a group or tag, on the datasets of the hub.

    `folder` is its folder among the tasks, if known; `choices` are names to suggest in the error about an unknown one.
    Raises a `SpecError` when the task is unknown, is not defined in a file or its data cannot be loaded, and
    `BackendMissing` when it needs a library.
    """
    manager = _manager(folder)
    if name not in manager.all_tasks:
        raise SpecError(
            f"there is no task {shown(name)}{nearest(name, [*choices, *manager.all_tasks])}",
            hint=f"choose one of {', '.join(choices)}, or one that `unisono lm-eval ls tasks` lists",
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


def minerva_answer(text: str) -> str:
    """The answer that lm-evaluation-harness's MATH definitions find in a text."""
    from lm_eval.tasks.minerva_math import utils

    answer: str = utils.normalize_final_answer(utils.get_unnormalized_answer(text))
    return answer


@contextlib.contextmanager
def _making(name: str, hint: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the code of a definition, the datasets library or the network raises
        words = " ".join(str(error).split())
        if isinstance(error, ImportError) or "pip install" in words:  # MATH's definitions assert antlr's version
            raise BackendMissing(
                f"the task {name!r} needs a library that is not installed: {words}",
                hint="install it; for mathematics: pip install 'unisono[evals]'",
            ) from error
        raise SpecError(f"the task {name!r} cannot be made: {type(error).__name__}: {words}", hint=hint) from error


@contextlib.contextmanager
def _no_progress() -> Iterator[None]:
    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()


def _name(request: Any) -> str:
    number = "" if request.doc_id is None else f", document {request.doc_id}"
    return f"task {request.task_name or 'without a name'}{number}"
