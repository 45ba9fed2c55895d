"""The HTTP routes. Bodies are read here, within the limits, so that every refusal has OpenAI's format."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from unisono.engine.service import Service
from unisono.engine.trace import about
from unisono.page.files import HEADERS, START, page_files
from unisono.server import gac
from unisono.server.answer import Answer
from unisono.server.answer_schemas import ModelList, ServedModel
from unisono.server.api_call import ApiCall
from unisono.server.async_engine import AsyncEngine
from unisono.server.body import as_deployed, read_body, read_record, spread, with_model
from unisono.server.chat_answers import ChatResponse, CompletionResponse
from unisono.server.errors import Refusal, refusal_of_status
from unisono.server.event_stream import SLACK, EventStream, events_of
from unisono.server.field_tables import OF_CHATS, OF_COMPLETIONS, OF_RESPONSES
from unisono.server.fields import Field, check_reasoning, check_sampling
from unisono.server.limits import ServerLimits
from unisono.server.middleware import DEPLOYMENT, LOG, Keys, Middleware, RequestLog, read_origins
from unisono.server.openapi import document
from unisono.server.readiness import DEGRADED, State, degraded, missed
from unisono.server.replies import json_answer, unless_left
from unisono.server.request_handle import RequestHandle
from unisono.server.requests import engine_of, read_chat, read_completion
from unisono.server.responses_api.answers import ResponseAnswer
from unisono.server.responses_api.requests import read_response
from unisono.server.responses_api.routes import ResponseRoutes
from unisono.server.responses_api.schemas import ResponseRequest
from unisono.server.schemas import ChatRequest, CompletionRequest, GenerationFields
from unisono.server.telemetry import CONTENT_TYPE, cut, say, where
from unisono.server.token_routes import TokenRoutes
from unisono.server.web import ClientDisconnect, CORSMiddleware, FastAPI, Request, Response

CLAMPED = "x-unisono-clamped"
"""The header that says which limit was too high, and what it became."""
LEFT_OUT = "x-unisono-left-out"
"""The header that lists the types of tools that members are not offered."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """What differs between the endpoints that generate text."""

    record: type[GenerationFields]
    fields: Mapping[str, Field]
    read: Callable[[Any, Service, ServerLimits], ApiCall]
    answer: Callable[[ApiCall], Answer]


ENDPOINTS = {
    "/v1/chat/completions": _Endpoint(ChatRequest, OF_CHATS, read_chat, ChatResponse),
    "/v1/completions": _Endpoint(CompletionRequest, OF_COMPLETIONS, read_completion, CompletionResponse),
}
RESPONSES = "/v1/responses"


def make_app(
    engine: AsyncEngine,
    keys: Keys | None = None,
    *,
    local: bool = False,
    log_prompts: bool = False,
    gac_model: str | None = None,
    origins: Sequence[str] = (),
) -> Middleware | CORSMiddleware:
    """Make the ASGI app of an engine. The app starts the engine; the caller closes it.

    Without ``keys``, everybody may use it; ``local`` serves only host names of this machine, see `Middleware`. Without
    ``gac_model``, the endpoints of the GaC release are left out. Browsers may call it from pages of ``origins``.

    Raises:
        SpecError: what is given as an origin is none.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    for kind in (Refusal, ClientDisconnect, 404, 405, Exception):
        app.add_exception_handler(kind, _refuse)
    routes = _Routes(engine, log_prompts, gac_model, has_keys=keys is not None)
    for method, path, route in routes.table():
        # The name is the route's label in logs and metrics.
        name = gac.GENERATE if path.startswith("/api") else path.replace(":path", "")
        methods = [method, *(["HEAD"] if method == "GET" else [])]
        for each in {path.removesuffix("/") or "/", path.removesuffix("/") + "/"}:
            app.add_api_route(each, route, methods=methods, name=name, response_model=None)
    guarded = Middleware(app, engine.metrics, keys, local=local)
    if not (allowed := read_origins(origins)):
        return guarded
    # Around all, because a browser's preflight has no key, and pages may read refusals too.
    return CORSMiddleware(
        guarded,
        allow_origins=allowed,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        allow_private_network=True,  # a browser asks for it where this server is in a private network
        expose_headers=("x-request-id", CLAMPED, LEFT_OUT, DEGRADED, "retry-after"),
    )


class _Routes:
    def __init__(self, engine: AsyncEngine, log_prompts: bool, gac_model: str | None, *, has_keys: bool) -> None:
        self._engine = engine
        self._log_prompts = log_prompts
        self._gac_model = gac_model
        self._stored = ResponseRoutes(engine.limits.responses, has_keys=has_keys)
        self._created = int(time.time())
        self._documents: dict[tuple[str, ...], str] = {}
        """The OpenAPI document, by the models that there are: none while they load."""

    def table(self) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            *(("POST", path, self.generate) for path in (*ENDPOINTS, RESPONSES)),
            *self._stored.table(),
            *TokenRoutes(self._engine).table(),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{model:path}", self.model),
            ("GET", "/", self.page),
            ("GET", "/page/{name}", self.page),
            ("GET", "/health", self.health),
            ("GET", "/ready", self.ready),
            ("GET", "/metrics", self.metrics),
            ("GET", "/openapi.json", self.openapi),
        ]
        if self._gac_model is not None:
            table += [
                ("GET", gac.STATUS, self.gac_status),
                ("POST", gac.GENERATE, self.gac_generate),
            ]
        return table

    async def generate(self, request: Request) -> Response:
        """Read a request, queue it, and answer it whole or as a stream."""
        engine, log = self._engine, request.scope[LOG]
        endpoint = ENDPOINTS.get(request.scope["route"].path.rstrip("/")) or self._responses(request)
        with contextlib.ExitStack() as left:
            handle = left.enter_context(engine.call())
            body = await read_body(request.headers, request.stream(), engine.limits)
            body = as_deployed(body, request.scope[DEPLOYMENT], engine.service.models)
            body = body if engine.limits.strict else with_model(spread(body), engine.service.models)
            wanted = read_record(endpoint.record, body, endpoint.fields, strict=engine.limits.strict)
            log.facts |= {"stream": bool(wanted.stream), "user": cut(wanted.user)}
            log.facts["safety_identifier"] = cut(wanted.safety_identifier)
            if self._log_prompts:
                log.facts["prompt"] = next(filter(None, map(body.get, ("messages", "prompt", "input"))), None)
            call = endpoint.read(wanted, engine.service, engine.limits)
            if (method := call.first.method) is not None:
                check_sampling(body, endpoint.fields, method.sampling)
            if engine.service.engines[wanted.model].union.marks:
                check_reasoning(body, endpoint.fields)
            answer = endpoint.answer(call)
            told = {CLAMPED: call.clamped, LEFT_OUT: ", ".join(call.left_out)}
            headers = {name: words for name, words in told.items() if words}
            log.model = wanted.model
            left.callback(self._note, log, handle, answer)
            bodies = answer.bodies(engine, handle)
            # Headers wait for the first chunk, so early failures keep a proper status.
            first = await unless_left(request, anext(bodies))
            if not wanted.stream:
                return json_answer(first, headers=headers | degraded(handle.ended.values()))
            timeout = engine.limits.timeout + SLACK
            return EventStream(events_of(first, bodies, answer, log), left.pop_all(), timeout, headers)
        raise AssertionError("unreachable")

    def _responses(self, request: Request) -> _Endpoint:
        """The endpoint of the Responses API, as one client has it."""
        store, owner = self._stored.store, self._stored.owner(request)
        read = partial(read_response, store=store, owner=owner)
        return _Endpoint(ResponseRequest, OF_RESPONSES, read, partial(ResponseAnswer, store=store))

    def _note(self, log: RequestLog, handle: RequestHandle, answer: Answer) -> None:
        if handle.first_piece is not None:
            log.facts["first_piece_seconds"] = round(handle.first_piece, 4)
        if ended := [generation for _, generation in sorted(handle.ended.items())]:
            usage = answer.usage(handle.ended)
            log.facts |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
            if uncertain := sum(generation.usage.uncertain or 0 for generation in ended):
                log.facts["uncertain"] = uncertain
            if without := missed(ended):
                log.facts["degraded"] = without
            log.facts["finish"] = [generation.finish_reason for generation in ended]
            if self._log_prompts:
                log.facts["text"] = [generation.text for generation in ended]
                if any(reasoning := [generation.reasoning for generation in ended]):
                    log.facts["reasoning"] = reasoning

    async def models(self, request: Request) -> Response:
        found = [self._model(name) for name in self._engine.service.models]
        return json_answer(ModelList(data=found).model_dump_json(exclude_unset=False))

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        name = request.path_params["model"].rstrip("/")
        engine_of(self._engine.service, name)
        return json_answer(self._model(name).model_dump_json(exclude_none=True))

    def _model(self, name: str) -> ServedModel:
        engine = self._engine.service.engines[name]
        about_it = about(engine.plan, engine.members)
        return ServedModel(id=name, created=self._created, object="model", owned_by="unisono", unisono=about_it)

    async def health(self, request: Request) -> Response:
        """Whether the process works: it also does while models load."""
        broken = self._engine.state == "broken"
        return _state(State(status="broken" if broken else "ok", reason=self._engine.reason if broken else None))

    async def ready(self, request: Request) -> Response:
        return _state(self._engine.readiness)

    async def metrics(self, request: Request) -> Response:
        return Response(self._engine.metrics.page(), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        models = self._engine.models
        if (text := self._documents.get(models)) is None:
            made = document(models, gac=self._gac_model is not None, strict=self._engine.limits.strict)
            text = self._documents[models] = json.dumps(made)
        return json_answer(text)

    async def page(self, request: Request) -> Response:
        """The page, and the files that it needs. They hold no secrets: a key is asked for by the page."""
        if (file := page_files().get(request.path_params.get("name", START).rstrip("/"))) is None:
            raise refusal_of_status(404, request.method, request.scope["path"], ())
        return Response(file.content, 200, HEADERS, file.kind)

    async def gac_status(self, request: Request) -> Response:
        ready = self._engine.reason is None
        return json_answer(json.dumps({"status": "ready" if ready else "loading"}), 200 if ready else 503)

    async def gac_generate(self, request: Request) -> Response:
        """Answer conversations, for clients of GaC; all at once, and the first that fails ends the others."""
        engine, log, model = self._engine, request.scope[LOG], self._gac_model
        assert model is not None
        try:
            with engine.call() as handle:
                body = await read_body(request.headers, request.stream(), engine.limits)
                requests = gac.requests_of(body, model, engine.limits)
                log.model = model
                await unless_left(request, engine.begin(handle, requests))
                await unless_left(request, handle.finish())
                texts = [generation.text for _, generation in sorted(handle.ended.items())]
            return json_answer(json.dumps({"response": texts}))
        except Refusal as refusal:
            log.facts["error"] = refusal.code
            status = 422 if refusal.status == 400 else refusal.status
            return json_answer(json.dumps({"detail": refusal.message}), status, refusal.headers)
        except gac.Invalid as invalid:
            return json_answer(json.dumps({"detail": invalid.detail}), 422)


def _state(state: State) -> Response:
    return json_answer(state.model_dump_json(exclude_none=True), 200 if state.reason is None else 503)


async def _refuse(request: Request, error: Any) -> Response:
    log, refusal, its = request.scope[LOG], error, getattr(error, "headers", None) or {}
    if not isinstance(error, Refusal):
        status = 499 if isinstance(error, ClientDisconnect) else getattr(error, "status_code", 500)
        taken = its.get("Allow", "").replace(" ", "").split(",")
        refusal = refusal_of_status(status, request.method, request.scope["path"], filter(None, taken))
        if status == 500:
            say("internal", level=40, id=log.id, error=where(error))
    # A field that may be unknown is not logged: its name is the client's text.
    known = refusal.param is not None and refusal.code not in ("unknown_field", "too_large")
    log.facts |= {"error": refusal.code, "param": re.split(r"[.\[]", str(refusal.param))[0] if known else None}
    headers = {**refusal.headers, **its}
    if refusal.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not read
    return json_answer(refusal.body(), refusal.status, headers)
