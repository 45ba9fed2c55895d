"""The routes that cut texts: into the pieces of an ensemble, and into the tokens of a member alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from unisono.chat.encoding_process import size_of
from unisono.server.async_engine import AsyncEngine
from unisono.server.body import read_body, read_record
from unisono.server.fields import OF_TOKENS
from unisono.server.limits import CHARACTERS
from unisono.server.middleware import LOG
from unisono.server.pieces import detokenize, pieces_json, prompt_of, tokenize
from unisono.server.replies import json_answer, unless_left
from unisono.server.requests import engine_of
from unisono.server.token_schemas import DetokenizeRequest, PiecesRequest, TokenizeRequest
from unisono.server.web import Request, Response


class TokenRoutes:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def table(self) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        return [
            ("POST", "/v1/pieces", self.pieces),
            ("POST", "/tokenize", self.tokenize),
            ("POST", "/detokenize", self.detokenize),
        ]

    async def pieces(self, request: Request) -> Response:
        engine = self._engine
        with engine.call():
            body = await read_body(request.headers, request.stream(), engine.limits)
            wanted = read_record(PiecesRequest, body, {})
            its_engine = engine_of(engine.service, wanted.model)
            request.scope[LOG].model = wanted.model
            if len(wanted.text) > CHARACTERS * engine.limits.prompt:
                raise engine.limits.too_long("text", len(wanted.text))
            reading = engine.read_in_time("text", len(wanted.text), pieces_json, wanted.text, wanted.model, its_engine)
            return json_answer(await unless_left(request, reading))

    async def tokenize(self, request: Request) -> Response:
        engine = self._engine
        with engine.call():
            body = await read_body(request.headers, request.stream(), engine.limits)
            wanted = read_record(TokenizeRequest, body, OF_TOKENS)
            its_engine = engine_of(engine.service, wanted.model)
            request.scope[LOG].model = wanted.model
            prompt = prompt_of(wanted, its_engine, strict=engine.limits.strict)
            if (size := size_of(prompt)) > CHARACTERS * engine.limits.prompt:
                raise engine.limits.too_long("prompt", size)
            param = "prompt" if prompt.messages is None else "messages"
            reading = engine.read_in_time(param, size, tokenize, wanted, its_engine, prompt)
            return json_answer((await unless_left(request, reading)).model_dump_json())

    async def detokenize(self, request: Request) -> Response:
        engine = self._engine
        with engine.call():
            body = await read_body(request.headers, request.stream(), engine.limits)
            wanted = read_record(DetokenizeRequest, body, OF_TOKENS)
            its_engine = engine_of(engine.service, wanted.model)
            request.scope[LOG].model = wanted.model
            return json_answer(detokenize(wanted, its_engine).model_dump_json())
