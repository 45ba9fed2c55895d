"""Answers as JSON: records of the `openai` package, with our additions under ``unisono``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from unisono.server.openai_library import ChatCompletion, ChatCompletionChunk, Completion, Model, completion_choice


class TextReport(BaseModel):
    """What one choice has beyond OpenAI's fields; in a stream, chunk by chunk."""

    index: int
    finish: str | None = None
    """``end``, ``stop``, ``length`` or ``context``."""
    seed: int | None = None
    """Reproduces this text; absent if nothing was sampled."""
    usage: dict[str, Any] | None = None
    """Prompt tokens by member; pieces, and how many of them were ensembled, drafted, accepted, uncertain."""
    seconds: dict[str, Any] | None = None
    trace: list[dict[str, Any]] | None = None
    """By piece: its bytes, the members' probabilities, the gate's score, the draft; if it was asked for."""


class Report(BaseModel):
    """What an answer has beyond OpenAI's fields."""

    choices: list[TextReport]


class ChatAnswer(ChatCompletion):
    """A chat completion."""

    unisono: Report | None = None


class ChatChunk(ChatCompletionChunk):
    """A chunk of a streamed chat completion."""

    unisono: Report | None = None


class PromptLogprob(BaseModel):
    """How likely a piece is at a place of a prompt."""

    logprob: float
    rank: int
    """1 for the most likely."""
    decoded_token: str


class CompletionChoice(completion_choice.CompletionChoice):
    """One text of a completion."""

    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None
    """By piece of the prompt, the piece and the most likely ones, by the ids that ``logit_bias`` takes; null for what
    nothing precedes."""


class CompletionAnswer(Completion):
    """A completion, or a chunk of a streamed one."""

    choices: list[CompletionChoice]  # type: ignore[assignment]
    unisono: Report | None = None


class ServedModel(Model):
    """A model, and what an ensemble of its name is."""

    unisono: dict[str, Any]
    """The members with their weights, the lead, and how texts are written, as in the first step of a trace."""


class ModelList(BaseModel):
    """An answer of ``/v1/models``."""

    object: str = "list"
    data: list[ServedModel]


class ErrorBody(BaseModel):
    """An error."""

    message: str
    type: str
    param: str | None
    """The field that is wrong."""
    code: str | None


class ErrorAnswer(BaseModel):
    """The answer to a request that failed."""

    error: ErrorBody
