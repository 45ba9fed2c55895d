"""The two endpoints of the GaC research release, for clients that were written for it.

Fields and answers are those of its ``gac_api_server.py`` (github.com/yaoching0/GaC, arXiv 2406.12585): ``GET /status``
and ``POST /api/generate/``. What it would ignore or cut in silence is refused here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unisono.errors import NoRoom, PromptError, QueueFull, SpecError, TimedOut, UnisonoError
from unisono.types import Generation, Limits, Message, Prompt

Submit = Callable[[Prompt, Limits], Awaitable[Generation]]
"""Writes one text. It raises a `UnisonoError` where it cannot; cancelling it ends the work."""


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


def status_of(error: UnisonoError) -> int:
    """The HTTP status by which an error is told."""
    match error:
        case SpecError() | PromptError():
            return 422
        case QueueFull():
            return 429
        case NoRoom():
            return 503
        case TimedOut():
            return 504
    return 500


def gac_router(submit: Submit, ready: Callable[[], bool] = lambda: True) -> APIRouter:
    """The two endpoints, for ``app.include_router``.

    Args:
        submit: writes one text; the conversations of a request are handed to it at once.
        ready: whether texts can be written; else ``/status`` answers 503.
    """
    router = APIRouter(route_class=_GacRoute, tags=["GaC"])

    @router.get("/status", responses={503: {"model": GacStatus}})
    async def status(response: Response) -> GacStatus:
        if ready():
            return GacStatus(status="ready")
        response.status_code = 503
        return GacStatus(status="loading")

    @router.post("/api/generate/", responses={code: {"model": GacError} for code in (422, 429, 500, 503, 504)})
    async def generate(request: GacRequest) -> GacResponse:
        limits = limits_of(request)
        return response_of(await _at_once(submit, prompts_of(request), limits))

    return router


class _Refusal(Exception):
    """One of the conversations cannot be answered."""

    def __init__(self, index: int, error: UnisonoError) -> None:
        super().__init__(error.message)
        self.index = index
        self.error = error


async def _at_once(submit: Submit, prompts: Sequence[Prompt], limits: Limits) -> list[Generation]:
    """Write a text of each prompt; the first that fails ends the others."""

    async def one(index: int, prompt: Prompt) -> Generation:
        try:
            return await submit(prompt, limits)
        except UnisonoError as error:
            raise _Refusal(index, error) from error

    tasks = [asyncio.create_task(one(index, prompt)) for index, prompt in enumerate(prompts)]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


class _GacRoute(APIRoute):
    """Words errors as FastAPI does by default, and so as GaC does, whatever the rest of the server does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as invalid:
                mistakes = [{key: one[key] for key in ("type", "loc", "msg")} for one in invalid.errors()]
                return _told(422, mistakes)
            except _Refusal as refusal:
                return _told(status_of(refusal.error), f"messages_list[{refusal.index}]: {_words(refusal.error)}")
            except UnisonoError as error:
                return _told(status_of(error), _words(error))

        return answer


def _words(error: UnisonoError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message


def _told(status: int, detail: object) -> Response:
    """An error as JSON in ASCII: what it cites of a request may not be Unicode."""
    headers = {"retry-after": "1"} if status == 429 else {}
    return Response(json.dumps({"detail": detail}), status, headers, media_type="application/json")
