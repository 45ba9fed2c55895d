"""What `unisono doctor` shows of a member that lives behind an endpoint."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Protocol

from unisono.backends.base import Backend, Feed, Truncation
from unisono.backends.endpoint.adapter import Description

QUESTIONS = 7
"""One-token questions that are timed. The first opens connections and is not counted."""


@dataclass(frozen=True, slots=True)
class EndpointReport:
    address: str
    engine: str
    """Its name and version."""
    slots: int
    """Texts that it holds at once."""
    truncated: Truncation | None
    latency_ms: float
    """The median of a few one-token questions, asked one after the other."""
    jitter_ms: float
    """How far the slowest of these lay above the fastest."""
    notes: tuple[str, ...]
    """What follows for exactness and cost."""


class Reports(Protocol):
    """A loader of a member that lives elsewhere."""

    def report(self) -> EndpointReport: ...


def report_of(address: str, told: Description, backend: Backend) -> EndpointReport:
    """Ask an endpoint a few questions, and say what it can do."""
    slot, seconds = backend.open(), []
    for token in range(min(QUESTIONS, backend.facts.context)):
        began = time.perf_counter()
        backend.advance([Feed(slot, [token % backend.facts.rows])])
        seconds.append(time.perf_counter() - began)
    backend.close(slot)
    counted = seconds[1:] or seconds
    return EndpointReport(
        address=address,
        engine=told.engine,
        slots=told.slots,
        truncated=told.truncated,
        latency_ms=1e3 * statistics.median(counted),
        jitter_ms=1e3 * (max(counted) - min(counted)),
        notes=(_exactness(told.truncated), *told.notes),
    )


def _exactness(truncated: Truncation | None) -> str:
    if truncated is None:
        return "exact: it tells whole distributions, so that all methods and drawing are as with local members"
    return (
        "greedy choices are exact where they are certified, and counted where not (usage.uncertain); what needs whole "
        "distributions, drawing above all, is refused"
    )
