"""Loads the weights of members, each once, and says what is wrong with their models."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from unisono.backends.adapted import Adapted
from unisono.backends.base import Backend, Loader
from unisono.backends.prefix_cache import PrefixCache
from unisono.member_warnings import words_beyond
from unisono.members import PreparedMember, Report, reporter
from unisono.self_check import adapter_check, kept, self_check

log = logging.getLogger(__name__)


def load_weights(
    members: Sequence[PreparedMember], report: Report, *, keep_prefixes: bool, diagnosed: bool
) -> tuple[dict[Loader, Backend], dict[Loader, PrefixCache]]:
    """The models of members, and the caches of those whose prefixes are kept; all are freed when one fails.

    Logs what is found wrong with them; not what `diagnosis.diagnose` finds, too, if that is ``diagnosed``.
    """
    backends: dict[Loader, Backend] = {}
    caches: dict[Loader, PrefixCache] = {}
    with contextlib.ExitStack() as loaded:
        for member in members:
            if member.loader not in backends:
                backend = member.loader.load(reporter(report, member.owner.name))
                loaded.callback(backend.unload)
                backends[member.loader] = backend
                for warning in _warnings(member, backend, diagnosed):
                    log.warning("%s", warning)
                if keep_prefixes and not backend.facts.keeps_prefixes:
                    caches[member.loader] = PrefixCache(backend)
        adapted = {
            (member.loader, member.adapter): member for member in reversed(members) if member.adapter is not None
        }
        for member in reversed(adapted.values()):
            for warning in adapter_check(member, seen_by(member, backends[member.loader])):
                log.warning("%s", warning)
        loaded.pop_all()
    return backends, caches


def seen_by(member: PreparedMember, backend: Any) -> Any:
    """A backend as a member sees it, whose slots have the member's adapter."""
    return backend if member.adapter is None else Adapted(backend, member.adapter)


def _warnings(member: PreparedMember, backend: Backend, diagnosed: bool) -> Iterator[str]:
    findings = self_check(member, backend)
    if not (diagnosed and kept(member)):
        yield from findings
    if not diagnosed:
        if beyond := member.tokenizer.table.beyond:
            yield words_beyond(member.owner.name, member.facts.usable_rows, [text for text, _ in beyond])
        yield from (f"member {member.owner.name!r}: {warning}" for warning in member.facts.warnings)
    yield from (f"member {member.owner.name!r}: {warning}" for warning in backend.facts.warnings)
