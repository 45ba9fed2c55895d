"""The models that an ensemble wants: where they are, and what their files say before weights are loaded."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.registry import check_adapter_files, check_files, make_loader
from unisono.config.ensemble import EnsembleSpec
from unisono.config.member import MemberSpec
from unisono.config.model_source import adapter_is_file, choose_backend, find_adapter, find_model
from unisono.members import Model, Report, reporter
from unisono.vocab.bounded import within_rows
from unisono.vocab.tokenizer import RemoteTokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an ensemble wants of a model."""

    owner: MemberSpec
    backend: str
    source: ModelSource
    slots: int
    copy: int = 0
    """How many members before in the same ensemble name the model and yet want weights of their own."""
    alone: bool = False
    """Whether the process serves this model and nothing else."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """The paths of its members' adapters, by the names of those that have one."""

    @property
    def key(self) -> Hashable:
        """The model and how it is run: equal for members of several ensembles that can share it."""
        return self.alike, self.copy

    @property
    def alike(self) -> Hashable:
        """What copies of a model have in common."""
        owner, options = self.owner, json.dumps(self.owner.options, sort_keys=True, default=repr)
        how = (owner.dtype, owner.device, owner.context, owner.threads, options)
        return self.backend, self.source, how


def find_models(spec: EnsembleSpec, batch: int, report: Report) -> dict[str, Wanted]:
    """Find the models of an ensemble, by the name of the member that has each."""
    voters = spec.voters()
    sharing = Counter(member.owner for member, _ in voters)
    for member in spec.members:
        if member.weight == 0:
            log.warning(
                "member %r has weight 0 and is left out%s",
                member.name,
                ", but for its weights, which others share" if member.name in sharing else "",
            )
    found: dict[str, Wanted] = {}
    copies: Counter[Hashable] = Counter()
    by_name = {member.name: member for member in spec.members}
    for name, members in sharing.items():
        owner, say = by_name[name], reporter(report, name)
        say(0.0, "finding the model")
        source = find_model(owner, spec.folder, say)
        forms = {adapter_is_file(each.adapter, spec.folder) for each, _ in voters if each.owner == name} - {None}
        backend = choose_backend(owner, source, forms.pop() if len(forms) == 1 else None).name
        check_files(backend, name, source)
        slots = batch * spec.method.slots * members
        adapted = {each.name: find_adapter(each, spec.folder, backend) for each, _ in voters if each.owner == name}
        adapters = {each: path for each, path in adapted.items() if path is not None}
        for each, path in adapters.items():
            check_adapter_files(backend, each, path)
        wanted = Wanted(owner=owner, backend=backend, source=source, slots=slots, adapters=adapters)
        key = wanted.key
        found[name] = replace(wanted, copy=copies[key])
        copies[key] += 1
    return found


def read_model(wanted: Wanted, report: Report) -> Model:
    """Read a model's vocabulary."""
    owner, source, backend = wanted.owner, wanted.source, wanted.backend
    request = LoadRequest(
        name=owner.name,
        source=source,
        dtype=owner.dtype,
        device=owner.device,
        context=owner.context,
        threads=owner.threads,
        slots=wanted.slots,
        options=owner.options,
        may_be_away=owner.on_failure == "degrade",
        alone=wanted.alone,
        adapters=tuple(dict.fromkeys(wanted.adapters.values())),
    )
    loader = make_loader(backend, request)
    report(owner.name, 0.0, "reading the vocabulary")
    tokenizer, facts = loader.tokenizer(), loader.facts()
    return Model(
        owner=owner,
        backend=backend,
        source=source,
        loader=loader,
        tokenizer=within_rows(tokenizer, facts.usable_rows),
        facts=facts,
        remote_tokenizer=tokenizer if isinstance(tokenizer, RemoteTokenizer) else None,
    )
