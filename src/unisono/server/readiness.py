"""Whether requests can be served now, and how the members do whose models live elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from unisono.engine.lost_members import MemberHealth, health
from unisono.engine.member import Member
from unisono.engine.service import Service
from unisono.records import Generation

DEGRADED = "x-unisono-degraded"
"""The header that says without which members, and for how many choices, an answer was written."""


class State(BaseModel):
    """An answer of ``/health`` and ``/ready``."""

    status: str
    reason: str | None = None
    members: dict[str, dict[str, Any]] | None = None
    """Of ``/ready``: by ensemble and member, its state, latency and losses. Where it lives is not told: no key is
    asked for."""


def missed(generations: Iterable[Generation]) -> dict[str, int]:
    """By member, how many choices of an answer were made without it."""
    counts = Counter[str]()
    for generation in generations:
        counts.update(generation.usage.degraded or {})
    return dict(counts)


def degraded(generations: Iterable[Generation]) -> dict[str, str]:
    """The header of an answer that was written without a member."""
    counts = missed(generations)
    return {DEGRADED: ", ".join(f"{name}={count}" for name, count in counts.items())} if counts else {}


def ensembles(service: Service) -> Iterator[tuple[str, Member, MemberHealth]]:
    """The members of all ensembles, and how they do; those that members are by themselves are left out."""
    for model, engine in service.engines.items():
        if model.rpartition("/")[0] not in service.engines:
            for member in engine.members:
                yield model, member, health(member, engine.groups)


def lost(service: Service) -> str | None:
    """Whose absence keeps requests from being served."""
    names = [
        f"{model}: member {member.name} is {its.state}"
        for model, member, its in ensembles(service)
        if its.state in ("away", "refused") and not member.degrades
    ]
    return "; ".join(names) or None


def due(service: Service) -> dict[str, None]:
    """The ensembles of which a lost member is to be asked again."""
    return {model: None for model, member, _ in ensembles(service) if member.breaker.state == "half-open"}


def state_of(reason: str | None, service: Service | None) -> State:
    """What ``/ready`` answers. A server whose texts go on without a member is degraded, and ready."""
    members: dict[str, dict[str, Any]] = {}
    for model, member, its in ensembles(service) if service is not None else ():
        members.setdefault(model, {})[member.name] = its.to_json()
    away = any(its["state"] != "ready" for by_name in members.values() for its in by_name.values())
    status = "not ready" if reason is not None else "degraded" if away else "ready"
    return State(status=status, reason=reason, members=members or None)
