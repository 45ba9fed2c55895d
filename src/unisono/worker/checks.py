"""What is refused of a call before anything is taken or computed for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unisono.backends.base import BackendFacts
from unisono.backends.endpoint.adapter import Question

SLOTS = 4096
"""A client numbers its slots below this."""
ANSWER = 1 << 30
"""The most bytes of whole distributions that a call makes; those of which the likeliest ids are told, too."""


class InvalidCall(ValueError):
    """A call that this model cannot answer."""


def check_questions(questions: Sequence[Question], facts: BackendFacts) -> None:
    """Raises an `InvalidCall`."""
    seen = set[int]()
    for question in questions:
        if not 0 <= question.slot < SLOTS or question.slot in seen:
            raise InvalidCall(f"slot {question.slot} is asked twice, or is none of 0 … {SLOTS - 1}")
        seen.add(question.slot)
        _check_question(question, facts)
    if len({question.top > 0 for question in questions}) > 1:
        raise InvalidCall("whole distributions and truncated ones are asked for in one call")
    wanted = sum(question.wanted for question in questions)
    if wanted * facts.rows * 4 > ANSWER:
        most = ANSWER // (facts.rows * 4)
        raise InvalidCall(
            f"{wanted} distributions over {facts.rows} ids are wanted in one call, and the most is {most}, which are "
            f"{ANSWER >> 20} MiB; ask in several calls"
        )


def _check_question(question: Question, facts: BackendFacts) -> None:
    size = len(question.ids)
    if not 0 <= question.held < size or not 0 <= question.wanted <= size - question.held:
        raise InvalidCall(f"{question.wanted} rows are wanted of {size} ids, {question.held} of which are read")
    if size > facts.context:
        raise InvalidCall(f"slot {question.slot} is to hold {size} ids, and the context is {facts.context}")
    if np.max(question.ids) >= facts.rows:
        raise InvalidCall(f"slot {question.slot} is to read an id that the model's {facts.rows} rows do not have")
    if not 0 <= question.top <= facts.rows or not all(0 <= token < facts.rows for token in question.also):
        raise InvalidCall(f"more ids, or others, are to be told than the model's {facts.rows}")
