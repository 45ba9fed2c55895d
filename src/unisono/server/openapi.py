"""The OpenAPI document: every route, every answer, refusals too."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from unisono.server.gac import GENERATE, STATUS, GacError, GacRequest, GacResponse, GacStatus
from unisono.server.schemas import (
    ChatAnswer,
    ChatChunk,
    ChatRequest,
    CompletionAnswer,
    CompletionRequest,
    ErrorAnswer,
    Model,
    ModelList,
    PieceList,
    PiecesRequest,
    State,
)

REFUSALS = {
    "400": "A field is wrong, unknown or not supported; the error names it.",
    "401": "The API key is missing or wrong.",
    "403": "Without keys, the server is asked for by the names of its own machine alone.",
    "404": "There is no such model.",
    "405": "The method is not for this path.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The content-type is not application/json.",
    "429": "Too many requests wait or are under way; Retry-After says when to try again.",
    "499": "The client left.",
    "500": "A model failed.",
    "503": "The server is not ready, or shutting down.",
    "504": "The request took longer than the server allows.",
}
GENERATING = ("400", "401", "403", "404", "405", "408", "413", "415", "429", "499", "500", "503", "504")
ASKING = ("400", "401", "403", "404", "405", "408", "413", "415", "429", "499", "503")
ALWAYS = ("401", "403", "405")
LOOKING = (*ALWAYS, "503")


@cache
def document(models: tuple[str, ...] = (), *, gac: bool = False) -> dict[str, Any]:
    """The document; the names of models are told where there are some."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "unisono",
            "version": version("unisono"),
            "description": "Several large language models, with different tokenizers, write one text together.",
        },
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/chat/completions": _post("chat", ChatRequest, ChatAnswer, GENERATING, ChatChunk),
            "/v1/completions": _post("complete", CompletionRequest, CompletionAnswer, GENERATING, CompletionAnswer),
            "/v1/pieces": _post("pieces", PiecesRequest, PieceList, ASKING),
            "/v1/models": _get("models", "Lists the models.", ModelList, LOOKING),
            "/v1/models/{model}": _get("model", "Tells of a model.", Model, ("404", *LOOKING), _MODEL_IN_PATH),
            "/health": _state("health", "Whether the process is well."),
            "/ready": _state("ready", "Whether requests can be served now."),
            "/metrics": _text("metrics", "What Prometheus reads.", "text/plain"),
            "/openapi.json": _text("openapi", "This document.", "application/json"),
            **(_gac_paths() if gac else {}),
        },
        "components": {
            "schemas": _schemas(models, gac=gac),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


_MODEL_IN_PATH = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]


def _gac_paths() -> dict[str, Any]:
    """The endpoints of the GaC release, which words its errors in its own way."""
    asked = _post("gac_generate", GacRequest, GacResponse, ())
    for status in (*GENERATING, "422"):
        if status != "400":
            words = REFUSALS.get(status, "What is asked for is wrong, or cannot be read.")
            asked["post"]["responses"][status] = _answer(words, ErrorAnswer if status in ALWAYS else GacError)
    return {
        GENERATE: asked,
        STATUS: _get("gac_status", "Whether requests are answered.", GacStatus, ALWAYS, own={"503": GacStatus}),
    }


def _schemas(models: tuple[str, ...], *, gac: bool) -> dict[str, Any]:
    records: list[type[BaseModel]] = [ChatRequest, CompletionRequest, PiecesRequest]
    answers: list[type[BaseModel]] = [
        ChatAnswer,
        ChatChunk,
        CompletionAnswer,
        PieceList,
        ModelList,
        Model,
        State,
        ErrorAnswer,
    ]
    asked_by_gac = [GacRequest] if gac else []
    answers += [GacResponse, GacStatus, GacError] if gac else []
    for record in answers:
        record.model_rebuild()  # types of the openai package are built when first used
    asked = [(record, "validation") for record in [*records, *asked_by_gac]]
    told = [(record, "serialization") for record in answers]
    _, definitions = models_json_schema([*asked, *told], ref_template="#/components/schemas/{model}")  # type: ignore[list-item]
    schemas: dict[str, Any] = definitions["$defs"]
    for record in records if models else ():
        schemas[record.__name__]["properties"]["model"]["enum"] = list(models)
    return schemas


def _post(
    name: str,
    asked: type[BaseModel],
    told: type[BaseModel],
    refusals: tuple[str, ...],
    part: type[BaseModel] | None = None,
) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(told)}}
    if part is not None:
        words = f"Server-sent events: each is a {part.__name__} or an ErrorAnswer; the last is [DONE]."
        content["text/event-stream"] = {"schema": {"description": words}}
    return {
        "post": {
            "operationId": name,
            "summary": (asked.__doc__ or "").splitlines()[0],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(asked)}}},
            "responses": {"200": {"description": "The answer.", "content": content}, **_refusals(refusals)},
        }
    }


def _get(
    name: str,
    words: str,
    told: type[BaseModel],
    refusals: tuple[str, ...],
    parameters: list[dict[str, Any]] | None = None,
    own: dict[str, type[BaseModel]] | None = None,
) -> dict[str, Any]:
    answers = {status: _answer("It is not.", record) for status, record in (own or {}).items()}
    responses = {"200": _answer("The answer.", told), **_refusals(refusals), **answers}
    return {"get": {"operationId": name, "summary": words, "parameters": parameters or [], "responses": responses}}


def _state(name: str, words: str) -> dict[str, Any]:
    """What tells a state, also to who asks for no more than the status."""
    got = _get(name, words, State, ("405",), own={"503": State})
    bare = {status: {"description": answer["description"]} for status, answer in got["get"]["responses"].items()}
    return {**got, "head": {"operationId": f"{name}_status", "summary": words, "responses": bare}}


def _text(name: str, words: str, kind: str) -> dict[str, Any]:
    schema = {"type": "string"} if kind == "text/plain" else {"type": "object"}
    answer = {"description": "The answer.", "content": {kind: {"schema": schema}}}
    return {"get": {"operationId": name, "summary": words, "responses": {"200": answer, **_refusals(ALWAYS)}}}


def _refusals(statuses: tuple[str, ...]) -> dict[str, Any]:
    return {status: _answer(REFUSALS[status], ErrorAnswer) for status in statuses}


def _answer(words: str, record: type[BaseModel]) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": _ref(record)}}}


def _ref(record: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{record.__name__}"}
