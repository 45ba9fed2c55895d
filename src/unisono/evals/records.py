"""Questions, systems and answers: the records that all of evaluation shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.records import Limits

ENSEMBLE = "ensemble"
"""The system that is the ensemble as its spec says it."""
Key = tuple[str, str, str]
"""Of an answer: task, question, system."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A system's reply to a question: a text, or the likelihood of each choice."""

    text: str | None = None
    """What was generated; ``None`` where choices were scored."""
    choices: tuple[tuple[float, bool], ...] = ()
    """By choice, the natural logarithm of its probability, and whether greedy would have written it."""


@dataclass(frozen=True, slots=True)
class Grade:
    """A graded reply."""

    metrics: Mapping[str, float]
    """As lm-evaluation-harness names them: ``acc``, ``exact_match,strict-match`` …"""
    answer: str
    """What the reply answers: the letter of the likeliest choice, or the text that the main filter leaves. Two replies
    agree where these are equal; ``""`` where no answer was found."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One question, the same for every system."""

    task: str
    """The task that it counts for, such as ``mmlu``."""
    part: str
    """The part of the task, such as ``mmlu_anatomy``; the task itself where it has none."""
    id: str
    """Its name within the task."""
    prompt: Prompt
    choices: tuple[str, ...]
    """What may follow the prompt, delimiter included; none where a text is generated."""
    limits: Limits
    """When a generated text ends."""
    target: str
    """The right answer, in words for people."""
    grade: Callable[[Reply], Grade]
    words: str = ""
    """The question by itself, for people and judges: without examples, and without a cue for the answer. ``""`` where
    it is not known."""

    @property
    def is_choice(self) -> bool:
        """Whether choices are scored."""
        return bool(self.choices)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Questions of one kind, and their metrics."""

    name: str
    metrics: tuple[str, ...]
    """The names of its metrics, the main one first."""
    shots: int
    """Examples in each prompt."""
    version: str
    """Of lm-evaluation-harness's definition."""
    source: str
    """Where the questions come from: a file's name and the sha256 of its content, or a dataset of the hub."""
    questions: Sequence[Question]
    """In an order that depends on their names alone and mixes all parts: any first few are a fair sample."""
    examples: str = ""
    """The file of the examples and the sha256 of its content; empty where they are the definition's own."""


@dataclass(frozen=True, slots=True)
class System:
    """What is compared: something that answers questions with the loaded models."""

    name: str
    """As it stands in tables: ``ensemble``, a member, or a setting such as ``gate=confidence:0.5``."""
    members: tuple[str, ...]
    """Who votes."""
    method: Method
    """How it writes, and by what its choices are scored."""
    weights: Mapping[str, float] | None = None
    """By member; ``None`` for those of the spec."""

    @property
    def is_member(self) -> bool:
        """Whether it is one member alone."""
        return len(self.members) == 1


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A step at which some voter preferred another piece."""

    position: int
    """Pieces before it."""
    piece: str
    """What was written, as text for people; ``""`` for the end."""
    p: float
    """Its combined probability."""
    members: Mapping[str, tuple[str, float]]
    """By voter, its own most probable piece and that piece's probability."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system answered to a question."""

    task: str
    question: str
    """The question's id."""
    system: str
    metrics: Mapping[str, float]
    """Empty where it failed."""
    answer: str = ""
    """See `Grade.answer`."""
    text: str | None = None
    """What was generated."""
    choices: tuple[float, ...] = ()
    """The natural logarithms of the choices' probabilities."""
    pieces: int = 0
    """Pieces that were written, or scored (of all choices)."""
    ensembled: int = 0
    """Those at which all members were asked."""
    p: tuple[float, ...] = ()
    """The combined probability of each piece written, END included; empty where choices were scored."""
    disputes: tuple[Disagreement, ...] = ()
    """The steps of a generated text at which voters preferred different pieces."""
    finish: Literal["end", "stop", "length", "context"] | None = None
    """Why a generated text ended."""
    evidence: Mapping[str, Any] | None = None
    """What a baseline gathered about the members' answers; see `Baseline.gather`."""
    sure: float | None = None
    """How sure a baseline says it is, from 0 to 1."""
    error: str | None = None
    """Why there is no answer."""

    @property
    def key(self) -> Key:
        """Which answer it is."""
        return self.task, self.question, self.system

    @property
    def confidence(self) -> float:
        """How sure the system is, from 0 to 1.

        A baseline says so itself. Of choices, the softmax over their log-probabilities at the one that was taken; of a
        text, the geometric mean of its pieces' probabilities.
        """
        if self.sure is not None:
            return self.sure
        if self.choices:
            top = max(self.choices)
            return 1 / sum(math.exp(logp - top) for logp in self.choices) if math.isfinite(top) else 0.0
        if not self.p or min(self.p) <= 0:
            return 0.0
        return math.exp(sum(map(math.log, self.p)) / len(self.p))

    def to_json(self) -> dict[str, Any]:
        """The record with plain types only; what is empty is left out."""
        required = ("task", "question", "system", "metrics", "answer")
        empty: tuple[object, ...] = (None, (), 0)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name in required or value not in empty
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The record that `to_json` wrote."""
        given = dict(record)
        for name in ("choices", "p"):
            given[name] = tuple(given.get(name, ()))
        given["disputes"] = tuple(
            Disagreement(**{**each, "members": {name: tuple(top) for name, top in each["members"].items()}})
            for each in given.get("disputes", ())
        )
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Times:
    """How long an answer took. Apart from the answers, which are the same in every run."""

    task: str
    question: str
    system: str
    seconds: float
    """From the question to the answer."""
    writing: float
    """Without the prompt: from the first piece to the last, or while choices were scored."""
    pieces: int
    """Pieces that ``writing`` is the time of."""
    at_once: int = 1
    """Questions that were answered at the same time, and share it."""
    wave: int = 0
    """The number of its wave in the run's folder. Only times of one wave can be compared."""

    @property
    def key(self) -> Key:
        """Whose times they are."""
        return self.task, self.question, self.system

    def to_json(self) -> dict[str, Any]:
        """The record with plain types only."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Results:
    """A run as its folder has it."""

    about: Mapping[str, Any]
    """The manifest: spec, tasks, systems, versions, seeds, machine, hashes of data and models."""
    answers: Sequence[Answer]
    times: Sequence[Times] = field(default_factory=tuple)
