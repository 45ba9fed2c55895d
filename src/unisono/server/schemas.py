"""The records of the wire. Answers are those of the `openai` package; what we add to them is under ``unisono``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from openai.types import Completion, CompletionChoice, CompletionUsage, Model
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionAssistantMessageParam,
    ChatCompletionChunk,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessage,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionTokenLogprob,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall, ChoiceDeltaToolCallFunction
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs
from openai.types.chat.chat_completion_message_function_tool_call import Function
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_choice import Logprobs
from openai.types.completion_create_params import CompletionCreateParamsStreaming as CompletionParams
from openai.types.shared_params import ResponseFormatJSONObject, ResponseFormatJSONSchema, ResponseFormatText
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, WithJsonSchema

__all__ = [
    "ChatCompletionMessage",
    "ChatCompletionMessageFunctionToolCall",
    "ChatCompletionTokenLogprob",
    "ChatParams",
    "Choice",
    "ChoiceDelta",
    "ChoiceDeltaToolCall",
    "ChoiceDeltaToolCallFunction",
    "ChoiceLogprobs",
    "ChunkChoice",
    "ChunkLogprobs",
    "CompletionChoice",
    "CompletionParams",
    "CompletionUsage",
    "Function",
    "Logprobs",
    "Model",
    "TopLogprob",
]

STRICT = ConfigDict(extra="forbid", strict=True)
MOST_STOPS = 16

ROLES: dict[str, TypeAdapter[Any]] = {
    "system": TypeAdapter(list[ChatCompletionSystemMessageParam], config=STRICT),
    "developer": TypeAdapter(list[ChatCompletionDeveloperMessageParam], config=STRICT),
    "user": TypeAdapter(list[ChatCompletionUserMessageParam], config=STRICT),
    "assistant": TypeAdapter(list[ChatCompletionAssistantMessageParam], config=STRICT),
    "tool": TypeAdapter(list[ChatCompletionToolMessageParam], config=STRICT),
}
"""What a message of each role is checked by, in a list: pydantic lets that be strict."""
TEXT_PART: TypeAdapter[Any] = TypeAdapter(list[ChatCompletionContentPartTextParam], config=STRICT)

_TEXT = {"type": "string", "minLength": 1}
_NAME = {"anyOf": [_TEXT, {"type": "null"}]}
_PARTS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["type", "text"],
        "additionalProperties": False,
        "properties": {"type": {"const": "text"}, "text": _TEXT},
    },
}


def _message(role: str, required: tuple[str, ...] = ("content",), **more: Any) -> dict[str, Any]:
    """The schema of the messages of a role."""
    properties = {"role": {"const": role}, "content": {"anyOf": [_TEXT, _PARTS]}, "name": _NAME, **more}
    return {
        "type": "object",
        "required": ["role", *required],
        "additionalProperties": False,
        "properties": properties,
    }


_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "oneOf": [
            *(_message(role) for role in ("system", "developer", "user")),
            _message("assistant", tool_calls={"type": "array", "items": {"type": "object"}}),
            _message("tool", ("content", "tool_call_id"), tool_call_id=_TEXT),
        ]
    },
}
Messages = Annotated[list[Any], Field(min_length=1), WithJsonSchema(_MESSAGES)]
Text = Annotated[str, Field(min_length=1)]
Stop = Text | Annotated[list[Text], Field(max_length=MOST_STOPS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = dict[str, Annotated[float, Field(ge=-100, le=100)]]


ResponseFormat = Annotated[
    ResponseFormatText | ResponseFormatJSONObject | ResponseFormatJSONSchema, Field(discriminator="type")
]


class Record(BaseModel):
    """Read strictly: no unknown fields, no numbers as text."""

    model_config = STRICT


class StreamOptions(Record):
    """``stream_options``."""

    include_usage: bool | None = None
    """Whether a last chunk, without choices, has the usage."""
    include_obfuscation: Annotated[bool | None, Field(json_schema_extra={"not": {"const": True}})] = None
    """Only ``false``: nothing is padded."""


class UnisonoOptions(Record):
    """The extension of a request: how the ensemble writes this answer, in the words of its file."""

    lead: str | None = None
    combine: str | dict[str, Any] | None = None
    gate: str | dict[str, Any] | None = None
    boundary: bool | None = None
    speculate: str | dict[str, Any] | bool | None = None
    max_pieces: int | None = None
    draw: str | float | dict[str, Any] | None = None
    spelling: str | None = None
    """Only ``piecewise``, which is what always happens."""
    constraint: str | dict[str, Any] | None = None
    """What the answer has to be: ``json_object``, or a ``json_schema``, ``regex`` or ``lark`` grammar."""
    trace: bool | None = None
    """Whether the answer tells of each piece who voted, with what mass."""


class GenerationFields(Record):
    """What chats and completions have in common."""

    model: str
    """An ensemble, or ``ensemble/member`` for a member alone."""
    frequency_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    """By column of the union (``/v1/pieces`` tells them); for a member alone, by its own token ids."""
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int | None, Field(ge=1)] = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**64)] = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    user: str | None = None
    """Written to the log."""
    unisono: UnisonoOptions | None = None


class ChatRequest(GenerationFields):
    """A request for ``/v1/chat/completions``."""

    messages: Messages
    response_format: ResponseFormat | None = None
    tools: list[ChatCompletionFunctionToolParam] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChatCompletionNamedToolChoiceParam | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    safety_identifier: str | None = None
    """Written to the log."""


class CompletionRequest(GenerationFields):
    """A request for ``/v1/completions``."""

    prompt: Text | Annotated[list[Text], Field(min_length=1)]
    echo: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None


class PiecesRequest(Record):
    """A request for ``/v1/pieces``."""

    model: str
    text: str


class Piece(BaseModel):
    """One piece of a text."""

    id: int
    """What ``logit_bias`` calls it."""
    text: str
    bytes: list[int]


class PieceList(BaseModel):
    """An answer of ``/v1/pieces``."""

    object: str = "list"
    model: str
    data: list[Piece]
    end: list[int]
    """The ids that end a text."""


class TextReport(BaseModel):
    """What we tell of one choice beyond OpenAI's fields; a stream tells it bit by bit."""

    index: int
    finish: str | None = None
    """``end``, ``stop``, ``length`` or ``context``."""
    seed: int | None = None
    """Draws this text again; absent where nothing was drawn."""
    usage: dict[str, Any] | None = None
    """Tokens of the prompt by member; pieces, and how many of them were ensembled, drafted, accepted."""
    seconds: dict[str, Any] | None = None
    trace: list[dict[str, Any]] | None = None
    """Of each piece: its bytes, who voted with what mass, what the gate saw, what was drafted; if it was asked for."""


class Report(BaseModel):
    """The extension of an answer."""

    choices: list[TextReport]


class ChatAnswer(ChatCompletion):
    """A chat completion."""

    unisono: Report | None = None


class ChatChunk(ChatCompletionChunk):
    """A part of a chat completion that is streamed."""

    unisono: Report | None = None


class CompletionAnswer(Completion):
    """A completion, or a part of one that is streamed."""

    unisono: Report | None = None


class ModelList(BaseModel):
    """An answer of ``/v1/models``."""

    object: str = "list"
    data: list[Model]


class State(BaseModel):
    """An answer of ``/health`` and ``/ready``."""

    status: str
    reason: str | None = None


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    """The field that is to blame."""
    code: str | None


class ErrorAnswer(BaseModel):
    """Any answer that is a refusal."""

    error: ErrorBody
