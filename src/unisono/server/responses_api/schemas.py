"""Requests and answers of the Responses API as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from unisono.server.answer_schemas import Report
from unisono.server.openai_library import ResponseIncludable
from unisono.server.responses_api.items import OUTPUTS, TOOLS
from unisono.server.schemas import GenerationFields, ReasoningOptions, Record

LOGPROBS = "message.output_text.logprobs"
_TEXT = {"type": "string"}
_PART = {"type": "object", "required": ["type", "text"], "properties": {"type": _TEXT, "text": _TEXT}}
_CONTENT = {"anyOf": [_TEXT, {"type": "array", "items": _PART}]}
_ROLES = ["system", "developer", "user", "assistant"]
_CALL_ID = {"type": "string", "minLength": 1}
_ITEMS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [
            {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"type": {"enum": ["message", None]}, "role": {"enum": _ROLES}, "content": _CONTENT},
            },
            {
                "type": "object",
                "required": ["type", "call_id", "name", "arguments"],
                "properties": {"type": {"const": "function_call"}, "call_id": _CALL_ID, "name": _TEXT}
                | {"arguments": _TEXT, "namespace": _TEXT},
            },
            {
                "type": "object",
                "required": ["type", "call_id", "name", "input"],
                "properties": {"type": {"const": "custom_tool_call"}, "call_id": _CALL_ID, "name": _TEXT}
                | {"input": _TEXT, "namespace": _TEXT},
            },
            {
                "type": "object",
                "required": ["type", "call_id", "output"],
                "properties": {"type": {"enum": [*OUTPUTS]}, "call_id": _CALL_ID, "output": _CONTENT},
            },
            {"type": "object", "required": ["type"], "properties": {"type": {"const": "reasoning"}}},
            {
                "type": "object",
                "required": ["type", "tools"],
                "properties": {"type": {"const": TOOLS}, "tools": {"type": "array"}},
            },
            {
                "type": "object",
                "required": ["id"],
                "properties": {"type": {"enum": ["item_reference", None]}, "id": {"type": "string"}},
            },
        ]
    },
}
Items = Annotated[list[Any], Field(min_length=1), WithJsonSchema(_ITEMS)]
"""`unisono.server.responses_api.items` checks each by its type."""
Objects = list[dict[str, Any]]


class TextOptions(Record):
    """``text``."""

    format: dict[str, Any] | None = None
    """The same as a chat's ``response_format``, with a schema's keys beside its type."""
    verbosity: Literal["low", "medium", "high"] | None = None
    """Without effect: models write as much as they do."""


class ResponseReasoning(ReasoningOptions):
    """``reasoning``, with further fields of OpenAI's."""

    generate_summary: str | None = None
    """Without effect: what was reasoned is told whole."""
    context: Literal["auto"] | None = None
    """Without effect: each template says which past reasoning it writes."""
    mode: Literal["standard"] | None = None
    """Without effect."""


class ResponseRequest(GenerationFields):
    """A request for ``/v1/responses``."""

    input: str | Items | None = None
    """A question, or the items of a conversation."""
    instructions: str | None = None
    """What comes first, as a system message. Of responses before, it is not taken over."""
    previous_response_id: str | None = None
    """A response that is stored: its input and its output precede."""
    store: bool | None = None
    """Whether the response is stored, for a while; by default it is, where the server stores any."""
    metadata: Annotated[dict[str, str] | None, WithJsonSchema({"type": ["object", "array", "null"]})] = None
    """Comes back with the response; what is no text comes back as JSON."""
    include: list[ResponseIncludable] | None = None
    """``message.output_text.logprobs`` is honoured; the others are of what is not in responses here."""
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    max_output_tokens: Annotated[int | None, Field(ge=-1)] = None
    """The same as ``max_tokens``."""
    text: TextOptions | None = None
    tools: list[Any] | None = None
    """Functions, namespaces of them, and custom tools; others are run by no one here."""
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ResponseReasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """As in chats."""

    @property
    def likeliest(self) -> int | None:
        """How many of the most likely pieces to list; ``None`` where no probabilities are asked for."""
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None


class ResponseAnswerRecord(BaseModel):
    """A response. Records of the package openai (`openai.types.responses.Response`) read it."""

    id: str
    object: Literal["response"]
    created_at: int
    """Whole, as OpenAI's: .NET and Rust read no other number."""
    status: Literal["completed", "incomplete", "in_progress", "failed"]
    model: str
    output: Objects
    """Reasoning, messages and function calls, in their order."""
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: Objects
    top_logprobs: int | None
    top_p: float | None
    truncation: Literal["disabled"]
    usage: dict[str, Any] | None
    user: str | None
    background: Literal[False]
    unisono: Report | None = None


class DeletedResponse(BaseModel):
    """What is answered to a deletion."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItems(BaseModel):
    """The items of a stored response's input."""

    object: Literal["list"] = "list"
    data: Objects
    first_id: str | None
    last_id: str | None
    has_more: bool = False
