"""What a trace says once, in its first step: its version, the members, and how the text is written."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.outcomes import TRACE_VERSION


def about(plan: Plan, members: Sequence[Member]) -> dict[str, object]:
    """What a trace says once: its version, the members with their weights, and how the text is written."""
    method, gate = plan.method, plan.gate
    return {
        "version": TRACE_VERSION,
        "members": [{"name": member.name, "weight": plan.weights[member.name]} for member in members],
        "lead": plan.lead.name,
        "combine": str(method.combine),
        "gate": {"kind": gate.kind, "parameter": gate.parameter, "boundary": gate.boundary},
        "speculate": None if method.speculate is None else str(method.speculate),
        "sampling": str(method.sampling),
        **({"vocabulary": str(method.vocabulary)} if method.vocabulary.is_bytes else {}),
    }
