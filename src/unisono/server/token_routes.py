"""The routes that cut texts: into the pieces of an ensemble, and into the tokens of a member alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from unisono.chat.encoding_process import size_of
from unisono.engine.engine import Engine
from unisono.server.async_engine import AsyncEngine
from unisono.server.body import read_body, read_record
from unisono.server.field_tables import OF_TOKENS
from unisono.server.fields import Field
from unisono.server.limits import CHARACTERS, prompt_field
from unisono.server.middleware import LOG
from unisono.server.pieces import detokenize, pieces_json, prompt_of, tokenize
from unisono.server.replies import json_answer, unless_left
from unisono.server.requests import engine_of
from unisono.server.token_schemas import DetokenizeRequest, PiecesRequest, TokenizeRequest
from unisono.server.web import Request, Response

R = TypeVar("R", PiecesRequest, TokenizeRequest, DetokenizeRequest)


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
            wanted, its_engine = await self._wanted(request, PiecesRequest, {})
            if len(wanted.text) > CHARACTERS * engine.limits.prompt:
                raise engine.limits.too_long("text", len(wanted.text))
            reading = engine.read_in_time("text", len(wanted.text), pieces_json, wanted.text, wanted.model, its_engine)
            return json_answer(await unless_left(request, reading))

    async def tokenize(self, request: Request) -> Response:
        engine = self._engine
        with engine.call():
            wanted, its_engine = await self._wanted(request, TokenizeRequest, OF_TOKENS)
            prompt = prompt_of(wanted, its_engine, strict=engine.limits.strict)
            param = prompt_field(prompt)
            if (size := size_of(prompt)) > CHARACTERS * engine.limits.prompt:
                raise engine.limits.too_long(param, size)
            reading = engine.read_in_time(param, size, tokenize, wanted, its_engine, prompt)
            return json_answer((await unless_left(request, reading)).model_dump_json())

    async def detokenize(self, request: Request) -> Response:
        with self._engine.call():
            wanted, its_engine = await self._wanted(request, DetokenizeRequest, OF_TOKENS)
            return json_answer(detokenize(wanted, its_engine).model_dump_json())

    async def _wanted(self, request: Request, record: type[R], table: Mapping[str, Field]) -> tuple[R, Engine]:
        """Read a request, and look up the ensemble or member that it names. Raises a `Refusal`."""
        body = await read_body(request.headers, request.stream(), self._engine.limits)
        wanted = read_record(record, body, table)
        its_engine = engine_of(self._engine.service, wanted.model)
        request.scope[LOG].model = wanted.model
        return wanted, its_engine
