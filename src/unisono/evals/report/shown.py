"""The part of the report that shows single questions, and the steps at which the vote changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from unisono.evals.records import Answer
from unisono.evals.report.document import Block, Column, Heading, Listing, Paragraph, Row, Table
from unisono.evals.report.examples import RIGHT
from unisono.evals.report.records import ENSEMBLE_KIND, Example, Report, TaskFigures
from unisono.evals.report.text import cut
from unisono.evals.report.words import NONE, percent

MOST_DISPUTES = 16
PROMPT = (300, 1500)
"""Characters of a prompt that are shown, of its beginning and its end: examples come first, the question last."""
TEXT = (900, 500)
ANSWER = (120, 40)
CHOICE = (60, 0)
TARGET = (400, 100)


def shown_examples(report: Report) -> Iterator[Block]:
    """Of each task, answers that the ensemble repaired or spoiled."""
    tasks = [task for task in report.tasks if task.repaired or task.spoiled]
    if not tasks:
        return
    yield Heading(2, "Answers that the ensemble repaired or spoiled")
    yield Paragraph(
        "The first of each task, in the order of its questions, which mixes all parts. Repaired: the ensemble is right and "
        "the best member wrong; spoiled: the other way round. A step of the vote is shown where some member alone would have "
        "gone on in another way."
    )
    ensemble = report.of_kind(ENSEMBLE_KIND)[0].name
    for task in tasks:
        yield Heading(3, f"{task.facts.name}: {task.repaired_in_all} repaired, {task.spoiled_in_all} spoiled")
        for outcome, examples in (("Repaired", task.repaired), ("Spoiled", task.spoiled)):
            for example in examples:
                yield from _example(task, example, outcome, ensemble)


def _example(task: TaskFigures, example: Example, outcome: str, ensemble: str) -> Iterator[Block]:
    yield Heading(4, f"{outcome}: {example.question}")
    if example.prompt is not None:
        yield Listing("Question", cut(example.prompt, *PROMPT))
    if example.target is not None:
        yield Listing("Right", cut(example.target, *TARGET))
    right = ", ".join(example.members_right) or "none"
    yield Paragraph(f"Best member: {example.best_member}. Members that are right: {right}.")
    heads = tuple(Column(title, numeric=False) for title in ("system", "", "answer"))
    yield Table("The answers", heads, tuple(_answered(example, each, ensemble) for each in example.answers))
    if any(answer.choices for answer in example.answers):
        yield _choices(example, ensemble)
    for answer in example.answers:
        if answer.text is not None and answer.system in (ensemble, example.best_member):
            yield Listing(f"Written by {answer.system}", cut(answer.text, *TEXT))
    yield from _disputes(next(answer for answer in example.answers if answer.system == ensemble))


def _answered(example: Example, answer: Answer, ensemble: str) -> Row:
    value = example.values.get(answer.system)
    outcome = "failed" if answer.error is not None else NONE if value is None else "right" if value > RIGHT else "wrong"
    said = cut(answer.error or answer.answer, *ANSWER) or NONE
    return Row((answer.system, outcome, said), answer.system == ensemble)


def _choices(example: Example, ensemble: str) -> Table:
    scored = [answer for answer in example.answers if answer.choices]
    count = max(len(answer.choices) for answer in scored)
    names = [ascii_uppercase[place] if place < len(ascii_uppercase) else str(place + 1) for place in range(count)]
    for place, choice in enumerate(example.choices[:count]):
        names[place] += f": {cut(choice.strip(), *CHOICE)}"
    rows = tuple(
        Row((answer.system, *_probabilities(answer.choices, count)), answer.system == ensemble) for answer in scored
    )
    return Table(
        "Probability of each choice among them, in %", (Column("system", numeric=False), *map(Column, names)), rows
    )


def _probabilities(choices: Sequence[float], count: int) -> list[str]:
    top = max(choices)
    if not math.isfinite(top):
        return [NONE] * count
    masses = [math.exp(logp - top) for logp in choices]
    return [percent(mass / sum(masses)) for mass in masses] + [NONE] * (count - len(choices))


def _disputes(answer: Answer) -> Iterator[Block]:
    if not answer.disputes:
        return
    shown = answer.disputes[:MOST_DISPUTES]
    voters = list(dict.fromkeys(name for dispute in shown for name in dispute.members))
    rows = []
    for dispute in shown:
        votes = (dispute.members.get(name) for name in voters)
        cells = (NONE if vote is None else f"{_piece(vote[0])} {percent(vote[1])}" for vote in votes)
        rows.append(Row((str(dispute.position), f"{_piece(dispute.piece)} {percent(dispute.p)}", *cells)))
    heads = ("written", *voters)
    yield Table(
        "Steps at which voters did not agree: what was written, what each found likeliest, and its probability in %",
        (Column("step"), *(Column(head, numeric=False) for head in heads)),
        tuple(rows),
    )
    if len(answer.disputes) > len(shown):
        yield Paragraph(f"{len(answer.disputes) - len(shown)} more such steps followed.")


def _piece(piece: str) -> str:
    return f"“{cut(piece, 40, 0)}”" if piece else "END"
