"""Running members: one batched pass a model, side by side where models sit on different devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

from unisono.config.gate import Gate
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.forward import MemberBatch, Portion, read_ahead, rows_at, run_pass
from unisono.engine.member import Member
from unisono.engine.sampler import Sampler
from unisono.engine.slow_passes import SlowPasses
from unisono.engine.step_state import StepState
from unisono.fusion.sampling import greedy


class Runner:
    """Runs passes; the states note their output."""

    def __init__(self, members: Sequence[Member], sampler: Sampler, draft_length: DraftLengthController) -> None:
        """Bind it to an engine's members."""
        self._members = members
        self._sampler = sampler
        self._draft_length = draft_length
        devices = {member.backend.facts.device for member in members}
        self._slow = SlowPasses()
        self._pool = ThreadPoolExecutor(len(devices)) if len(devices) > 1 else None

    def close(self) -> None:
        """End the threads. Idempotent."""
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, batches: Sequence[MemberBatch]) -> None:
        """Run members: those that share a model in one pass, models that share a device one after the other."""
        passes: dict[int, list[MemberBatch]] = {}
        for batch in batches:
            if batch.spans:
                passes.setdefault(id(batch.member.backend), []).append(batch)
        if self._pool is None:
            for together in passes.values():
                self._run_pass(together)
        else:
            self._run([(together[0].member, partial(self._run_pass, together)) for together in passes.values()])

    def read_ahead(self, portions: Iterable[Portion]) -> None:
        """Let members read on in sequences without any output, in one pass a model too."""
        passes: defaultdict[int, list[Portion]] = defaultdict(list)
        for portion in portions:
            passes[portion.member.model].append(portion)
        self._run((together[0].member, partial(read_ahead, together)) for together in passes.values())

    def run_leads(self, states: Sequence[StepState]) -> None:
        """Run the leads that gates wait for, and let the gates decide position by position."""
        led = [state for state in states if state.awaits_lead]
        if not led:
            return
        self.run_whole(led)
        position = 0
        while led := [state for state in led if state.reaches(position)]:
            self.read_gates(led, position)
            position += 1

    def run_whole(self, states: Sequence[StepState]) -> None:
        """Run the leads of some sequences for all positions."""
        spans: dict[Member, list[tuple[StepState, int, int]]] = {member: [] for member in self._members}
        for state in states:
            spans[state.plan.lead].append((state, 0, state.last))
        self.run([MemberBatch(member, its_spans, keep=True) for member, its_spans in spans.items()])

    def run_voters(self, states: Sequence[StepState], *, keep: bool) -> None:
        """Run every voter that was not run yet.

        Args:
            states: whose gates were read.
            keep: whether the output has to last, as it does where a beam copies slots while it is settled.
        """
        fresh = [state for state in states if state.plan.asks_all and not state.outputs]
        others = [] if len(fresh) == len(states) else [state for state in states if state not in fresh]
        everybody = [(state, 0, len(state.drafted)) for state in fresh]
        batches = []
        for member in self._members:
            spans = [(state, *span) for state in others if (span := state.span(member))]
            batches.append(MemberBatch(member, everybody + spans, keep))
        self.run(batches)

    def read_gates(self, states: Sequence[StepState], position: int) -> None:
        """Let the gates of sequences whose lead was run decide at a position."""
        groups: defaultdict[tuple[Member, Gate], list[StepState]] = defaultdict(list)
        for state in states:
            groups[state.plan.lead, state.plan.gate].append(state)
        for (lead, gate), group in groups.items():
            p_BU = rows_at(group, lead, position)
            scores = gate.score(p_BU, [state.text.pieces + position for state in group])
            likeliest = greedy(p_BU)
            choices = [column for column, _ in self._sampler.guess(group, position, lead)]
            for state, score, top, choice in zip(group, scores, likeliest, choices, strict=True):
                state.read_gate(score, top, choice)

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

    def _run_pass(self, batches: Sequence[MemberBatch]) -> None:
        """Run members that share a model."""
        work, seconds = run_pass(batches)
        member = batches[0].member
        if self._draft_length.in_use:
            self._draft_length.learn_pass(member.model, work, seconds)
        if member.backend.facts.device == "cpu":
            self._slow.note(member.name, member.model, work, seconds)


def _run_all(passes: Sequence[Callable[[], None]]) -> None:
    for run in passes:
        run()
