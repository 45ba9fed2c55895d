"""Loaded models, and what runs on them: engines that share them, a service of several ensembles."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from unisono.backends.base import Backend, Elsewhere, Loader
from unisono.backends.prefix_cache import PrefixCache
from unisono.build import Prepared
from unisono.engine.circuit_breaker import CircuitBreaker
from unisono.engine.engine import Engine, close_engines
from unisono.engine.member import Member
from unisono.engine.service import Service
from unisono.loading import load_weights, seen_by
from unisono.member_warnings import words_deaf, words_endless, words_taken_away, words_uncased
from unisono.members import (
    PreparedMember,
    Report,
    calibration_of,
    columns_of_answers,
    expect_pieces,
    silent,
)

log = logging.getLogger(__name__)


class LoadedModels:
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


def load_engine(
    prepared: Prepared,
    report: Report = silent,
    *,
    longest_block: int | None = None,
    keep_prefixes: bool = False,
    diagnosed: bool = False,
) -> Engine:
    """Load all weights of an ensemble, each once, and return the engine; see `load_models` and `Engine`."""
    models = load_models([prepared], report, keep_prefixes=keep_prefixes, diagnosed=diagnosed)
    return models.engine(prepared, longest_block=longest_block)


def load_models(
    ensembles: Iterable[Prepared], report: Report = silent, *, keep_prefixes: bool = False, diagnosed: bool = False
) -> LoadedModels:
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
    return LoadedModels(backends, caches)


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
    if member.taken_away:
        yield words_taken_away(member.spec.name, member.taken_away)


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
