"""Refusals: errors in the format of the OpenAI API."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass

from unisono.errors import (
    BackendMissing,
    MemberUnavailable,
    PromptError,
    QueueFull,
    RequestTimeout,
    SpecError,
    UnisonoError,
)
from unisono.server.unserved import other_method, way_out

INVALID = "invalid_request_error"
OVERLOADED = "rate_limit_error"
FAULT = "server_error"


@dataclass(eq=False)
class Refusal(Exception):
    """Ends a request with an HTTP status and an error that names the field."""

    status: int
    message: str
    _: KW_ONLY
    kind: str = INVALID
    param: str | None = None
    """The field that is wrong."""
    code: str | None = None
    retry_after: int | None = None
    """Seconds after which the client may try again."""

    def __str__(self) -> str:
        return self.message

    def body(self) -> bytes:
        """The answer's body, one line in ASCII: what it cites of the request may not be Unicode."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode() + b"\n"

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def refusal_of(error: Exception, *, param: str | None = None, retry_after: int = 1) -> Refusal:
    """Turn an error into a refusal. Of a model's error, the client learns only that the model failed.

    ``param`` is used if the request is wrong, ``retry_after`` (seconds) if the queue is full.
    """
    match error:
        case Refusal():
            return error
        case QueueFull():
            return Refusal(429, words_of(error), kind=OVERLOADED, code="queue_full", retry_after=retry_after)
        case RequestTimeout():
            return Refusal(504, words_of(error), kind="timeout_error", code="timeout")
        case MemberUnavailable():
            wait = None if error.retry_after is None else max(1, math.ceil(error.retry_after))
            return Refusal(503, words_of(error), kind=FAULT, code="member_unavailable", retry_after=wait)
        case PromptError():
            too_long = "context" in error.message and "tokens" in error.message
            code = "context_length_exceeded" if too_long else "invalid_prompt"
            return Refusal(400, words_of(error), param=param, code=code)
        case SpecError():
            return Refusal(400, words_of(error), param=param, code="invalid_value")
        case BackendMissing():
            return Refusal(400, words_of(error), param=param, code="unsupported")
    return Refusal(500, "a model failed during this request; try again", kind=FAULT, code="failed")


def invalid(name: str, words: str) -> Refusal:
    """The refusal of a field's value."""
    return Refusal(400, words, param=name, code="invalid_value")


def words_of(error: UnisonoError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message


def not_ready(reason: str) -> Refusal:
    return Refusal(503, f"the server is not ready: {reason}", kind=FAULT, code="not_ready", retry_after=5)


def no_process(why: str) -> Refusal:
    words = f"the server cannot start the process that this request needs{why and ': '}{why}; try again"
    return Refusal(503, words, kind=FAULT, code="overloaded", retry_after=5)


def shutting_down() -> Refusal:
    return Refusal(503, "the server is shutting down", kind=FAULT, code="shutting_down", retry_after=5)


def began_too_late() -> Refusal:
    return Refusal(504, "the request took too long to begin", kind="timeout_error", code="timeout")


def refusal_of_status(status: int, method: str, path: str = "", taken: Iterable[str] = ()) -> Refusal:
    """What is answered where no route does, or where one breaks; ``taken`` are the methods that a path takes."""
    match status:
        case 404:
            return Refusal(404, f"there is nothing at this path: {way_out(path)}", code="not_found")
        case 405:
            return Refusal(405, other_method(method, taken, path), code="method_not_allowed")
        case 499:
            return Refusal(499, "the client has left", code="left")
        case 500:
            return Refusal(500, "the server has a bug; the log says where", kind=FAULT, code="internal")
    return Refusal(status, "the request cannot be served", code="not_found")
