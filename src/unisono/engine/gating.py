"""Reading gates: the leads are run, and each gate decides position by position who is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from unisono.config.gate import Gate
from unisono.engine.certifier import Certifier
from unisono.engine.member import Member
from unisono.engine.passes import MemberBatch
from unisono.engine.runner import Runner
from unisono.engine.sampler import Sampler, is_blind, rows_at
from unisono.engine.step_state import StepState
from unisono.fusion.sampling import greedy


def run_leads(
    states: Sequence[StepState],
    runner: Runner,
    sampler: Sampler,
    certifier: Certifier | None = None,
    *,
    given: bool = False,
) -> None:
    """Run the leads that gates wait for, and let the gates decide position by position.

    The drafted pieces may be ``given``: they are the text then, whatever the leads would choose.
    """
    led = [state for state in states if state.awaits_lead]
    if not led:
        return
    spans: dict[Member, list[tuple[StepState, int, int]]] = {member: [] for member in runner.members}
    for state in led:
        spans[state.plan.lead].append((state, 0, state.last))
    runner.run([MemberBatch(member, its_spans, keep=True) for member, its_spans in spans.items()])
    led = [state for state in led if state.awaits_lead]  # else the lead was lost
    position = 0
    while led := [state for state in led if (position <= state.last if given else state.reaches(position))]:
        read_gates(led, position, sampler, certifier)
        position += 1


def read_gates(
    states: Sequence[StepState], position: int, sampler: Sampler, certifier: Certifier | None = None
) -> None:
    """Let the gates of sequences whose lead was run decide at a position."""
    groups: defaultdict[tuple[Member, Gate], list[StepState]] = defaultdict(list)
    for state in states:
        groups[state.plan.lead, state.plan.gate].append(state)
    for (lead, gate), group in groups.items():
        if lead.is_truncated:
            assert certifier is not None, "an engine of truncated members has one"
            certifier.read_gates(group, position, sampler)
            continue
        p_BU = rows_at(group, lead, position)
        scores = gate.score(p_BU, [state.text.pieces + position for state in group])
        likeliest = greedy(p_BU)
        choices = [column for column, _ in sampler.guess(group, position, lead)]
        for state, p_U, score, top, choice in zip(group, p_BU, scores, likeliest, choices, strict=True):
            state.read_gate(score, top, choice, blind=is_blind(state, position, choice, [p_U]))
