"""Ensembles whose weights are not loaded: models found, vocabularies and templates read, the union built."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unisono.chat.call_form import CallForm
from unisono.chat.messages import Message, Prompt
from unisono.config.combine import Combine
from unisono.config.constraint import Constraint
from unisono.config.ensemble import EnsembleSpec
from unisono.config.method import Method
from unisono.config.ray import grouped
from unisono.config.speculation import AUTO, NGRAM
from unisono.config.whole_distributions import check_method
from unisono.constraints.grammar import Grammars
from unisono.engine.encoding import check_length
from unisono.errors import SpecError, nearest, shown
from unisono.fusion.weights import scaled
from unisono.garbage_collection import garbage_collection_paused
from unisono.identity import check_fitted
from unisono.member_template import TemplateReading
from unisono.members import (
    Model,
    PreparedMember,
    Report,
    check_reshaped,
    join_member,
    silent,
)
from unisono.vocab.union import UnionMember, UnionVocabulary, build_union
from unisono.wanted_models import Wanted, find_models, read_model


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An ensemble whose weights are not loaded."""

    spec: EnsembleSpec
    members: list[PreparedMember]
    union: UnionVocabulary
    grammars: Grammars

    @property
    def weights(self) -> dict[str, float]:
        """The shares of the members by their names, in order."""
        return {member.spec.name: member.weight for member in self.members}

    def check_constraint(self, constraint: object) -> None:
        if (given := Constraint.parse(constraint)) is not None:
            self.grammars(given)

    def check_prompt(self, prompt: Prompt) -> None:
        off = self.spec.method.reasoning.off
        for member in self.members:
            check_length(member.spec.name, member.encoder.check(prompt, off=off), member.facts.context)

    def prompt(self, text: str) -> Prompt:
        """A prompt of some text that all members can read: raw, or a message where one has a system message."""
        if all(member.spec.system is None for member in self.members):
            return Prompt(text=text)
        return Prompt(messages=(Message(role="user", content=text),))

    def alone(self, name: str) -> Prepared:
        """One of the members by itself, on the same model. It keeps the ensemble's sampling and n-gram drafts."""
        member = next(member for member in self.members if member.spec.name == name)
        spec = self.spec.written_by(_method_alone(self.spec.method), [member.spec])
        union = _union_of([member])
        return Prepared(spec, [replace(member, weight=1.0)], union, Grammars(union))

    def call_form(self, lead: str | None = None) -> CallForm:
        """How this ensemble writes tool calls: as the lead does. The other members read them as text.

        Raises:
            PromptError: the lead writes no calls, or none that members share; see `PromptEncoder.call_form`.
            SpecError: there is no such member that votes.
        """
        encoders = {member.spec.name: member.encoder for member in self.members}
        name = lead or self.spec.method.lead_among(self.weights)
        if name not in encoders:
            raise SpecError(
                f"the lead {shown(name)} is not a member that votes{nearest(name, encoders)}",
                hint=f"choose one of {', '.join(encoders)}",
            )
        return encoders[name].call_form()

    def weighted(self, weights: Mapping[str, float]) -> Prepared:
        """The same members with other weights, by name; members without one keep theirs."""
        named = {member.name: weights.get(member.name, member.weight) for member in self.spec.members}
        members = [member.model_copy(update={"weight": named[member.name]}) for member in self.spec.members]
        shares = scaled([named[member.spec.name] for member in self.members])
        return replace(
            self,
            spec=self.spec.model_copy(update={"members": members}),
            members=[replace(member, weight=share) for member, share in zip(self.members, shares, strict=True)],
        )

    def reshaped(self, keys: Mapping[str, Mapping[str, Any]]) -> Prepared:
        """The same members with other weights, temperatures and calibrations, by name; others are as they were."""
        given = {member.name: member.model_copy(update=dict(keys.get(member.name, {}))) for member in self.spec.members}
        members = [replace(member, spec=given[member.spec.name]) for member in self.members]
        spec = self.spec.model_copy(update={"members": list(given.values())})
        check_reshaped(members, self.union)
        return replace(self, spec=spec, members=members).weighted({name: its.weight for name, its in given.items()})

    def ruled(self, rule: str) -> Prepared:
        """The same with another combine rule, if it has another one."""
        if rule == self.spec.combine.rule:
            return self
        return replace(self, spec=self.spec.model_copy(update={"combine": Combine(rule)}))

    def led(self, lead: str) -> Prepared:
        """The same with another lead."""
        return replace(self, spec=self.spec.model_copy(update={"lead": lead}))


def _method_alone(method: Method) -> Method:
    looks_up = method.speculate is not None and method.speculate.drafter in (NGRAM, AUTO)
    speculate = replace(method.speculate, drafter=NGRAM) if method.speculate is not None and looks_up else None
    sampling = replace(method.sampling, mixture=False, logit_bias={})  # numbers of columns are the ensemble's
    return Method(speculate=speculate, sampling=sampling)


def prepare(spec: EnsembleSpec, *, batch: int = 1, report: Report = silent) -> Prepared:
    """Find the models, read their vocabularies and templates, and build the union. No weights are loaded.

    ``batch`` is the most texts to write at once; a beam, of texts or of cuts, multiplies it by its width. Raises a
    `UnisonoError` that names the member.
    """
    [prepared] = prepare_several([spec], batch=batch, report=report)
    return prepared


@garbage_collection_paused()
def prepare_several(specs: Sequence[EnsembleSpec], *, batch: int = 1, report: Report = silent) -> list[Prepared]:
    """Prepare ensembles as `prepare` does; models that several of them run in the same way are loaded once."""
    if not isinstance(batch, int) or batch < 1:
        raise SpecError(f"the batch is {batch!r}: it must be a whole number, 1 or more")
    found = [find_models(spec, batch, report) for spec in specs]
    wanted: dict[Hashable, Wanted] = {}
    for each in itertools.chain.from_iterable(models.values() for models in found):
        first = wanted.get(each.key, each)
        adapters = dict(enumerate((*first.adapters.values(), *each.adapters.values())))
        wanted[each.key] = replace(
            first, slots=max(first.slots, each.slots), adapters={str(number): its for number, its in adapters.items()}
        )
    sources = grouped([each.source for each in wanted.values()])
    models, templates = dict[Hashable, Model](), dict[Hashable, dict[Hashable, TemplateReading]]()
    for (key, each), source in zip(wanted.items(), sources, strict=True):
        model = read_model(replace(each, source=source), report)
        elsewhere = source.kind in ("endpoint", "ray")
        models[key] = replace(model, templates=templates.setdefault(key if elsewhere else each.alike, {}))
    prepared = []
    for spec, its_models in zip(specs, found, strict=True):
        members = [
            join_member(member, weight, models[(its := its_models[member.owner]).key], its.adapters.get(member.name))
            for member, weight in spec.voters()
        ]
        lead = spec.method.lead_among({member.spec.name: member.weight for member in members})
        check_method(spec.method, [member.spec.name for member in members if member.facts.truncated], lead)
        report("the union", 0.0, "mapping the vocabularies")
        union = _union_of(members)
        report("the union", 1.0, f"{union.size:,} pieces")
        check_reshaped(members, union)
        if spec.fitted is not None:
            check_fitted(members, spec.fitted.models, whole=False)
        prepared.append(Prepared(spec, members, union, Grammars(union)))
    return prepared


def _union_of(members: Sequence[PreparedMember]) -> UnionVocabulary:
    by_seams = any(member.encoder.marks.seams for member in members)
    return build_union(
        [
            UnionMember(
                member.spec.name,
                member.speller,
                leading_space=member.leading_space,
                turns=member.encoder.seams.turns() if by_seams else {},
            )
            for member in members
        ]
    )
