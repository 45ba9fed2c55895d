"""Questions, systems and answers: the records shared by all of evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self

from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.records import Limits

ENSEMBLE = "ensemble"
"""The system that is the ensemble as its spec describes it."""
NATS = "nats_a_byte"
"""A metric of choices: the nats a byte of the right one, the less the better."""
MOST_NATS = 1e3
"""What a choice that a system finds impossible counts, in all: much, and not all."""


class Kind(StrEnum):
    """What a system is, in manifests and reports."""

    MEMBER = "member"
    ENSEMBLE = "ensemble"
    VARIANT = "variant"
    BASELINE = "baseline"


Key = tuple[str, str, str]
"""Key of an answer: task, question, system."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A system's reply to a question: a text, or the likelihood of each choice."""

    text: str | None = None
    choices: tuple[tuple[float, bool], ...] = ()
    """By choice: natural log probability, and whether greedy decoding would have written it."""


@dataclass(frozen=True, slots=True)
class Grade:
    metrics: Mapping[str, float]
    """As lm-evaluation-harness names them: ``acc``, ``exact_match,strict-match`` …"""
    answer: str
    """The letter of the likeliest choice, or the text that the main filter leaves; ``""`` when no answer was found.
    Replies agree when these are equal.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    task: str
    part: str
    """The part of the task, such as ``mmlu_anatomy``; the task itself when it has no parts."""
    id: str
    prompt: Prompt
    choices: tuple[str, ...]
    """Possible continuations of the prompt, delimiter included; empty when a text is generated."""
    limits: Limits
    target: str
    grade: Callable[[Reply], Grade]
    words: str = ""
    """The bare question, without examples or answer cue, for people and judges; ``""`` when unknown."""
    reference: str = ""
    """The right answer as it continues the prompt, delimiter included; ``""`` when unknown."""
    is_own_example: bool = False
    """Whether it is itself among the examples in its prompt, with its answer."""

    @property
    def is_choice(self) -> bool:
        return bool(self.choices)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    name: str
    metrics: tuple[str, ...]
    shots: int
    version: str
    source: str
    """Source of the questions: a file's name and the sha256 of its content, or a hub dataset."""
    questions: Sequence[Question]
    """In an order that depends only on their names and mixes all parts: any first few are a fair sample."""
    examples: str = ""
    """The file of the examples and the sha256 of its content; empty when the definition has its own."""


@dataclass(frozen=True, slots=True)
class System:
    name: str
    """As in tables: ``ensemble``, a member, or a setting such as ``gate=confidence:0.5``."""
    members: tuple[str, ...]
    method: Method
    weights: Mapping[str, float] | None = None
    """By member; ``None`` for the spec's weights."""
    reshaped: Mapping[str, Mapping[str, Any]] | None = None
    """By member, its ``temperature`` and ``calibrate``; ``None`` for the spec's."""

    @property
    def is_member(self) -> bool:
        return len(self.members) == 1

    @property
    def kind(self) -> Kind:
        return Kind.MEMBER if self.is_member else Kind.ENSEMBLE if self.name == ENSEMBLE else Kind.VARIANT


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A step at which voters preferred different pieces, or, where members are subtracted, another than was written."""

    position: int
    piece: str
    """The written piece, as text for people; ``""`` for END."""
    p: float
    members: Mapping[str, tuple[str, float]]
    """By voter: its most probable piece, and that piece's probability. A subtracted member votes for nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    task: str
    question: str
    system: str
    metrics: Mapping[str, float]
    """Empty when it failed."""
    answer: str = ""
    text: str | None = None
    choices: tuple[float, ...] = ()
    """Natural log probabilities of the choices."""
    pieces: int = 0
    """Pieces written, or scored over all choices."""
    ensembled: int = 0
    """Pieces at which all members ran."""
    p: tuple[float, ...] = ()
    """Combined probability of each written piece, END included; empty when choices were scored. Where not all members
    told all of theirs (`gate: certain`, truncated members), it is the least that it may be."""
    disputes: tuple[Disagreement, ...] = ()
    finish: Literal["end", "stop", "length", "context"] | None = None
    evidence: Mapping[str, Any] | None = None
    sure: float | None = None
    """A baseline's own confidence, from 0 to 1."""
    error: str | None = None
    at_most: tuple[float, ...] = ()
    """The most that each of ``p`` may be; empty when all of them are known."""

    @property
    def key(self) -> Key:
        return self.task, self.question, self.system

    @property
    def confidence(self) -> float:
        """The system's confidence, from 0 to 1.

        A baseline reports its own. For choices it is the softmax of their log probabilities at the chosen one; for a
        text, the geometric mean of its pieces' probabilities; the least that it may be where not all are known.
        """
        if self.sure is not None:
            return self.sure
        if self.choices:
            top = max(self.choices)
            return 1 / sum(math.exp(logp - top) for logp in self.choices) if math.isfinite(top) else 0.0
        return _geometric_mean(self.p)

    @property
    def confidence_most(self) -> float:
        """The most that the confidence may be: the same, if all probabilities are known."""
        return _geometric_mean(self.at_most) if self.at_most and self.sure is None else self.confidence

    def to_json(self) -> dict[str, Any]:
        """The record with plain types only, without empty fields."""
        required = ("task", "question", "system", "metrics", "answer")
        empty: tuple[object, ...] = (None, (), 0)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name in required or value not in empty
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        given = dict(record)
        for name in ("choices", "p", "at_most"):
            given[name] = tuple(given.get(name, ()))
        given["disputes"] = tuple(
            Disagreement(**{**each, "members": {name: tuple(top) for name, top in each["members"].items()}})
            for each in given.get("disputes", ())
        )
        return cls(**given)


def _geometric_mean(values: Sequence[float]) -> float:
    if not values or min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))


@dataclass(frozen=True, slots=True)
class Times:
    """How long an answer took. Kept apart from the answers, which are the same in every run."""

    task: str
    question: str
    system: str
    seconds: float
    """From the question to the answer."""
    writing: float
    """Without the prompt: from first to last piece, or while choices were scored."""
    pieces: int
    """Pieces that ``writing`` covers."""
    at_once: int = 1
    """Questions answered concurrently, which share this time."""
    wave: int = 0
    """The number of its wave in the run's folder. Times are comparable only within a wave."""

    @property
    def key(self) -> Key:
        return self.task, self.question, self.system

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Results:
    about: Mapping[str, Any]
    """The manifest: spec, tasks, systems, versions, seeds, machine, hashes of data and models."""
    answers: Sequence[Answer]
    times: Sequence[Times] = field(default_factory=tuple)
