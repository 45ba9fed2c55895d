"""The two endpoints of the GaC research release, for its clients: ``GET /status`` and ``POST /api/generate/``.

Fields and answers are those of its ``gac_api_server.py`` (github.com/yaoching0/GaC, arXiv 2406.12585). What it ignores
or cuts silently is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from unisono.chat.messages import Message, Prompt
from unisono.engine.request import GenerationRequest
from unisono.errors import SpecError
from unisono.records import Limits
from unisono.server.errors import Refusal
from unisono.server.limits import ServerLimits
from unisono.server.schemas import MOST_STOPS

STATUS = "/status"
GENERATE = "/api/generate/"


class GacMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: str
    content: str


class GacRequest(BaseModel):
    """A request for ``/api/generate/``. Types are converted as leniently as there: ``"64"`` is 64."""

    model_config = ConfigDict(extra="forbid")

    messages_list: Annotated[list[Annotated[list[GacMessage], Field(min_length=1)]], Field(min_length=1)]
    """Conversations, answered separately."""
    max_length: None = None
    """Refused: see `_max_length_is_refused`."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 50
    """Pieces per conversation, where GaC counts the tokens of the model that needs most."""
    apply_chat_template: bool | None = False
    """Whether to answer a conversation; otherwise its only message is continued as raw text."""
    until: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MOST_STOPS)] | None = None
    """Stop strings. The text ends before them, while GaC's ends after them."""

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
    """``ready``, or ``loading``. GaC itself does not answer before it is ready."""


class GacError(BaseModel):
    """A sentence, or FastAPI's list with the place of each mistake."""

    detail: str | list[dict[str, Any]]


class Invalid(Exception):
    """A request is wrong: GaC's server answers 422 with FastAPI's list of mistakes, or a sentence."""

    def __init__(self, detail: str | list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.detail = detail


def requests_of(body: Mapping[str, Any], model: str, limits: ServerLimits) -> list[GenerationRequest]:
    """Make a request per conversation. Raises an `Invalid` for a wrong field, a `Refusal` for one over a limit."""
    try:
        wanted = GacRequest.model_validate(body)
        written = Limits(wanted.max_new_tokens, wanted.until or ())
        prompts = [
            Prompt(messages=[Message(role=message.role, content=message.content) for message in conversation])
            if wanted.apply_chat_template
            else Prompt(text=conversation[0].content)
            for conversation in wanted.messages_list
        ]
    except ValidationError as invalid:
        mistakes = invalid.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid([{**mistake, "loc": ["body", *mistake["loc"]]} for mistake in mistakes]) from None
    except SpecError as error:
        raise Invalid(error.message) from None
    for given, most, words in (
        (len(prompts), limits.n, "messages_list asks for {} conversations"),
        (written.max_new_tokens, limits.output, "max_new_tokens asks for {} pieces"),
    ):
        if given > most:
            words = f"{words.format(given)}, and this server takes {most} at most"
            raise Refusal(400, words, code="invalid_value")
    return [GenerationRequest("", prompt, written, model=model) for prompt in prompts]
