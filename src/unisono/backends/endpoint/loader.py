"""Finds out which engine answers at an address, and makes a backend of it."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

from unisono.backends.base import LoadRequest, ModelFacts, Progress
from unisono.backends.endpoint.adapter import Adapter, Description
from unisono.backends.endpoint.backend import EndpointBackend
from unisono.backends.endpoint.caller import Unreached
from unisono.backends.endpoint.client import Client
from unisono.backends.endpoint.direct import Direct
from unisono.backends.endpoint.pending import PendingAdapter, assumed
from unisono.backends.endpoint.report import EndpointReport, report_of
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.registry import make_loader
from unisono.errors import MemberUnavailable, ModelError, ModelUnsupported, SpecError
from unisono.vocab.tokenizer import Tokenizer

log = logging.getLogger(__name__)

T = TypeVar("T")

WAIT, LOADING, PAUSE = 10.0, 600.0, 0.25
"""Seconds for which a start waits where nothing answers, and where a server answers 503, as one does that loads its
model; and between two looks."""


@dataclass(frozen=True, slots=True)
class _Engine:
    """An engine that can be recognised by what it answers at a path."""

    path: str
    sign: str
    """A key of that answer which no other engine has."""
    module: str
    adapter: str
    own_tokenizer: bool = False


_ENGINES = (
    _Engine("/v1/member", "unisono_member", "worker", "WorkerAdapter", own_tokenizer=True),
    _Engine("/props", "default_generation_settings", "llama_server", "LlamaServerAdapter"),
    _Engine("/model_info", "model_path", "sglang", "SGLangAdapter"),
    _Engine("/get_model_info", "model_path", "sglang", "SGLangAdapter"),
    _Engine("/v1/models", "data", "completions", "CompletionsAdapter"),
)
"""In the order of asking: more engines than one list models."""
DEFAULT_CONTEXT = 4096
"""Tokens a text where an engine does not say how many it takes."""


class EndpointLoader:
    def __init__(self, request: LoadRequest) -> None:
        source = request.source
        if not isinstance(source, EndpointSource):
            raise SpecError(
                f"member {request.name!r}: the backend endpoint reads no {source.kind}",
                hint="give the address of an engine as url, or choose another backend",
            )
        self._request = request
        self._source = source
        self._client = Client(request.name, source)
        self.lost: MemberUnavailable | None = None
        """Why the engine was not there when it was looked for, where the ensemble begins without it."""

    def tokenizer(self) -> Tokenizer:
        own = self.description.tokenizer
        return self._given if own is None else own

    def facts(self) -> ModelFacts:
        return self.description.facts(self._client.address, "the engine's", self._context)

    def load(self, progress: Progress) -> EndpointBackend:
        progress(0.0, f"asking {self._client.address}")
        told = self.description
        if self.lost is None and self._described().model != told.model:
            raise self._client.failed("it serves another model now than when its vocabulary was read", refused=True)
        progress(1.0, told.engine)
        return self._backend(self._request.slots)

    def report(self) -> EndpointReport:
        """What the endpoint can do, and how long it takes: for `doctor`."""
        backend = self._backend(slots=1)
        report = report_of(self._client.address, self.description, backend)
        backend.unload()
        return report

    def _backend(self, slots: int) -> EndpointBackend:
        told, warnings = self.description, list[str]()
        if slots > told.slots:
            warnings.append(
                f"{self._client.address} holds {told.slots} texts at once, and up to {slots} are written: it reads "
                "texts again when they take turns; start it with more, or write fewer at once"
            )
        adapter: Adapter = self._adapter if self.lost is None else self._pending(told)
        return EndpointBackend(
            self._client, adapter, told, context=self._context, slots=slots, warnings=tuple(warnings)
        )

    @cached_property
    def description(self) -> Description:
        """What the endpoint says of itself; what is assumed of it, where it may be away and is."""
        try:
            return self._patiently(self._described)
        except Unreached as error:
            if not self._request.may_be_away:
                raise
            if self._source.tokenizer is None:
                raise self._client.failed(
                    f"{error.reason}; no ensemble can begin without its vocabulary: start it first, let it be waited "
                    "for longer (wait: 120), or, if it is no `unisono member serve`, name its tokenizer"
                ) from error
            self.lost = error
            return assumed(self._source, self._given, self._request.slots, self._request.context)

    def _described(self) -> Description:
        try:
            return self._client.run(self._adapter.describe())
        except (MemberUnavailable, ModelUnsupported):
            raise
        except ModelError as error:  # what it tells is no distribution
            raise self._client.failed(error.message) from error

    def _patiently(self, look: Callable[[], T]) -> T:
        """Look until something answers, for a while; raises the `Unreached` of the last look."""
        began, said = time.monotonic(), False
        silent = WAIT if self._source.wait is None else self._source.wait
        while True:
            try:
                return look()
            except Unreached as error:
                most = silent if error.status != 503 or not silent else max(silent, LOADING)
                if time.monotonic() - began >= most:
                    raise
                if not said:
                    log.warning("%s; waiting for it, for %g s at most", error.message, most)
                said = True
            time.sleep(PAUSE)

    def _pending(self, told: Description) -> PendingAdapter:
        async def find() -> Adapter:
            return self._adapter_of(await self._recognise())

        return PendingAdapter(self._client, find, told, self._context)

    @property
    def _context(self) -> int:
        asked, own = self._request.context, self.description.context
        if own == 0:  # it does not say
            return asked or DEFAULT_CONTEXT
        if asked is not None and asked > own:
            raise SpecError(
                f"member {self._request.name!r}: context is {asked}, but {self._client.address} holds {own} tokens a "
                "text",
                hint=f"set context to {own} or less, or start the engine with more",
            )
        return asked or own

    @cached_property
    def _adapter(self) -> Adapter:
        return self._adapter_of(self._client.run(self._recognise()))

    def _adapter_of(self, engine: _Engine) -> Adapter:
        adapter: Any = getattr(importlib.import_module(f"unisono.backends.endpoint.{engine.module}"), engine.adapter)
        if not engine.own_tokenizer:
            return cast(Adapter, adapter(self._client, self._source, self._given))
        if self._source.tokenizer is not None:
            raise SpecError(
                f"member {self._request.name!r} names a tokenizer, but {self._client.address} gives its own",
                hint="leave the key tokenizer out",
            )
        direct = Direct(self._client.address, self._client.authorization)
        return cast(Adapter, adapter(self._client, self._source.top, direct))

    async def _recognise(self) -> _Engine:
        for engine in _ENGINES:
            told = await self._client.probe(engine.path)
            if isinstance(told, dict) and engine.sign in told:
                return engine
        await self._client.request("GET", _ENGINES[-1].path, accepted=(200, 400, 404, 405, 410, 501))  # says why not
        raise self._client.failed(
            "no engine that a member can live in was recognised there: neither `unisono member serve`, nor "
            "llama-server, SGLang or an OpenAI-compatible server"
        )

    @cached_property
    def _given(self) -> Tokenizer:
        """The tokenizer that the member names, read by a local backend."""
        name, source = self._request.name, self._source
        if source.tokenizer is None:
            raise SpecError(
                f"member {name!r} lacks the key 'tokenizer': the engine at {self._client.address} gives no tokenizer",
                hint="name what it serves as a hub id, a folder or a GGUF file; no weights are read",
            )
        return make_loader(source.tokenizer_backend, LoadRequest(name, source.tokenizer)).tokenizer()
