"""The OpenAPI document: every route with every answer, refusals included."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from unisono.server.answer_schemas import ChatAnswer, ChatChunk, CompletionAnswer, ErrorAnswer, ModelList, ServedModel
from unisono.server.body import HOLDERS, only_ensemble
from unisono.server.field_tables import OF_CHATS, OF_COMPLETIONS, OF_RESPONSES, OF_TOKENS
from unisono.server.fields import NAMES_OF_ONE, OFF, Field
from unisono.server.gac import GENERATE, STATUS, GacError, GacRequest, GacResponse, GacStatus
from unisono.server.readiness import State
from unisono.server.reasoning import REASONING
from unisono.server.responses_api.schemas import DeletedResponse, InputItems, ResponseAnswerRecord, ResponseRequest
from unisono.server.schemas import ChatRequest, CompletionRequest
from unisono.server.token_schemas import (
    DetokenizeAnswer,
    DetokenizeRequest,
    PieceList,
    PiecesRequest,
    TokenizeAnswer,
    TokenizeRequest,
)

REFUSALS = {
    "400": "A field is wrong, unknown or not supported; the error names it.",
    "401": "The API key is missing or wrong.",
    "403": "Without API keys, the server answers only under a host name of its own machine.",
    "404": "There is no such model.",
    "405": "The path does not take this method.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The content-type is not application/json, or the body is packed or not in UTF-8.",
    "429": "Too many requests are running or waiting; Retry-After says when to try again.",
    "499": "The client left.",
    "500": "A model failed.",
    "503": "The server is not ready, or shutting down.",
    "504": "The request took longer than the server allows.",
}
GENERATING = tuple(REFUSALS)
READING = tuple(status for status in REFUSALS if status not in ("500", "504"))
ALWAYS = ("401", "403", "405")

REASONED = ("ChatCompletionMessage", "ChoiceDelta", "CompletionChoice")
"""Records of OpenAI's that hold reasoning here."""

Json = dict[str, Any]

LENIENT: dict[str, Json] = {
    "thinking": {"type": "boolean"},
    "response_format": {"type": "object", "properties": {"type": {"type": "null"}}, "additionalProperties": False},
    "tool_choice": {"const": ""},
}
"""Further forms of fields, which a strict server refuses."""


@cache
def document(models: tuple[str, ...] = (), *, gac: bool = False, strict: bool = False) -> Json:
    """The document, with the names of the models once they are loaded. A ``strict`` server needs one in a request."""
    in_path = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    paths = {
        "/v1/chat/completions": _post("chat", ChatRequest, ChatAnswer, GENERATING, ChatChunk),
        "/v1/completions": _post("complete", CompletionRequest, CompletionAnswer, GENERATING, CompletionAnswer),
        "/v1/responses": _post("respond", ResponseRequest, ResponseAnswerRecord, GENERATING, ResponseAnswerRecord),
        "/v1/responses/{response}": _stored_paths(),
        "/v1/responses/{response}/input_items": _stored("input_items", "Lists a response's own input.", InputItems),
        "/v1/pieces": _post("pieces", PiecesRequest, PieceList, READING),
        "/tokenize": _post("tokenize", TokenizeRequest, TokenizeAnswer, READING),
        "/detokenize": _post("detokenize", DetokenizeRequest, DetokenizeAnswer, READING),
        "/v1/models": _get("models", "Lists the models.", _json(ModelList), (*ALWAYS, "503")),
        "/v1/models/{model}": _get(
            "model", "Describes a model.", _json(ServedModel), ("404", *ALWAYS, "503"), [in_path]
        ),
        "/health": _state("health", "Whether the process works."),
        "/ready": _state("ready", "Whether requests can be served now."),
        "/metrics": _get("metrics", "Metrics for Prometheus.", {"text/plain": {"schema": {"type": "string"}}}),
        "/openapi.json": _get("openapi", "This document.", {"application/json": {"schema": {"type": "object"}}}),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "unisono",
            "version": version("unisono"),
            "description": "Several large language models, with different tokenizers, write one text together.",
        },
        "security": [{}, {"key": []}],
        "paths": {**paths, **(_gac_paths() if gac else {})},
        "components": {
            "schemas": _schemas(models, gac=gac, strict=strict),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _stored(name: str, words: str, record: type[BaseModel]) -> Json:
    in_path = {"name": "response", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return _get(name, words, _json(record), ("400", "404", *ALWAYS), [in_path])


def _stored_paths() -> Json:
    deleted = _stored("delete_response", "Forgets a stored response.", DeletedResponse)["get"]
    return {**_stored("response", "Shows a stored response.", ResponseAnswerRecord), "delete": deleted}


def _gac_paths() -> Json:
    generate = _post("gac_generate", GacRequest, GacResponse, ())
    for status in (*REFUSALS, "422"):
        if status != "400":
            words = REFUSALS.get(status, "A field is wrong, or the body cannot be read.")
            generate["post"]["responses"][status] = _answer(words, ErrorAnswer if status in ALWAYS else GacError)
    status_page = _get("gac_status", "Whether requests are answered.", _json(GacStatus))
    status_page["get"]["responses"]["503"] = _answer("It is not.", GacStatus)
    return {GENERATE: generate, STATUS: status_page}


def _schemas(models: tuple[str, ...], *, gac: bool, strict: bool) -> Json:
    read: list[type[BaseModel]] = [ChatRequest, CompletionRequest, ResponseRequest, PiecesRequest]
    read += [TokenizeRequest, DetokenizeRequest]
    sent: list[type[BaseModel]] = [ChatAnswer, ChatChunk, CompletionAnswer, PieceList, ModelList, ServedModel, State]
    sent += [ResponseAnswerRecord, DeletedResponse, InputItems, TokenizeAnswer, DetokenizeAnswer, ErrorAnswer]
    if gac:
        read.append(GacRequest)
        sent += [GacResponse, GacStatus, GacError]
    for record in sent:
        record.model_rebuild()  # types of the openai package are built at first use
    modes = [(record, "validation") for record in read] + [(record, "serialization") for record in sent]
    _, definitions = models_json_schema(modes, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    schemas: Json = definitions["$defs"]
    generating: list[type[BaseModel]] = [ChatRequest, CompletionRequest, ResponseRequest]
    cutting: list[type[BaseModel]] = [TokenizeRequest, DetokenizeRequest]
    tables = (OF_CHATS, OF_COMPLETIONS, OF_RESPONSES, OF_TOKENS, OF_TOKENS)
    for record, table in zip((*generating, *cutting), tables, strict=True):
        properties = schemas[record.__name__]["properties"]
        properties |= {name: _property(field) for name, field in table.items()}
        for names in NAMES_OF_ONE if record in generating else ():
            for name in names:
                properties.setdefault(name, {**properties[names[0]], "description": f"Another name of {names[0]}."})
    for name in ("token_logprobs", "top_logprobs"):  # the first token of an echoed prompt has none
        listed = next(each for each in schemas["Logprobs"]["properties"][name]["anyOf"] if "items" in each)
        listed["items"] = {"anyOf": [listed["items"], {"type": "null"}]}
    for name in REASONED:
        schemas[name]["properties"][REASONING] = {"type": "string", "description": "What was reasoned before the text."}
    for record in read if models else ():
        if "model" in record.model_fields:
            schemas[record.__name__]["properties"]["model"]["enum"] = list(models)
    for record in () if strict else generating:
        properties = schemas[record.__name__]["properties"]
        for name in LENIENT.keys() & record.model_fields.keys():
            properties[name] = {**properties[name], "anyOf": [*properties[name]["anyOf"], LENIENT[name]]}
        for name in HOLDERS:
            kinds = [*properties[name]["anyOf"], {"type": "object"}]
            properties[name] = {"description": "What it holds is read as if it stood at the top level.", "anyOf": kinds}
    if only_ensemble(models) is not None and not strict:
        for record in generating:
            schemas[record.__name__]["required"].remove("model")
            schemas[record.__name__]["properties"]["model"] = {"enum": [None, "", *models]}
    return schemas


def _property(field: Field) -> Json:
    """A field that is not honoured. One that is refused may have the values that ask for nothing."""
    if not field.matters or field.only_with:
        return {"description": f"Without effect: {field.why}."}
    if field.of_sampling:
        without = "no penalty is on" if field.of_penalties else "no beam searches"
        return {"description": f"Without effect where {without}: {field.why}."}
    kinds: list[Json] = [{"enum": list(field.values)}]
    if not field.empty_asks:
        off = {"enum": list(OFF)}
        kinds += [{"type": "array", "items": off}, {"type": "object", "additionalProperties": off}]
    if field.at_most is not None:
        kinds.append({"type": "number", "maximum": field.at_most})
    return {"description": f"Not supported: {field.why}.", "anyOf": kinds}


def _post(
    name: str,
    read: type[BaseModel],
    sent: type[BaseModel],
    refusals: tuple[str, ...],
    chunk: type[BaseModel] | None = None,
) -> Json:
    content = _json(sent)
    if chunk is not None:
        words = f"Server-sent events: each is a {chunk.__name__} or an ErrorAnswer; the last is [DONE]."
        content["text/event-stream"] = {"schema": {"description": words}}
    return {
        "post": {
            "operationId": name,
            "summary": (read.__doc__ or "").splitlines()[0],
            "requestBody": {"required": True, "content": _json(read)},
            "responses": {"200": {"description": "The answer.", "content": content}, **_refusals(refusals)},
        }
    }


def _get(
    name: str, words: str, content: Json, refusals: tuple[str, ...] = ALWAYS, parameters: list[Json] | None = None
) -> Json:
    responses = {"200": {"description": "The answer.", "content": content}, **_refusals(refusals)}
    return {"get": {"operationId": name, "summary": words, "parameters": parameters or [], "responses": responses}}


def _state(name: str, words: str) -> Json:
    page = _get(name, words, _json(State), ("405",))
    responses = page["get"]["responses"]
    responses["503"] = _answer("It is not.", State)
    bare = {status: {"description": answer["description"]} for status, answer in responses.items()}
    return {**page, "head": {"operationId": f"{name}_status", "summary": words, "responses": bare}}


def _refusals(statuses: tuple[str, ...]) -> Json:
    return {status: _answer(REFUSALS[status], ErrorAnswer) for status in statuses}


def _answer(words: str, record: type[BaseModel]) -> Json:
    return {"description": words, "content": _json(record)}


def _json(record: type[BaseModel]) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{record.__name__}"}}}
