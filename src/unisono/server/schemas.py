"""Requests as JSON, checked strictly; `answer_schemas` has the answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, WithJsonSchema
from typing_extensions import TypedDict

from unisono.server.message_types import Messages, ToolChoice
from unisono.server.openai_library import chat, shared_params
from unisono.vocab.marks import MARKS

STRICT = ConfigDict(extra="forbid", strict=True)
MOST_STOPS = 64

ROLES: dict[str, TypeAdapter[Any]] = {
    "system": TypeAdapter(list[chat.ChatCompletionSystemMessageParam], config=STRICT),
    "developer": TypeAdapter(list[chat.ChatCompletionDeveloperMessageParam], config=STRICT),
    "user": TypeAdapter(list[chat.ChatCompletionUserMessageParam], config=STRICT),
    "assistant": TypeAdapter(list[chat.ChatCompletionAssistantMessageParam], config=STRICT),
    "tool": TypeAdapter(list[chat.ChatCompletionToolMessageParam], config=STRICT),
}
"""Checks a list with one message of a role; in a list, pydantic can check a typed dictionary strictly."""
TEXT_PART: TypeAdapter[Any] = TypeAdapter(list[chat.ChatCompletionContentPartTextParam], config=STRICT)

Text = Annotated[str, Field(min_length=1)]
Stop = str | Annotated[list[str], Field(max_length=MOST_STOPS)]
Ids = Annotated[list[int], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[Text], Field(fail_fast=True)]
TokenIds = Annotated[list[int], Field(fail_fast=True)]
"""Lists that are tried one after another stop at the first value that does not fit: there may be half a million."""
ListsOfIds = Annotated[list[Ids], Field(fail_fast=True)]
Most = Annotated[int | None, Field(ge=-1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Logged = Annotated[str | None, WithJsonSchema({})]  # any value, which is logged as JSON
_BYTES = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 255}}
_GIVEN_PIECE = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "object", "required": ["bytes"], "properties": {"bytes": _BYTES, "mark": {"type": "null"}}},
        {"type": "object", "required": ["mark"], "properties": {"mark": {"enum": list(MARKS)}}},
    ]
}
Prefill = str | Annotated[list[Any], WithJsonSchema({"type": "array", "items": _GIVEN_PIECE})]
Bias = dict[str, Annotated[float, Field(ge=-100, le=100)]]


class JsonObjectFormat(shared_params.ResponseFormatJSONObject, total=False):
    """OpenAI's, and the schema beside it that llama.cpp and hosts of open models take."""

    schema: dict[str, Any] | bool | None


class RegexFormat(TypedDict):
    """TGI's: text that matches a regular expression."""

    type: Literal["regex"]
    regex: Text


ResponseFormat = Annotated[
    shared_params.ResponseFormatText | JsonObjectFormat | shared_params.ResponseFormatJSONSchema | RegexFormat,
    Field(discriminator="type"),
]


def _named(*names: str) -> Any:
    """An optional field that has several names."""
    return Field(None, validation_alias=AliasChoices(*names))


class Record(BaseModel):
    """Validated strictly: no unknown fields, no numbers as text."""

    model_config = STRICT


class StreamOptions(Record):
    """``stream_options``."""

    include_usage: bool | None = None
    """Whether the last chunk, which has no choices, reports the usage."""
    include_obfuscation: bool | None = None
    """Without effect: chunks are not padded."""
    continuous_usage_stats: bool | None = None
    """vLLM's: whether with ``include_usage`` each chunk reports the usage of its choice so far."""


class UnisonoOptions(Record):
    """How the ensemble writes this answer, with the keys of the ensemble file."""

    lead: str | None = None
    combine: str | dict[str, Any] | None = None
    gate: str | dict[str, Any] | None = None
    boundary: bool | None = None
    speculate: str | dict[str, Any] | bool | None = None
    max_pieces: int | None = None
    reasoning: str | int | dict[str, Any] | bool | None = None
    """``auto``, ``off``, or the pieces of reasoning at most."""
    sampling: str | float | dict[str, Any] | None = None
    draw: str | float | dict[str, Any] | None = None
    """The old name of ``sampling``."""
    spelling: str | None = None
    """Only ``piecewise``, the default."""
    vocabulary: str | dict[str, Any] | None = None
    """What members vote on: ``union``, or ``bytes``."""
    constraint: str | dict[str, Any] | None = None
    """Restricts the answer: ``json_object``, or a ``json_schema``, ``regex`` or ``lark`` grammar."""
    weights: dict[str, float] | None = None
    """By member, in place of the file's: each above 0."""
    trace: bool | None = None
    """Whether the answer reports each member's probability per piece."""
    chunk_seconds: Annotated[float | None, Field(ge=0, le=1)] = None
    """In a stream, the least time between chunks: what is written meanwhile comes in one."""


class GenerationFields(Record):
    """The fields that chats and completions share."""

    model: str
    """An ensemble, or ``ensemble/member`` for one member alone."""
    do_sample: bool | None = None
    """``false`` is temperature 0; ``true`` needs a temperature above it."""
    frequency_penalty: Penalty | None = None
    guided_choice: Annotated[list[Text] | None, Field(min_length=1)] = None
    """These seven are other servers' names for a constraint."""
    guided_grammar: str | None = None
    """A grammar of llguidance, which begins with ``%llguidance``; others are refused."""
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    structured_outputs: dict[str, Any] | None = None
    logit_bias: Bias | None = None
    """By column of the union, which ``/v1/pieces`` lists; for a member alone, by its own token ids."""
    max_tokens: Most = _named("max_tokens", "n_predict", "max_new_tokens", "num_predict", "max_output_tokens")
    """-1 stands for as many as the server allows."""
    max_completion_tokens: Most = None
    n_probs: Annotated[int | None, Field(ge=0, le=20)] = None
    """llama.cpp's: how many of the most likely pieces to list for each, as ``logprobs``; 0 stands for none."""
    include_stop_str_in_output: bool | None = _named("include_stop_str_in_output", "no_stop_trim")
    """Whether a text that a stop string ends is cut behind it."""
    ignore_eos: bool | None = _named("ignore_eos", "ban_eos_token")
    """Whether END is never chosen."""
    min_tokens: Annotated[int | None, Field(ge=0)] = _named("min_tokens", "min_new_tokens", "min_completion_tokens")
    """Pieces before END can be chosen."""
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    include_reasoning: bool | None = None
    """``false`` leaves what was reasoned out of the answer; it is counted."""
    n: Annotated[int | None, Field(ge=1)] = _named("n", "num_return_sequences", "n_cmpl")
    prefill: Prefill | None = None
    """What the text begins with: the answer's first words, or a list of all pieces so far, as a trace has them."""
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=100)] = _named(
        "repetition_penalty", "repeat_penalty", "rep_pen"
    )
    safety_identifier: Logged = None
    """Written to the log."""
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**64)] = _named("seed", "random_seed", "sampler_seed")
    stop: Stop | None = _named("stop", "stop_sequences", "stopping_strings")
    """Empty strings have no effect."""
    stop_token_ids: TokenIds | None = None
    """For a member alone: ids that end a text anyway, or are never written."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    thinking_token_budget: Annotated[int | None, Field(ge=-1)] = _named(
        *("thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens"),
        *("thinking_budget", "reasoning_budget"),
    )
    """Pieces of reasoning at most: 0 stands for none, -1 for as many as the members want."""
    top_k: Annotated[int | None, Field(ge=-1, le=2**31)] = None
    """0 and -1 stand for all."""
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    truncate_prompt_tokens: Annotated[int | None, Field(ge=-1)] = _named(
        "truncate_prompt_tokens", "truncate", "prompt_truncate_len"
    )
    """Other servers cut a longer prompt; it is refused here. 0 and -1 stand for no number."""
    truncation_length: Annotated[int | None, Field(ge=-1)] = None
    """textgen's: the same, of a prompt with the text that follows."""
    truncated_sampling: bool | None = None
    typical_p: Annotated[float | None, Field(gt=0, le=1)] = _named("typical_p", "typical", "typ_p")
    user: Logged = None
    """Written to the log."""
    unisono: UnisonoOptions | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"]


class ReasoningOptions(Record):
    """OpenRouter's ``reasoning``."""

    effort: Effort | None = None
    """The same as ``reasoning_effort``."""
    enabled: bool | None = None
    max_tokens: Annotated[int | None, Field(ge=-1)] = None
    """The same as ``thinking_token_budget``."""
    exclude: bool | None = None
    """The opposite of ``include_reasoning``."""
    summary: str | None = None
    """OpenAI's. Without effect: what was reasoned is told whole."""
    generate_summary: str | None = None
    """The old name of ``summary``."""


class ThinkingOptions(Record):
    """Anthropic's ``thinking``."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    """``adaptive``, or ``auto``, leaves it to the members, as by default."""
    budget_tokens: Annotated[int | None, Field(ge=-1)] = None
    """The same as ``thinking_token_budget``."""
    display: str | None = None
    """Without effect: what was reasoned is told whole."""


class ChatRequest(GenerationFields):
    """A request for ``/v1/chat/completions``."""

    messages: Messages
    response_format: ResponseFormat | None = None
    tools: list[chat.ChatCompletionFunctionToolParam] | None = None
    tool_choice: ToolChoice | chat.ChatCompletionNamedToolChoiceParam | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    """What tools were before; they are read as these, and a call is answered as ``function_call``."""
    function_call: str | dict[str, Any] | None = None
    """The same of ``tool_choice``."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """Whether the last message, an assistant's, is continued in place of being answered, which is the opposite."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables of the members' chat templates, such as ``enable_thinking``."""
    enable_thinking: bool | None = None
    """One of these, as other servers call it at the top level."""
    reasoning_effort: Effort | None = None
    """A variable of the members' chat templates, too. ``none`` lets no member reason."""
    reasoning: ReasoningOptions | None = None
    think: bool | Effort | None = None
    """Ollama's: ``enable_thinking``, or ``reasoning_effort``."""
    thinking: ThinkingOptions | None = None


class CompletionRequest(GenerationFields):
    """A request for ``/v1/completions``."""

    prompt: Text | Annotated[Texts | TokenIds | ListsOfIds, Field(min_length=1)]
    """Token ids only for a member alone."""
    response_format: ResponseFormat | None = None
    """vLLM's and SGLang's: the same as in chats."""
    echo: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    prompt_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    """vLLM's: scores the prompt, and lists so many of the most likely pieces beside each of its own."""
