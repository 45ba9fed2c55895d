"""Questions as lm-evaluation-harness's own task definitions ask and grade them.

A definition makes the prompt from a row; its filters and its ``process_results`` grade a reply.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import string
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from unisono.errors import SpecError, UnisonoError, shown
from unisono.evals.records import MOST_NATS, NATS, Grade, Question, Reply
from unisono.evals.requests import Conversation, prompt_of, read_generation, split_pair
from unisono.evals.tasks.rows import LETTERS, Row
from unisono.records import Limits

SEED = 1234
"""Lm-evaluation-harness's own seed for drawing examples."""
ELSEWHERE = "`unisono lm-eval` runs all of lm-evaluation-harness's tasks"
NOTHING = ("[invalid]", "[invalidanswer]")
"""What filters leave when they find no answer."""
FORGOES_FILTERS = "none"
LEADS_TO_ANSWER = re.compile(r"\n(Answer|A|Solution):[^\n]*\s*\Z")
_UNTIMED = threading.Lock()


class Definition:
    """One task of lm-evaluation-harness, its documents and its examples."""

    def __init__(self, task: Any, shots: int | None, *, chat: bool = False) -> None:
        """Bind a ``ConfigurableTask``; `shots` is the number of examples in each prompt, if not the definition's.

        With `chat` prompts are messages, the examples within the user's, as lm-evaluation-harness's flags
        ``--apply_chat_template --fewshot_as_multiturn false`` have them. Raises a `SpecError` for an unfit task.
        """
        self._task = task
        self._chat = chat
        self.name: str = task.config.task
        self._check()
        if shots is not None:
            task.set_config(key="num_fewshot", value=shots)
        self.shots: int = task.config.num_fewshot or 0
        task.set_fewshot_seed(seed=SEED)
        self._sampler = task.sampler if self.shots else None
        self._removes = task.fewshot_cfg.split == task.config.test_split
        """Whether lm-evaluation-harness removes the question itself from its examples."""
        self._check_examples()
        self.documents: Sequence[Any] = list(task.task_docs)
        self.metrics = self._metrics()

    @property
    def version(self) -> str:
        return str(self._task.VERSION)

    @property
    def asks_choices(self) -> bool:
        return bool(self._task.OUTPUT_TYPE == "multiple_choice")

    def questions(self, asked: Mapping[int, Row], task: str, interpret: Interpret | None = None) -> Iterator[Question]:
        """Some of the documents, by their place, as questions of a task, in their order.

        One generator draws the examples of one document after the other, as in lm-evaluation-harness, so that a
        question has the same examples whichever others are asked.
        """
        examples: Sequence[Any] = ()
        for place in range(max(asked, default=-1) + 1):
            document = self.documents[place]
            if self._sampler is not None:
                excluded = document if self._removes else None
                examples = self._sampler.sample(n=self.shots, eval_doc=excluded)
                self._task.sampler = SimpleNamespace(sample=lambda examples=examples, **_: examples)
            if place in asked:
                question = self._question(document, task, asked[place], interpret)
                yield replace(question, is_own_example=document in examples)

    def _question(self, document: Any, task: str, row: Row, interpret: Interpret | None) -> Question:
        context = self._task.fewshot_context(
            document,
            num_fewshot=self.shots,
            apply_chat_template=self._chat,
            fewshot_as_multiturn=False,
            chat_template=Conversation.of if self._chat else None,
            gen_prefix=self._task.doc_to_prefix(document),
        )
        instances = self._instances(document, context)
        asked, choices, limits = context, (), Limits()
        if instances[0].request_type == "generate_until":
            limits = read_generation(instances[0].args[1]).limits
        else:
            contexts, choices = zip(*(split_pair(*instance.args) for instance in instances), strict=True)
            asked = contexts[0]
        return Question(
            task=task,
            part=self.name,
            id=row.id,
            prompt=prompt_of(asked),
            choices=choices,
            limits=limits,
            target=self._target(document) if row.answer is None else row.answer,
            grade=partial(self._grade, document, context, f"question {row.id!r} of {task}", choices, interpret),
            words=LEADS_TO_ANSWER.sub("", str(self._task.doc_to_text(document))).strip(),
            reference=self._reference(document, choices),
        )

    def _instances(self, document: Any, context: Any) -> list[Any]:
        made = self._task.construct_requests(
            document,
            context,
            metadata=(self.name, 0, 1),
            apply_chat_template=self._chat,
            chat_template=Conversation.of if self._chat else None,
        )
        return made if isinstance(made, list) else [made]

    def _target(self, document: Any) -> str:
        target = self._task.doc_to_target(document)
        if self._task.config.doc_to_choice is not None and isinstance(target, int):
            choices = self._task.doc_to_choice(document)
            return str(choices[target]).strip() if target < len(choices) else str(target)
        return " / ".join(map(str, target)) if isinstance(target, list) else str(target).strip()

    def _right_place(self, document: Any, choices: Sequence[str]) -> int | None:
        """Which choice is right; ``None`` where that is not known."""
        target = self._task.doc_to_target(document)
        return target if isinstance(target, int) and 0 <= target < len(choices) else None

    def _reference(self, document: Any, choices: Sequence[str]) -> str:
        """The right answer as it continues the prompt, the first of several."""
        if choices:
            place = self._right_place(document, choices)
            return "" if place is None else choices[place]
        target = self._task.doc_to_target(document)
        text = str(target[0] if isinstance(target, list) and target else target).strip()
        return ("" if self._chat else str(self._task.config.target_delimiter)) + text if text else ""

    def _grade(
        self, document: Any, context: Any, what: str, choices: Sequence[str], interpret: Interpret | None, reply: Reply
    ) -> Grade:
        try:
            with _timeouts(self._task):
                filtered = self._filtered(document, context, reply)
                found = {name: self._task.process_results(document, left) for name, left in filtered.items()}
            all_metrics = {
                _metric(metric, name): value for name, values in found.items() for metric, value in values.items()
            }
            metrics = {name: float(all_metrics[name]) for name in self.metrics}
            metrics |= self._nats(document, choices, reply)
            return Grade(metrics, self._answer(reply, next(iter(filtered.values())), interpret))
        except Exception as error:
            raise UnisonoError(
                f"lm-evaluation-harness cannot grade {shown(reply.text)}, a reply to {what}: "
                f"{type(error).__name__}: {error}",
                hint="the other questions are not concerned; the reply counts as failed",
            ) from error

    def _nats(self, document: Any, choices: Sequence[str], reply: Reply) -> dict[str, float]:
        """How likely the right choice is, where one is known to be right."""
        if not reply.choices:
            return {}
        if (place := self._right_place(document, choices)) is None:
            return {}
        return {NATS: min(MOST_NATS, -reply.choices[place][0]) / max(1, len(choices[place].encode()))}

    def _filtered(self, document: Any, context: Any, reply: Reply) -> dict[str, list[Any]]:
        instances = self._instances(document, context)
        replies: Sequence[Any] = reply.choices or [reply.text]
        for instance, each in zip(instances, replies, strict=True):
            instance.resps.append(each)
        for pipeline in self._task._filters:
            pipeline.apply(instances)
        names = list(instances[0].filtered_resps)
        return {name: [instance.filtered_resps[name] for instance in instances] for name in names}

    def _answer(self, reply: Reply, left: Sequence[Any], interpret: Interpret | None) -> str:
        if reply.choices:
            return letter_of([logp for logp, _ in reply.choices])
        text = left[0] if isinstance(left[0], str) else ""
        if text not in NOTHING and interpret is not None:
            text = interpret(text)
        kwargs = self._task._metric_fn_kwargs.get("exact_match") or {}
        return "" if text in NOTHING else normalised(text, kwargs)

    def _metrics(self) -> tuple[str, ...]:
        means = [name for name, how in self._task.aggregation().items() if getattr(how, "__name__", "") == "mean"]
        if not means:
            known = ", ".join(self._task.aggregation())
            raise SpecError(f"the task {self.name!r} has no metric that is a mean: {known}", hint=ELSEWHERE)
        return tuple(_metric(metric, pipeline.name) for pipeline in self._task._filters for metric in means)

    def _check(self) -> None:
        task = self._task
        kind = getattr(task, "OUTPUT_TYPE", None)
        gen_prefix = getattr(task.config, "gen_prefix", None)
        is_known = kind in ("generate_until", "multiple_choice")
        reasons = {
            f"it asks for {kind}, not for a text or for one of some choices": not is_known,
            "each of its choices has a prompt of its own": getattr(task, "multiple_input", 0),
            "it is about images or sounds": getattr(task, "MULTIMODAL", False),
            "it runs what models write": getattr(task, "UNSAFE_CODE", False),
            f"it asks for each text {task.config.repeats} times": task.config.repeats != 1,
            "its choices are scored without their question, too": "acc_mutual_info" in task.aggregation(),
            f"in a conversation it begins the answer itself, with {shown(gen_prefix)}": self._chat and gen_prefix,
        }
        for reason, holds in reasons.items():
            if holds:
                raise SpecError(f"the task {self.name!r} cannot be asked here: {reason}", hint=ELSEWHERE)
        if kind == "generate_until" and (wanted := read_generation(task.config.generation_kwargs or {})).changes_draw:
            raise SpecError(
                f"the task {self.name!r} cannot be asked here: it says itself how texts are drawn, with "
                f"{shown(dict(wanted.shapes))}",
                hint=ELSEWHERE,
            )

    def _check_examples(self) -> None:
        if self._sampler is None:
            return
        known = len(self._sampler.df)
        if known < self.shots + self._removes:
            spare = ", besides the question itself" if self._removes else ""
            raise SpecError(
                f"the task {self.name!r} wants {self.shots} examples in a prompt, but has {known} to draw from{spare}",
                hint="ask for fewer (--shots), or add lines to the file of examples",
            )


Interpret = Callable[[str], str]
"""Finds the answer in what a filter leaves of a text."""


def letter_of(logps: Sequence[float]) -> str:
    """The letter of the likeliest choice, the first of equals; ``""`` when none is possible."""
    best = max(range(len(logps)), key=logps.__getitem__)
    if not math.isfinite(logps[best]):
        return ""
    return LETTERS[best] if len(logps) <= len(LETTERS) else str(best)


def normalised(text: str, kwargs: Mapping[str, Any]) -> str:
    for pattern in kwargs.get("regexes_to_ignore") or ():
        text = re.sub(pattern, "", text)
    if kwargs.get("ignore_case"):
        text = text.lower()
    ignored = string.punctuation * bool(kwargs.get("ignore_punctuation"))
    ignored += string.digits * bool(kwargs.get("ignore_numbers"))
    return text.translate(str.maketrans("", "", ignored)).strip()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence lm-evaluation-harness's warnings for authors of definitions."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _metric(metric: str, pipeline: str) -> str:
    return metric if pipeline == FORGOES_FILTERS else f"{metric},{pipeline}"


@contextlib.contextmanager
def _timeouts(task: Any) -> Iterator[None]:
    """Let answers in mathematics be graded in any thread.

    Lm-evaluation-harness's definitions stop slow grading with an alarm, which only the main thread can set: in another
    thread they would call right answers wrong. There, nothing is stopped.
    """
    names = getattr(task.config.process_results, "__globals__", {})
    changed: dict[str, Any] = {}
    if threading.current_thread() is threading.main_thread() or "timeout" not in names:
        yield
        return
    with _UNTIMED:
        changed = {name: names[name] for name in ("timeout", "parse", "verify") if name in names}
        names["timeout"] = lambda seconds=1, error_message="": contextlib.nullcontext()
        if "parse" in changed:
            names["parse"] = partial(changed["parse"], parsing_timeout=None)
        if "verify" in changed:
            names["verify"] = partial(changed["verify"], timeout_seconds=None)
        try:
            yield
        finally:
            names.update(changed)
