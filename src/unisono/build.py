"""The composition root: from a spec to an engine. The only module that names concrete parts."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from unisono.backends.base import Backend, Elsewhere, Loader
from unisono.backends.prefix_cache import PrefixCache
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
from unisono.engine.circuit_breaker import CircuitBreaker
from unisono.engine.encoding import check_length
from unisono.engine.engine import Engine, close_engines
from unisono.engine.member import Member
from unisono.engine.service import Service
from unisono.errors import SpecError, nearest, shown
from unisono.fusion.weights import scaled
from unisono.garbage_collection import garbage_collection_paused
from unisono.identity import check_fitted
from unisono.loading import load_weights, seen_by
from unisono.member_template import TemplateReading
from unisono.member_words import words_deaf, words_endless, words_uncased
from unisono.members import (
    Model,
    PreparedMember,
    Report,
    Wanted,
    calibration_of,
    check_reshaped,
    columns_of_answers,
    expect_pieces,
    find_models,
    join_member,
    read_model,
    silent,
)
from unisono.vocab.union import UnionMember, UnionVocabulary, build_union

log = logging.getLogger(__name__)


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

    def load(
        self,
        report: Report = silent,
        *,
        longest_block: int | None = None,
        keep_prefixes: bool = False,
        diagnosed: bool = False,
    ) -> Engine:
        """Load all weights, each once, and return the engine; see `load_models` and `Engine`."""
        models = load_models([self], report, keep_prefixes=keep_prefixes, diagnosed=diagnosed)
        return models.engine(self, longest_block=longest_block)

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


class Models:
    """Loaded models, and the engines that share them."""

    def __init__(self, backends: Mapping[Loader, Backend], caches: Mapping[Loader, PrefixCache]) -> None:
        self._backends = {**backends, **caches}
        self._caches = caches
        self._breakers = {loader: CircuitBreaker() for loader in backends}
        for loader, breaker in self._breakers.items():
            if isinstance(loader, Elsewhere) and loader.lost is not None:
                breaker.failed(loader.lost.member, loader.lost)
        self._engines: list[Engine] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.unload()

    def engine(self, prepared: Prepared, *, longest_block: int | None = None) -> Engine:
        """An engine over the loaded models. It is cheap; closing it unloads the models of all engines.

        Raises a `SpecError` where the method does not fit the members; the models stay loaded.
        """
        columns = columns_of_answers([member.spec for member in prepared.members], prepared.union)
        members = [
            Member(
                member.spec.name,
                member.weight,
                seen_by(member, self._backends[member.loader]),
                member.encoder,
                member.speller,
                its_map,
                prefixes=None if (cache := self._caches.get(member.loader)) is None else seen_by(member, cache),
                breaker=self._breakers[member.loader],
                degrades=member.spec.on_failure == "degrade",
                tokenizer_elsewhere=member.remote_tokenizer is not None,
                temperature=member.spec.temperature,
                calibration=calibration_of(member.spec, columns),
            )
            for member, its_map in zip(prepared.members, prepared.union.maps, strict=True)
        ]
        method, grammars = prepared.spec.method, prepared.grammars
        engine = Engine(members, prepared.union, method, longest_block=longest_block, compile_grammar=grammars)
        self._engines.append(engine)
        return engine

    def forget_prefixes(self) -> None:
        for cache in self._caches.values():
            cache.limit(0)

    def unload(self) -> None:
        """Free all models. Idempotent."""
        with contextlib.ExitStack() as unloading:
            for backend in self._backends.values():
                unloading.callback(backend.unload)
            unloading.callback(close_engines, self._engines)


def load_models(
    ensembles: Iterable[Prepared], report: Report = silent, *, keep_prefixes: bool = False, diagnosed: bool = False
) -> Models:
    """Load the weights of ensembles, each once; all are freed when one fails.

    ``keep_prefixes`` keeps what ended texts have read for prompts that begin alike (`PrefixCache`). ``diagnosed`` logs
    no warning that `diagnosis.diagnose` has, too.
    """
    ensembles = list(ensembles)
    members = list(itertools.chain.from_iterable(prepared.members for prepared in ensembles))
    backends, caches = load_weights(members, report, keep_prefixes=keep_prefixes, diagnosed=diagnosed)
    for prepared in ensembles:
        for member, its_map in zip(prepared.members, prepared.union.maps, strict=True):
            expect_pieces(member, its_map, prepared.union)
    if not diagnosed:
        for words in dict.fromkeys(itertools.chain.from_iterable(map(_reading_warnings, members))):
            log.warning("%s", words)
    return Models(backends, caches)


def _reading_warnings(member: PreparedMember) -> Iterator[str]:
    yield from (f"the adapter of member {member.spec.name!r} {words}" for words in member.adapter_doubts)
    yield from (f"member {member.spec.name!r} {words}" for words in member.odd_ends)
    yield from (f"the chat template of member {member.spec.name!r} {words}" for words in member.template_faults)
    if member.deaf:
        yield words_deaf(f"member {member.spec.name!r}")
    if not member.endings:
        yield words_endless(f"member {member.spec.name!r}")
    if member.uncased:
        yield words_uncased(member.spec.name)


def load_service(
    ensembles: Mapping[str, Prepared],
    *,
    alone: bool = True,
    queue: int = 256,
    chunk: int = 256,
    report: Report = silent,
) -> Service:
    """Load ensembles, best of `prepare_several`, that serve concurrent requests under their names.

    ``alone`` lets each member answer by itself too, as ``ensemble/member``; ``queue`` requests may wait for a slot, and
    ``chunk`` prompt ids at most are read between two steps.
    """
    served = dict(ensembles)
    if alone:
        for name, prepared in ensembles.items():
            served |= {f"{name}/{member.spec.name}": prepared.alone(member.spec.name) for member in prepared.members}
    for prepared in ensembles.values():
        prepared.grammars.get_ready()
    models = load_models(ensembles.values(), report, keep_prefixes=True)
    engines = {name: models.engine(prepared, longest_block=chunk) for name, prepared in served.items()}
    return Service(engines, queue=queue, chunk=chunk)


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
