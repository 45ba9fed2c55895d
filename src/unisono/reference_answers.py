"""Reference answers, and which of them are held out of a fit."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from unisono.chat.messages import Prompt
from unisono.errors import SpecError, shown
from unisono.records import is_unicode

HELD_OUT = 4
"""One of so many answers is held out."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """An answer that the ensemble should have given."""

    id: str
    prompt: Prompt
    answer: str
    task: str = ""
    """Answers of a task count together as much as those of another one."""
    others: tuple[str, ...] = ()
    """Wrong answers to the same prompt, where one of several is to be chosen."""

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.task} {self.id}".strip()


FORM = 'give {"prompt": TEXT or "messages": […], "answer": TEXT}, and "choices": [TEXT, …] where one is to be chosen'


def reference_of(name: str, given: object) -> Reference:
    """Read an answer with what it follows; ``name`` is what errors call it. Raises a `SpecError`."""
    if not isinstance(given, Mapping):
        raise SpecError(f"{name} is {shown(given)}, not a mapping", hint=FORM)
    answer, prompt = given.get("answer"), given.get("prompt")
    if not isinstance(answer, str) or not answer:
        raise SpecError(f"{name}: answer is {shown(answer)}, not a text", hint=FORM)
    if (prompt is None) == (given.get("messages") is None):
        raise SpecError(f"{name} has {'neither' if prompt is None else 'both'} prompt and messages", hint=FORM)
    if prompt is not None and not isinstance(prompt, str):
        raise SpecError(f"{name}: prompt is {shown(prompt)}, not a text", hint=FORM)
    try:
        asked = Prompt(prompt, given.get("messages"))
    except SpecError as error:
        raise SpecError(f"{name}: {error.message}", hint=error.hint) from error
    for key in ("prompt", "messages", "answer", "choices"):
        if not is_unicode(json.dumps(given.get(key), ensure_ascii=False, default=repr)):
            raise SpecError(f"{name}: {key} has a lone surrogate, which is no Unicode text", hint="take it out")
    return Reference(name, asked, answer, others=_others(name, answer, given.get("choices")))


def _others(name: str, answer: str, choices: object) -> tuple[str, ...]:
    """The choices but for the right one. Raises a `SpecError` where they are none."""
    if choices is None:
        return ()
    texts = choices if isinstance(choices, Sequence) and not isinstance(choices, str) else ()
    distinct = {each for each in texts if isinstance(each, str) and each}
    if len(texts) < 2 or len(distinct) < len(texts):
        raise SpecError(f"{name}: choices is {shown(choices)}: it must be two or more different texts", hint=FORM)
    if answer not in distinct:
        raise SpecError(f"{name}: answer is {shown(answer)}, which is none of the choices", hint="give one of them")
    return tuple(each for each in texts if each != answer)


def split(references: Sequence[Reference]) -> tuple[list[Reference], list[Reference]]:
    """What is fitted on, and what is held out: the last quarter of each task, one answer at least.

    Answers to equal prompts stay together. Those of no task are first put in an order that means nothing. Raises a
    `SpecError` where all have the same prompt.
    """
    fitted_on: list[Reference] = []
    held_out: list[Reference] = []
    for task, its in by_task(references).items():
        groups = _by_prompt(its)
        if len(groups) == 1:
            what = f"of the task {task!r}" if task else "that are given"
            raise SpecError(
                f"all answers {what} follow the same prompt: none can be held out", hint="give several prompts"
            )
        order = list(groups) if task else sorted(groups)
        kept = _kept([(key, len(groups[key])) for key in order], max(1, len(its) // HELD_OUT))
        for key in order:
            (held_out if key in kept else fitted_on).extend(groups[key])
    return fitted_on, held_out


def _by_prompt(references: Sequence[Reference]) -> dict[str, list[Reference]]:
    """Answers by a sum of their prompts, in the order of the first."""
    groups: defaultdict[str, list[Reference]] = defaultdict(list)
    for each in references:
        asked = json.dumps([each.prompt.text, each.prompt.messages], sort_keys=True, default=repr)
        groups[hashlib.sha256(asked.encode()).hexdigest()].append(each)
    return groups


def _kept(counts: Sequence[tuple[str, int]], most: int) -> set[str]:
    """Of prompts with numbers of answers, the last that have so many at most; the smallest where none has so few."""
    kept: set[str] = set()
    for key, count in reversed(counts):
        if count <= most:
            kept.add(key)
            most -= count
    return kept or {min(counts, key=lambda each: each[1])[0]}


def by_task(references: Iterable[Reference]) -> dict[str, list[Reference]]:
    tasks: defaultdict[str, list[Reference]] = defaultdict(list)
    for reference in references:
        tasks[reference.task].append(reference)
    return tasks
