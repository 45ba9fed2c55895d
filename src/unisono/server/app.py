"""The routes. A body is read here, within its bounds, so that every refusal has OpenAI's form."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from unisono.server.async_engine import AsyncEngine
from unisono.server.errors import Refusal, refusal_of
from unisono.server.gac import add_gac_routes
from unisono.server.limits import read_body
from unisono.server.logs import say, where
from unisono.server.metrics import CONTENT_TYPE
from unisono.server.middleware import ACCOUNT, Keys, Middleware, RequestLog
from unisono.server.openapi import document
from unisono.server.request_handle import RequestHandle
from unisono.server.requests import ApiCall, engine_of, pieces_of, read_chat, read_completion
from unisono.server.responses.answer import Answer, answer_call
from unisono.server.responses.chat import ChatResponse
from unisono.server.responses.completion import CompletionResponse
from unisono.server.routing import (
    FastAPI,
    Request,
    Response,
    StreamingResponse,
    account_of,
    accounted,
    body_of,
    unless_left,
)
from unisono.server.schemas import (
    ChatRequest,
    CompletionRequest,
    GenerationFields,
    Model,
    ModelList,
    PiecesRequest,
    State,
)
from unisono.server.unsupported import REFUSED_IN_CHATS, REFUSED_IN_COMPLETIONS, UnsupportedField, read_record

SLACK = 30.0
"""Seconds, beyond those of a request, in which its client has to take what is sent."""


class EventStream(StreamingResponse):
    """Server-sent events. When the client leaves, or takes nothing any more, the work ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], left: contextlib.ExitStack, timeout: float) -> None:
        super().__init__(events, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._events = events
        self._left = left
        self._timeout = timeout

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send them."""
        with self._left:
            try:
                async with asyncio.timeout(self._timeout):
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                say("stalled", level=30, id=scope[ACCOUNT].id)  # it takes nothing: the connection is closed
            finally:
                await self._events.aclose()


def make_app(
    engine: AsyncEngine,
    keys: Keys | None = None,
    *,
    local: bool = False,
    log_prompts: bool = False,
    gac_model: str | None = None,
) -> Middleware:
    """Make the ASGI app around a engine, which it starts and leaves for its owner to close.

    Args:
        engine: to the service.
        keys: that open it; ``None`` for everybody.
        local: whether it may only be asked for by the names of this machine, see `Middleware`.
        log_prompts: whether what is asked and answered goes to the log.
        gac_model: which model answers the endpoints of the GaC release; ``None`` for no such endpoints.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _refuse_like_openai(app)
    _Routes(engine, log_prompts, gac=gac_model is not None).add_to(app)
    if gac_model is not None:
        add_gac_routes(app, engine, gac_model)
    return Middleware(app, engine.metrics, keys, local=local)


class _Routes:
    """What is served where."""

    def __init__(self, engine: AsyncEngine, log_prompts: bool, *, gac: bool) -> None:
        self._engine = engine
        self._log_prompts = log_prompts
        self._gac = gac
        self._created = int(time.time())

    def add_to(self, app: FastAPI) -> None:
        routes: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
            ("POST", "/v1/chat/completions"): self.chat,
            ("POST", "/v1/completions"): self.complete,
            ("POST", "/v1/pieces"): self.pieces,
            ("GET", "/v1/models"): self.models,
            ("GET", "/v1/models/{model:path}"): self.model,
            ("GET", "/health"): self.health,
            ("HEAD", "/health"): self.health,
            ("GET", "/ready"): self.ready,
            ("HEAD", "/ready"): self.ready,
            ("GET", "/metrics"): self.metrics,
            ("GET", "/openapi.json"): self.openapi,
        }
        for (method, path), route in routes.items():
            app.add_api_route(path, accounted(path, route), methods=[method], response_model=None)

    async def chat(self, request: Request) -> Response:
        return await self._generate(request, ChatRequest, REFUSED_IN_CHATS, self._read_chat, ChatResponse)

    async def complete(self, request: Request) -> Response:
        return await self._generate(
            request, CompletionRequest, REFUSED_IN_COMPLETIONS, self._read_completion, CompletionResponse
        )

    def _read_chat(self, record: Any) -> ApiCall:
        return read_chat(record, self._engine.service, self._engine.limits)

    def _read_completion(self, record: Any) -> ApiCall:
        return read_completion(record, self._engine.service, self._engine.limits)

    async def _generate(
        self,
        request: Request,
        record: type[GenerationFields],
        refused: Mapping[str, UnsupportedField],
        read: Callable[[Any], ApiCall],
        make: Callable[[ApiCall], Answer],
    ) -> Response:
        """Read a request, put it in line, and answer it whole or bit by bit."""
        limits, account = self._engine.limits, account_of(request)
        with contextlib.ExitStack() as left:
            handle = left.enter_context(self._engine.call())
            body = await read_body(request.headers, body_of(request), limits)
            wanted = read_record(record, body, refused)
            self._note(account, wanted, body)
            call = read(wanted)
            account.model = call.model
            answer = make(call)
            chunks = answer_call(handle, answer)
            # Headers wait for the first chunk, so early failures keep a proper status.
            first = await unless_left(request, anext(chunks))
            if not call.stream:
                self._conclude(account, handle, answer)
                return Response(first, media_type="application/json")
            events = self._events(first, chunks, account, handle, answer)
            return EventStream(events, left.pop_all(), limits.timeout + SLACK)
        raise AssertionError("unreachable")

    async def _events(
        self, first: bytes, chunks: AsyncIterator[bytes], account: RequestLog, handle: RequestHandle, answer: Answer
    ) -> AsyncGenerator[bytes, None]:
        """The chunks as server-sent events; what fails now comes as one more, and is the last."""
        try:
            yield b"data: %b\n\n" % first
            async for chunk in chunks:
                yield b"data: %b\n\n" % chunk
            yield b"data: [DONE]\n\n"
        except Exception as error:
            if not isinstance(error, Refusal):
                say("internal", level=40, id=account.id, error=where(error))
            refusal = refusal_of(error)
            account.facts |= {"error": refusal.code, "error_status": refusal.status}
            yield b"data: %b\n\n" % refusal.body()
        except (asyncio.CancelledError, GeneratorExit):
            account.facts["left"] = True
            raise
        finally:
            self._conclude(account, handle, answer)

    def _note(self, account: RequestLog, wanted: GenerationFields, body: Mapping[str, Any]) -> None:
        account.facts["stream"] = bool(wanted.stream)
        for name in ("user", "safety_identifier"):
            if (value := getattr(wanted, name, None)) is not None:
                account.facts[name] = value
        if self._log_prompts:
            account.facts["prompt"] = body.get("messages", body.get("prompt"))

    def _conclude(self, account: RequestLog, handle: RequestHandle, answer: Answer) -> None:
        """Note what came of a call for the log."""
        ended = [generation for _, generation in answer.in_order]
        if handle.first_piece is not None:
            account.facts["first_piece_seconds"] = round(handle.first_piece, 4)
        if ended:
            usage = answer.usage
            account.facts |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
            account.facts["finish"] = [generation.finish_reason for generation in ended]
            if self._log_prompts:
                account.facts["text"] = [generation.text for generation in ended]

    async def pieces(self, request: Request) -> Response:
        with self._engine.call():  # it counts among those that are under way
            limits = self._engine.limits
            body = await read_body(request.headers, body_of(request), limits)
            wanted = read_record(PiecesRequest, body, {})
            its_engine = engine_of(self._engine.service, wanted.model)
            account_of(request).model = wanted.model
            limits.check_characters("text", len(wanted.text))
            found = await self._engine.read(lambda: pieces_of(wanted.text, wanted.model, its_engine))
            return _json(found.model_dump_json())

    async def models(self, request: Request) -> Response:
        found = [self._model(name) for name in self._engine.service.models]
        return _json(ModelList(data=found).model_dump_json(exclude_unset=False))

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        engine_of(self._engine.service, name)
        return _json(self._model(name).model_dump_json(exclude_none=True))

    def _model(self, name: str) -> Model:
        return Model(id=name, created=self._created, object="model", owned_by="unisono")

    async def health(self, request: Request) -> Response:
        broken = self._engine.state == "broken"
        state = State(status="broken", reason=self._engine.reason) if broken else State(status="ok")
        return _json(state.model_dump_json(exclude_none=True), 503 if broken else 200)

    async def ready(self, request: Request) -> Response:
        reason = self._engine.reason
        state = State(status="ready") if reason is None else State(status="not ready", reason=reason)
        return _json(state.model_dump_json(exclude_none=True), 200 if reason is None else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._engine.metrics.page(), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        return _json(json.dumps(document(self._engine.models, gac=self._gac)))


def _json(body: str, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _refuse_like_openai(app: FastAPI) -> None:
    """Give every error OpenAI's form."""

    async def refuse(request: Request, error: Any) -> Response:
        refusal = error if isinstance(error, Refusal) else _refusal_of_status(request, error)
        if not isinstance(error, Refusal) and not hasattr(error, "status_code"):
            say("internal", level=40, id=account_of(request).id, error=where(error))
        account_of(request).facts |= {"error": refusal.code, "param": _field(refusal)}
        headers = {**refusal.headers, **(getattr(error, "headers", None) or {})}
        if refusal.status in (408, 413):
            headers["connection"] = "close"  # the rest of its body is not read
        return Response(refusal.body(), refusal.status, headers, "application/json")

    for kind in (Refusal, 404, 405, Exception):
        app.add_exception_handler(kind, refuse)


def _field(refusal: Refusal) -> str | None:
    """The field that is to blame, for the log: without what the client named there."""
    known = refusal.param is not None and refusal.code != "unknown_field"
    return re.split(r"[.\[]", str(refusal.param))[0] if known else None


def _refusal_of_status(request: Request, error: Any) -> Refusal:
    status = getattr(error, "status_code", 500)
    if status == 500:
        return Refusal(500, "this is a fault of the server; its log tells where", kind="server_error", code="internal")
    words = {404: "there is nothing at this path", 405: f"{request.method} is not for this path"}
    code = "method_not_allowed" if status == 405 else "not_found"
    return Refusal(status, words.get(status, "the request cannot be served"), code=code)
