"""The member that a worker serves: its model, its tokenizer, and what is said of both."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

from unisono.backends.base import Backend
from unisono.backends.endpoint.worker_frames import WORKER, table_frame
from unisono.config.ensemble import EnsembleSpec
from unisono.config.member import MemberSpec
from unisono.config.model_source import choose_backend, find_model
from unisono.errors import SpecError, nearest
from unisono.member_template import is_given, template_of, template_text
from unisono.member_warnings import words_beyond
from unisono.members import Model, Report, reporter
from unisono.wanted_models import Wanted, read_model
from unisono.worker.fingerprint import fingerprint

log = logging.getLogger(__name__)

ELSEWHERE = ("system", "prefix", "marks")
"""Keys of a member that are for the ensemble's own file to say."""
WAYS = ("encode", "encode_prompt", "encode_rendered")
"""The ways of a tokenizer to encode."""


@dataclass(frozen=True, kw_only=True)
class ServedMember:
    """A loaded member."""

    name: str
    model: Model
    backend: Backend
    template: str | None = None
    """The chat template that the ensemble file gives, or names."""
    template_given: bool = False

    @cached_property
    def table(self) -> bytes:
        """Its token table, as a frame, with the template that clients are to use."""
        table = self.model.tokenizer.table
        if self.template is not None:
            given = self.template_given
            table = replace(table, chat_template=self.template, template_given=given, named_templates={})
        return b"".join(table_frame(table))

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, self.table)

    @cached_property
    def instance(self) -> str:
        """Another one after each start."""
        return secrets.token_hex(8)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What a client is told before anything else, as JSON."""
        facts = self.backend.facts
        truncated = facts.truncated
        return {
            "unisono_member": WORKER,
            "version": version("unisono"),
            "name": self.name,
            "engine": f"unisono {version('unisono')} ({self.model.backend}, {facts.device})",
            "model": self.fingerprint,
            "instance": self.instance,
            "table": hashlib.sha256(self.table).hexdigest(),
            "rows": facts.rows,
            "context": facts.context,
            "slots": facts.slots,
            "truncated": None if truncated is None else list(truncated),
            "keeps_prefixes": facts.keeps_prefixes,
            "warnings": [*self.model.facts.warnings, *facts.warnings],
        }

    def encode(self, way: str, texts: Sequence[str]) -> list[list[int]]:
        return [getattr(self.model.tokenizer, way)(text) for text in texts]


def load_member(spec: EnsembleSpec, name: str, slots: int, report: Report) -> ServedMember:
    """Load one member of an ensemble file, or the one whose weights it shares. Raises a `UnisonoError`."""
    owner = find_owner(spec, name)
    say = reporter(report, owner.name)
    say(0.0, "finding the model")
    source = find_model(owner, spec.folder, say)
    backend_name = choose_backend(owner, source).name
    wanted = Wanted(owner=owner, backend=backend_name, source=source, slots=slots, alone=True)
    model = read_model(wanted, report)
    member, table = next(each for each in spec.members if each.name == name), model.tokenizer.table
    template = None
    if member.chat_template is not None:
        template_of(member, model.tokenizer)
        template = template_text(member, table)
    backend = model.loader.load(say)
    given = is_given(member, table)
    loaded = ServedMember(name=name, model=model, backend=backend, template=template, template_given=given)
    if beyond := model.tokenizer.table.beyond:
        log.warning("%s", words_beyond(name, model.facts.usable_rows, [text for text, _ in beyond]))
    for warning in loaded.description["warnings"]:
        log.warning("member %r: %s", name, warning)
    return loaded


def find_owner(spec: EnsembleSpec, name: str) -> MemberSpec:
    """The member of a file that has the weights of a member. Raises a `SpecError`."""
    by_name = {member.name: member for member in spec.members}
    if name not in by_name:
        raise SpecError(
            f"there is no member {name!r}{nearest(name, by_name)}", hint=f"choose one of {', '.join(by_name)}"
        )
    member = by_name[name]
    if ignored := [key for key in ELSEWHERE if getattr(member, key)]:
        log.warning(
            "member %r: %s of this file %s no effect here; the file of the ensemble that asks this worker says that",
            name,
            " and ".join(ignored),
            "has" if len(ignored) == 1 else "have",
        )
    owner = by_name[member.owner]
    if member.adapter is not None:
        raise SpecError(
            f"member {name!r} has the adapter {member.adapter!r}, and a worker serves models without adapters",
            hint="merge it into the weights, or run the member in the process of the ensemble",
        )
    if owner.is_elsewhere:
        raise SpecError(
            f"member {name!r} lives {'in a Ray actor' if owner.url is None else f'at {owner.url}'} already",
            hint="serve one that has a model and is loaded here",
        )
    return owner
