"""Loads a member into a Ray actor, and makes a backend of that."""

from __future__ import annotations

from functools import cached_property

from unisono import errors
from unisono.backends.base import LoadRequest, ModelFacts, Progress
from unisono.backends.endpoint.adapter import Description
from unisono.backends.endpoint.backend import EndpointBackend
from unisono.backends.endpoint.report import EndpointReport, report_of
from unisono.backends.endpoint.worker import WorkerAdapter
from unisono.config.ray import RaySource
from unisono.errors import MemberUnavailable, ModelError, SpecError, UnisonoError
from unisono.ray.actor import Loading
from unisono.ray.caller import ActorCaller, ActorSteps
from unisono.vocab.tokenizer import Tokenizer


class RayBackend(EndpointBackend):
    """A model in an actor, which ends with it."""

    def __init__(self, caller: ActorCaller, adapter: WorkerAdapter, told: Description, slots: int) -> None:
        super().__init__(caller, adapter, told, context=told.context, slots=slots)
        self._caller = caller

    def unload(self, *, says_so: bool = True) -> None:
        super().unload(says_so=says_so)
        self._caller.end()


class RayLoader:
    """Starts the actor when the vocabulary is wanted; the actor loads the weights at once."""

    def __init__(self, request: LoadRequest) -> None:
        source = request.source
        if not isinstance(source, RaySource):
            raise SpecError(f"member {request.name!r}: no actor loads {source.kind}", hint="give it the key ray")
        spec = source.spec
        loading = Loading(
            spec.name or request.name, source.member, source.folder, spec.slots or request.slots, spec.name is not None
        )
        self._request = request
        self._caller = ActorCaller(request.name, source, loading)
        self._adapter = WorkerAdapter(self._caller, source.top, ActorSteps(self._caller))

    def tokenizer(self) -> Tokenizer:
        tokenizer = self.description.tokenizer
        assert tokenizer is not None  # a worker gives its own
        return tokenizer

    def facts(self) -> ModelFacts:
        told = self.description
        return told.facts(self._caller.address, "the actor's", told.context)

    def load(self, progress: Progress) -> RayBackend:
        progress(0.0, f"asking {self._caller.address}")
        told = self.description
        self._await_loaded()
        if self._caller.run(self._adapter.describe()).model != told.model:
            raise self._caller.failed("it has another model now than when its vocabulary was read", refused=True)
        progress(1.0, told.engine)
        return RayBackend(self._caller, self._adapter, told, self._request.slots)

    def report(self) -> EndpointReport:
        """What the actor can do, and how long it takes: for `doctor`."""
        told = self.description
        backend = EndpointBackend(self._caller, self._adapter, told, context=told.context, slots=1)
        report = report_of(self._caller.address, told, backend)
        backend.unload()
        return report

    @cached_property
    def description(self) -> Description:
        """What the actor says of its member, which it has loaded by then."""
        self._await_loaded()
        return self._caller.run(self._adapter.describe())

    def _await_loaded(self) -> None:
        """Start the actor, unless it is there, and wait for its model. Raises a `UnisonoError`."""
        fault = self._caller.loaded()
        if fault is None:
            return
        kind = getattr(errors, fault.kind, ModelError)
        if not issubclass(kind, UnisonoError) or issubclass(kind, MemberUnavailable):
            kind = ModelError
        self._caller.end()
        raise kind(f"in its Ray actor: {fault.message}", hint=fault.hint)
