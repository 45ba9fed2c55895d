"""The two endpoints of the GaC research release, for clients that were written for it.

Fields and answers are those of its ``gac_api_server.py`` (github.com/yaoching0/GaC, arXiv 2406.12585): ``GET /status``
and ``POST /api/generate/``. What it would ignore or cut in silence is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from unisono.chat.messages import Message, Prompt
from unisono.engine.request import Ended, GenerationRequest
from unisono.errors import SpecError
from unisono.records import Generation, Limits
from unisono.server.async_engine import AsyncEngine
from unisono.server.errors import Refusal
from unisono.server.limits import read_body
from unisono.server.request_handle import RequestHandle
from unisono.server.routing import FastAPI, Request, Response, account_of, accounted, body_of, unless_left

STATUS = "/status"
GENERATE = "/api/generate/"


class GacMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: str
    content: str


class GacRequest(BaseModel):
    """What ``/api/generate/`` is asked for. Types are read as leniently as there: ``"64"`` is 64."""

    model_config = ConfigDict(extra="forbid")

    messages_list: Annotated[list[Annotated[list[GacMessage], Field(min_length=1)]], Field(min_length=1)]
    """Conversations, each answered by itself."""
    max_length: None = None
    """Refused: see `_max_length_is_refused`."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 50
    """For each conversation: pieces, where GaC counts the tokens of the model that needs most."""
    apply_chat_template: bool | None = False
    """Whether a conversation is answered; else its only message is continued as raw text."""
    until: list[Annotated[str, Field(min_length=1)]] | None = None
    """Stop strings. The text ends before them, where GaC's ends behind."""

    @field_validator("max_length", mode="before")
    @classmethod
    def _max_length_is_refused(cls, value: object) -> None:
        if value is not None:
            raise ValueError(
                "it counts prompt and answer together, in tokens of which each model has others; give max_new_tokens"
            )

    @field_validator("max_new_tokens", mode="before")
    @classmethod
    def _a_truth_is_no_number(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("it is a number of pieces")
        return value

    @model_validator(mode="after")
    def _raw_text_is_one_message(self) -> GacRequest:
        if not self.apply_chat_template:
            for index, conversation in enumerate(self.messages_list):
                if len(conversation) > 1:
                    raise ValueError(
                        f"messages_list[{index}] has {len(conversation)} messages, of which only the first would be "
                        "read; set apply_chat_template to true, or send one message"
                    )
        return self


class GacResponse(BaseModel):
    """The answers, in the order of the conversations."""

    response: list[str]


class GacStatus(BaseModel):
    """Whether requests are answered."""

    status: str
    """``ready``, or ``loading``, which GaC never says: it answers nothing before it is ready."""


class GacError(BaseModel):
    """What is wrong: a sentence, or FastAPI's list with the place of each mistake."""

    detail: str | list[dict[str, Any]]


def prompts_of(request: GacRequest) -> list[Prompt]:
    """The prompts that a request means."""
    if not request.apply_chat_template:
        return [Prompt(text=conversation[0].content) for conversation in request.messages_list]
    return [
        Prompt(messages=[Message(role=message.role, content=message.content) for message in conversation])
        for conversation in request.messages_list
    ]


def limits_of(request: GacRequest) -> Limits:
    """The limits of each of its texts."""
    return Limits(request.max_new_tokens, request.until or ())


def response_of(generations: Sequence[Generation]) -> GacResponse:
    """The answer that texts make."""
    return GacResponse(response=[generation.text for generation in generations])


def add_gac_routes(app: FastAPI, engine: AsyncEngine, model: str) -> None:
    """Let a server answer the two endpoints too.

    Args:
        app: of the server.
        engine: to the service.
        model: that answers.
    """

    async def status(_: Request) -> Response:
        found = GacStatus(status="loading" if engine.reason is not None else "ready")
        return _told(found.model_dump(), 200 if engine.reason is None else 503)

    async def generate(request: Request) -> Response:
        try:
            return await _generate(request, engine, model)
        except ValidationError as invalid:
            mistakes = invalid.errors(include_url=False, include_context=False, include_input=False)
            return _told({"detail": [{**mistake, "loc": ["body", *mistake["loc"]]} for mistake in mistakes]}, 422)
        except SpecError as error:
            return _told({"detail": error.message}, 422)
        except Refusal as refusal:
            status = 422 if refusal.status == 400 else refusal.status
            account_of(request).facts |= {"error": refusal.code}
            return _told({"detail": refusal.message}, status, refusal.headers)

    app.add_api_route(STATUS, accounted(STATUS, status), methods=["GET"], response_model=None)
    for path in (GENERATE, GENERATE.removesuffix("/")):
        app.add_api_route(path, accounted(GENERATE, generate), methods=["POST"], response_model=None)


async def _generate(request: Request, engine: AsyncEngine, model: str) -> Response:
    """Write a text for each conversation, all at once; the first that fails ends the others."""
    with engine.call() as call:
        wanted = GacRequest.model_validate(await read_body(request.headers, body_of(request), engine.limits))
        prompts, limits = prompts_of(wanted), limits_of(wanted)
        _check(len(prompts), engine.limits.n, "messages_list", "conversations")
        _check(limits.max_new_tokens, engine.limits.output, "max_new_tokens", "pieces")
        account_of(request).model = model
        await call.begin([GenerationRequest("", prompt, limits, model=model) for prompt in prompts])
        return _told(response_of(await unless_left(request, _ended(call))).model_dump())


async def _ended(call: RequestHandle) -> list[Generation]:
    """The texts of a call, in the order in which they were asked for."""
    found = {place: event.generation async for place, event in call.events() if isinstance(event, Ended)}
    return [found[place] for place in sorted(found)]


def _check(given: int, most: int, name: str, what: str) -> None:
    if given > most:
        raise Refusal(
            400, f"{name} asks for {given} {what}, and this server takes {most} at most", code="invalid_value"
        )


def _told(answer: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: what an error cites of a request may not be Unicode."""
    return Response(json.dumps(answer), status, headers, media_type="application/json")
