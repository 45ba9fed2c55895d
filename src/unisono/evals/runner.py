"""Asks all systems the same questions: interleaved, so that all have the same conditions, and resumable."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from unisono.errors import PromptError, SpecError, UnisonoError
from unisono.evals.baselines.base import Baseline
from unisono.evals.baselines.decide import baselines_of
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Disagreement, Grade, Question, Reply, System, Task, Times
from unisono.evals.results import RunFolder
from unisono.records import Generation, Score
from unisono.step_records import StepRecord

DECIMALS = 6
Answered = tuple[Answer, Times]
Count = Callable[[int], None]


def evaluate(
    pool: ModelPool,
    tasks: Sequence[Task],
    systems: Sequence[System],
    folder: RunFolder,
    *,
    baselines: Sequence[Baseline] = (),
    count: Count = lambda answers: None,
) -> None:
    """Ask what is not answered yet. Answers are in the folder as soon as their batch is complete.

    Each batch starts with an empty prefix cache, so that answers do not depend on where a run was interrupted.
    Baselines need each member alone among the systems. `count` is called with numbers of answers, first of those that
    are there already. Raises as `check_readable`, `baselines_of` and `RunFolder.write`.
    """
    with contextlib.suppress(SpecError):  # a baseline of the caller's own has a name that we do not know
        baselines_of(folder.about)  # those of earlier decide anew, too, when the answers are counted
    for task in tasks:
        check_readable(pool, task)
    folder.write_questions(question for task in tasks for question in task.questions)
    for task in tasks:
        questions = sorted(task.questions, key=lambda question: question.part)  # those of a part may begin alike
        for start in range(0, len(questions), pool.question_batch):
            pool.forget()
            asked = _Batch(pool, questions[start : start + pool.question_batch], [*systems, *baselines], start, folder)
            count(asked.answered)
            asked.ask(systems, count)
            asked.gather(baselines, count)
            asked.write()


def check_readable(pool: ModelPool, task: Task) -> None:
    """Raise the first `PromptError` when some member can read no question of a task."""
    errors = []
    for question in task.questions:
        try:
            pool.prepared.check_prompt(question.prompt)
        except PromptError as error:
            errors.append(error)
        else:
            return
    if errors:
        raise PromptError(f"task {task.name}: {errors[0].message}", hint=errors[0].hint) from errors[0]


@dataclass
class _Batch:
    pool: ModelPool
    questions: Sequence[Question]
    systems: Sequence[System | Baseline]
    start: int
    """Index of the first question in its task."""
    folder: RunFolder
    new: dict[tuple[str, str], Answered] = field(default_factory=dict)
    """By question and system, what the folder does not hold yet."""

    @property
    def answered(self) -> int:
        return sum(len(self.questions) - len(self._lacking(system.name)) for system in self.systems)

    def ask(self, systems: Sequence[System], count: Count) -> None:
        """Run the systems on unanswered questions, as many at once as the pool writes.

        All answer these before the next ones, so the models read each once; a different system begins each time. Where
        choices are scored, one reading serves all.
        """
        if self.questions[0].is_choice:
            self._ask_choices(systems, count)
            return
        batch = self.pool.batch
        for start in range(0, len(self.questions), batch):
            some = self.questions[start : start + batch]
            turn = (self.start + start) // batch % len(systems) if systems else 0
            for system in [*systems[turn:], *systems[:turn]]:
                asked = [question for question in some if self._known(question, system.name) is None]
                for question, answered in zip(asked, answer_all(self.pool, system, asked), strict=True):
                    self.new[question.id, system.name] = answered
                count(len(asked))

    def _ask_choices(self, systems: Sequence[System], count: Count) -> None:
        groups: dict[tuple[str, ...], list[Question]] = {}
        for question in self.questions:
            lacking = tuple(system.name for system in systems if self._known(question, system.name) is None)
            groups.setdefault(lacking, []).append(question)
        for names, questions in groups.items():
            asked = [system for system in systems if system.name in names]
            for system, answers in zip(asked, choose_all(self.pool, asked, questions), strict=True):
                for question, answered in zip(questions, answers, strict=True):
                    self.new[question.id, system.name] = answered
                count(len(questions))

    def gather(self, baselines: Sequence[Baseline], count: Count) -> None:
        for baseline in baselines:
            lacking = self._lacking(baseline.name)
            for question in lacking:
                self.new[question.id, baseline.name] = _evidence(
                    self.pool, baseline, question, self._candidates(question)
                )
            count(len(lacking))

    def write(self) -> None:
        keys = [(question.id, system.name) for question in self.questions for system in self.systems]
        if self.new:
            self.folder.write(*zip(*(self.new[key] for key in keys if key in self.new), strict=True))

    def _candidates(self, question: Question) -> dict[str, Answer]:
        new = {name: self.new[question.id, name][0] for name in self.pool.members if (question.id, name) in self.new}
        answers = {name: new.get(name) or self._known(question, name) for name in self.pool.members}
        return {name: answer for name, answer in answers.items() if answer is not None and answer.error is None}

    def _lacking(self, system: str) -> list[Question]:
        return [question for question in self.questions if self._known(question, system) is None]

    def _known(self, question: Question, system: str) -> Answer | None:
        return self.folder.known.get((question.task, question.id, system))


def answer_all(pool: ModelPool, system: System, questions: Sequence[Question]) -> list[Answered]:
    """Let a system write the answers to questions."""
    if not questions:
        return []
    began = time.perf_counter()
    at_once = min(pool.batch, len(questions))
    results = pool.generate(system, [(question.prompt, question.limits) for question in questions])
    answered = [_written(question, system, result) for question, result in zip(questions, results, strict=True)]
    seconds = (time.perf_counter() - began) / len(questions)
    return [(answer, replace(times, seconds=seconds, at_once=at_once)) for answer, times in answered]


def choose_all(pool: ModelPool, systems: Sequence[System], questions: Sequence[Question]) -> list[list[Answered]]:
    """Let systems score the choices of questions, by one reading: by system, in the questions' order.

    The time of a system is that of its members' passes and of combining, and an equal part of all else.
    """
    if not systems or not questions:
        return [[] for _ in systems]
    began = time.perf_counter()
    asked = [(question.prompt, choice) for question in questions for choice in question.choices]
    answered = []
    for system, scores in zip(systems, pool.score_all(systems, asked), strict=True):
        left = iter(scores)
        answered.append([_scored(each, system, list(itertools.islice(left, len(each.choices)))) for each in questions])
    spent = time.perf_counter() - began
    scoring = sum(times.writing for its in answered for _, times in its)
    rest = max(0.0, spent - scoring) / len(systems) / len(questions)
    return [
        [(answer, replace(times, seconds=times.writing + rest, at_once=len(questions))) for answer, times in its]
        for its in answered
    ]


def _scored(question: Question, system: System, found: Sequence[Score | UnisonoError]) -> Answered:
    scores = []
    for score in found:
        if isinstance(score, UnisonoError):
            return _failed(question, system.name, score)
        scores.append(score)
    reply = Reply(choices=tuple((score.logp, score.is_greedy) for score in scores))
    pieces = [piece for score in scores for piece in score.pieces]
    answer = Answer(
        *(question.task, question.id, system.name, {}),
        choices=tuple(round(score.logp, DECIMALS) for score in scores),
        pieces=len(pieces),
        ensembled=sum(len(piece.voted) == len(system.members) for piece in pieces),
    )
    return _graded(question, answer, reply, sum(score.seconds for score in scores), len(pieces))


def _written(question: Question, system: System, result: Generation | UnisonoError) -> Answered:
    if isinstance(result, UnisonoError):
        return _failed(question, system.name, result)
    steps = result.steps or ()
    p = tuple(round(step.p, DECIMALS) for step in steps)
    at_most = tuple(round(step.p + (step.unknown or 0.0), DECIMALS) for step in steps)  # a guess is taken as it is
    answer = Answer(
        *(question.task, question.id, system.name, {}),
        text=result.text,
        pieces=result.usage.pieces,
        ensembled=result.usage.ensembled,
        p=p,
        at_most=at_most if at_most != p else (),
        disputes=tuple(_disputes(steps)),
        finish=result.finish_reason,
    )
    return _graded(question, answer, Reply(text=result.text), result.seconds.total, len(steps))


def _graded(question: Question, answer: Answer, reply: Reply, writing: float, pieces: int) -> Answered:
    times = Times(question.task, question.id, answer.system, 0.0, writing, pieces)
    try:
        grade: Grade = question.grade(reply)
    except UnisonoError as error:
        return replace(answer, error=_words(error)), times
    return replace(answer, metrics=dict(grade.metrics), answer=grade.answer), times


def _disputes(steps: Sequence[StepRecord]) -> list[Disagreement]:
    found = []
    for position, step in enumerate(steps):
        tops = {name: pieces[0] for name, pieces in step.top.items() if pieces and name not in step.subtracted}
        preferred = {piece for piece, _ in tops.values()}
        if len(preferred | ({step.mark or step.piece} if step.subtracted else set())) > 1:
            members = {name: (_shown(piece), round(p, DECIMALS)) for name, (piece, p) in tops.items()}
            written = _shown(step.mark or step.piece)
            found.append(Disagreement(position, written, round(step.p, DECIMALS), members))
    return found


def _shown(piece: bytes | str | None) -> str:
    """A piece as text for people, and a mark by its name."""
    if isinstance(piece, str):
        return f"<{piece}>"
    return "" if piece is None else piece.decode(errors="backslashreplace")


def _evidence(pool: ModelPool, baseline: Baseline, question: Question, candidates: Mapping[str, Answer]) -> Answered:
    began = time.perf_counter()
    evidence, error = None, None if candidates else "no member has an answer"
    if candidates:
        try:
            evidence = baseline.gather(question, candidates, pool)
        except UnisonoError as failure:
            error = _words(failure)
    key = question.task, question.id, baseline.name
    answer = Answer(*key, {}, evidence=evidence, error=error)
    return answer, Times(*key, time.perf_counter() - began, 0.0, 0)


def _failed(question: Question, system: str, error: UnisonoError) -> Answered:
    key = question.task, question.id, system
    return Answer(*key, {}, error=_words(error)), Times(*key, 0.0, 0.0, 0)


def _words(error: UnisonoError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")
