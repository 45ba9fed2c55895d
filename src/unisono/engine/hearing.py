"""Asking members: one batched pass a model, side by side where models sit on different devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial

from unisono.engine.choosing import Chooser
from unisono.engine.member import Member
from unisono.engine.pace import Pace
from unisono.engine.passes import Portion, make_block, read_ahead, run_pass
from unisono.engine.rows import rows_at
from unisono.engine.slow_passes import SlowPasses
from unisono.engine.window import Window
from unisono.fusion.gate import Gate
from unisono.fusion.sample import greedy


@dataclass(slots=True)
class Question:
    """What one member is asked in one pass: positions first to last of some windows."""

    member: Member
    spans: list[tuple[Window, int, int]] = field(default_factory=list)
    keep: bool = False
    """Whether its distributions have to outlast its model's next pass, or are looked at several times."""


class Hearing:
    """Runs passes; the windows note what is heard."""

    def __init__(self, members: Sequence[Member], chooser: Chooser, pace: Pace) -> None:
        """Bind it to an engine's members."""
        self._members = members
        self._chooser = chooser
        self._pace = pace
        self._slow = SlowPasses()
        devices = {member.backend.facts.device for member in members}
        self._pool = ThreadPoolExecutor(len(devices)) if len(devices) > 1 else None

    def close(self) -> None:
        """End the threads. Idempotent."""
        if self._pool is not None:
            self._pool.shutdown()

    def hear(self, questions: Iterable[Question]) -> None:
        """Ask them all: members that share a model in one pass, models that share a device one after the other."""
        passes: defaultdict[int, list[Question]] = defaultdict(list)
        for question in questions:
            if question.spans:
                passes[question.member.model].append(question)
        self._run((together[0].member, partial(self._ask, together)) for together in passes.values())

    def read_ahead(self, portions: Iterable[Portion]) -> None:
        """Let members read on in texts without asking them anything, in the same passes as `hear`."""
        passes: defaultdict[int, list[Portion]] = defaultdict(list)
        for portion in portions:
            passes[portion.member.model].append(portion)
        self._run((together[0].member, partial(read_ahead, together)) for together in passes.values())

    def hear_leads(self, windows: Sequence[Window]) -> None:
        """Ask the leads that gates wait for, and let the gates decide position by position."""
        led = [window for window in windows if window.awaits_lead]
        self.hear(
            Question(member, [(window, 0, window.last) for window in led if window.plan.lead is member], keep=True)
            for member in self._members
        )
        position = 0
        while led := [window for window in led if window.reaches(position)]:
            self.read_gates(led, position)
            position += 1

    def hear_voters(self, windows: Sequence[Window], *, keep: bool) -> None:
        """Ask all who are to be asked and have not been.

        Args:
            windows: of which the gates have been read.
            keep: whether what is heard has to last, as it does where a beam copies slots while it is settled.
        """
        self.hear(
            Question(member, [(window, *span) for window in windows if (span := window.span(member))], keep=keep)
            for member in self._members
        )

    def read_gates(self, windows: Sequence[Window], position: int) -> None:
        """Let the gates of windows whose lead has been heard decide at a position."""
        groups: defaultdict[tuple[Member, Gate], list[Window]] = defaultdict(list)
        for window in windows:
            groups[window.plan.lead, window.plan.gate].append(window)
        for (lead, gate), group in groups.items():
            p_BU = rows_at(group, lead, position)
            scores = gate.score(p_BU, [window.text.pieces + position for window in group])
            likeliest = greedy(p_BU)
            choices = [column for column, _ in self._chooser.guess(group, position, lead)]
            for window, score, top, choice in zip(group, scores, likeliest, choices, strict=True):
                window.read_gate(score, top, choice)

    def _run(self, passes: Iterable[tuple[Member, Callable[[], None]]]) -> None:
        """Run passes: those of one device one after the other, devices side by side."""
        groups: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        for member, run in passes:
            groups[member.backend.facts.device].append(run)
        if self._pool is None or len(groups) < 2:
            for group in groups.values():
                _run_all(group)
            return
        running = [self._pool.submit(_run_all, group) for group in groups.values()]
        try:
            wait(running)
        except BaseException:  # Ctrl-C: a pass that has begun ends before anything is undone
            wait(running)
            raise
        for answer in running:
            answer.result()

    def _ask(self, questions: Sequence[Question]) -> None:
        """Ask members that share a model."""
        blocks = [
            make_block(question.member, [window.ask(question.member, *span) for window, *span in question.spans])
            for question in questions
        ]
        readings, work, seconds = run_pass(blocks)
        for question, reading in zip(questions, readings, strict=True):
            member = question.member
            if question.keep:
                reading.keep()
            for (window, first, _), rows in zip(question.spans, reading.rows, strict=True):
                window.heard(member, reading, rows, first)
                window.text.member_seconds[member.name] += reading.seconds
        asked = questions[0].member
        self._pace.learn_pass(asked.model, work, seconds)
        if asked.backend.facts.device == "cpu":
            self._slow.note(asked.name, asked.model, work, seconds)


def _run_all(passes: Sequence[Callable[[], None]]) -> None:
    for run in passes:
        run()
