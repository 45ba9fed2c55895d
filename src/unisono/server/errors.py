"""Refusals: what is wrong with a request, as the OpenAI API words it."""

from __future__ import annotations

import json
from typing import Any

from unisono.errors import BackendMissing, PromptError, QueueFull, RequestTimeout, SpecError, UnisonoError

INVALID = "invalid_request_error"
OVERLOADED = "rate_limit_error"
FAULT = "server_error"


class Refusal(Exception):
    """Ends a request with a status and an error that names the field, as OpenAI's does."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Word it.

        Args:
            status: of HTTP.
            message: for whoever asked.
            kind: OpenAI's ``type``.
            param: the field that is to blame.
            code: for programs.
            retry_after: seconds after which it may be tried again.
        """
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def to_json(self) -> dict[str, Any]:
        """The body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        """The body as bytes; whatever of the request it cites, they are ASCII."""
        return json.dumps(self.to_json()).encode()

    @property
    def headers(self) -> dict[str, str]:
        """What goes with it."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def refusal_of(error: Exception, *, param: str | None = None, retry_after: int = 1) -> Refusal:
    """Word an error of ours, or of a model, for whoever asked; of a model's nothing but that it failed is told.

    Args:
        error: what was raised.
        param: the field that is to blame, if it is the request's fault.
        retry_after: seconds, where it is worth a try.
    """
    match error:
        case Refusal():
            return error
        case QueueFull():
            return Refusal(429, words_of(error), kind=OVERLOADED, code="queue_full", retry_after=retry_after)
        case RequestTimeout():
            return Refusal(504, words_of(error), kind="timeout_error", code="timeout")
        case PromptError():
            too_long = "context" in error.message and "tokens" in error.message
            code = "context_length_exceeded" if too_long else "invalid_prompt"
            return Refusal(400, words_of(error), param=param, code=code)
        case SpecError():
            return Refusal(400, words_of(error), param=param, code="invalid_value")
        case BackendMissing():
            return Refusal(400, words_of(error), param=param, code="unsupported")
    return Refusal(500, "a model failed while it wrote this answer; it may be asked again", kind=FAULT, code="failed")


def words_of(error: UnisonoError) -> str:
    """What is wrong, and the way out."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def not_ready(reason: str) -> Refusal:
    """The models are being loaded, or they fail."""
    return Refusal(503, f"the server is not ready: {reason}", kind=FAULT, code="not_ready", retry_after=5)


def shutting_down() -> Refusal:
    """The server is told to end."""
    return Refusal(503, "the server is shutting down", kind=FAULT, code="shutting_down", retry_after=5)
