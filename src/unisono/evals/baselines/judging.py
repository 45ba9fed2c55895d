"""Asks members about answers, in raw text that base models can continue too."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import TypeVar

from unisono.chat.messages import Prompt
from unisono.errors import SpecError, UnisonoError
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question

LEAST = -1000.0
"""Stands for the logarithm of 0, which JSON cannot hold."""
Told = TypeVar("Told")


def question_words(question: Question) -> str:
    """The question as judges read it: its own words where known, else its prompt."""
    if question.words or question.prompt.messages is None:
        return (question.words or question.prompt.text or "").strip()
    asked = [message.get("content") for message in question.prompt.messages if message["role"] == "user"]
    return (asked[-1] or "").strip() if asked else ""


def chosen(answer: Answer) -> int:
    return answer.choices.index(max(answer.choices))


def answer_words(question: Question, answer: Answer) -> str:
    return (question.choices[chosen(answer)] if question.is_choice else answer.text or "").strip()


def listed(question: Question, texts: Sequence[str]) -> tuple[str, list[str]]:
    """The text of a question with labelled possible answers, and the label of each as it continues a text.

    Labels are letters, or digits when an answer is itself a letter: it then names one of the question's own choices.
    Raises a `SpecError` when there are more answers than labels.
    """
    is_letter = any(len(text.strip("()")) == 1 and text.strip("()").isalpha() for text in texts)
    labels = string.digits[1:] if is_letter else string.ascii_uppercase
    if len(texts) > len(labels):
        raise SpecError(
            f"there are {len(texts)} different answers to one question, but labels for {len(labels)}",
            hint="ask fewer members, or take a baseline that looks at one answer at a time, such as genrm",
        )
    lines = [f"({label}) {text}" for label, text in zip(labels, texts, strict=False)]
    text = "\n".join([question_words(question), "", "Possible answers:", *lines])
    return text, [f" ({label})" for label in labels[: len(texts)]]


def judges(pool: ModelPool, judge: str | None) -> tuple[str, ...]:
    return pool.members if judge is None else (judge,)


def log_chances(pool: ModelPool, judge: str, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
    """For each text the natural log probabilities of its continuations under one member, none below `LEAST`."""
    flat = [(Prompt(text=text), ending) for text, endings in asked for ending in endings]
    logps = iter([max(score.logp, LEAST) for score in granted(pool.score(pool.member(judge), flat))])
    return [[next(logps) for _ in endings] for _, endings in asked]


def granted(results: Sequence[Told | UnisonoError]) -> list[Told]:
    """The results of a pool. Raises the first error among them."""
    told: list[Told] = []
    for result in results:
        if isinstance(result, UnisonoError):
            raise result
        told.append(result)
    return told


def shares(logps: Sequence[float]) -> list[float]:
    """Softmax: probabilities with these logarithms, made to sum to 1."""
    top = max(logps)
    masses = [math.exp(logp - top) for logp in logps]
    return [mass / math.fsum(masses) for mass in masses]
