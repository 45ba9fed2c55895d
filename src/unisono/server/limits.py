"""What a server allows at most, and reading the body of a request within that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from unisono.config.compact import unique_keys
from unisono.errors import SpecError, shown
from unisono.server.errors import Refusal

JSON = "application/json"
CHARACTERS = 16
"""Characters that a token of a prompt stands for at most, on average."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of a server. Whoever asks for more is refused, and told which bound it was."""

    body: int = 2**20
    """Bytes of a request."""
    values: int = 10_000
    """Values in the JSON of a request, however deep: what is wrong with each would have to be told."""
    prompt: int = 32_768
    """Tokens of a prompt, as any one member counts them. One of more than `CHARACTERS` times as many characters is
    refused without being read: tokenizers take the longer, the longer a text is, and all wait for them."""
    n: int = 16
    """Texts of one request: ``n`` times the prompts of a list."""
    output: int = 4096
    """Pieces of a text, and the default of ``max_tokens``."""
    concurrency: int = 512
    """Requests that are under way at once, those that wait in line included."""
    timeout: float = 600.0
    """Seconds that a request may take, from its last byte to its last piece."""
    reading: float = 30.0
    """Seconds in which the body of a request has to arrive."""
    grace: float = 30.0
    """Seconds that running requests get to finish after a signal to end."""

    def check_characters(self, what: str, characters: int) -> None:
        """Refuse a text that is too long to be read. Raises a `Refusal`."""
        if characters > (most := CHARACTERS * self.prompt):
            words = f"the {what} has {characters} characters, and this server takes {most} at most"
            raise Refusal(400, words, code="context_length_exceeded")

    def __post_init__(self) -> None:
        """Check them. Raises a `SpecError` that names the bound."""
        for bound in fields(self):
            value, least = getattr(self, bound.name), 0 if bound.name == "grace" else 1e-9
            if not value >= least or value == float("inf"):
                fitting = "0 or a number above it" if bound.name == "grace" else "a number above 0"
                raise SpecError(f"the limit {bound.name} is {shown(value)}", hint=f"give {fitting}")


async def read_body(headers: Mapping[str, str], chunks: AsyncIterator[bytes], limits: ServerLimits) -> dict[str, Any]:
    """Read a JSON object.

    That its type is declared keeps pages of other sites from asking: browsers do not send it without permission.

    Raises:
        Refusal: it is too large, too slow, of another type, or no JSON object.
    """
    declared = headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != JSON:
        words = f"the content-type is {shown(declared)}: send JSON, and say so (content-type: {JSON})"
        raise Refusal(415, words, code="unsupported_media_type")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.body:
        raise _too_large(limits.body)
    try:
        async with asyncio.timeout(limits.reading):
            data = await _gather(chunks, limits.body)
    except TimeoutError:
        words = f"the request did not arrive within {limits.reading:g} seconds"
        raise Refusal(408, words, code="request_timeout") from None
    body = parse(data)
    if _is_more(body, limits.values):
        words = f"the request has more than {limits.values} values, which is what this server takes"
        raise Refusal(413, words, code="too_large")
    return body


def parse(data: bytes) -> dict[str, Any]:
    """Read a JSON object strictly: UTF-8, no key twice, no NaN. Raises a `Refusal`."""
    try:
        body = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _no_json(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _no_json("it is nested too deeply") from None
    except ValueError:
        raise _no_json("it has a number that is too long") from None
    if not isinstance(body, dict):
        raise _no_json(f"it is {shown(body)}, not an object")
    return body


async def _gather(chunks: AsyncIterator[bytes], most: int) -> bytes:
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > most:
            raise _too_large(most)
    return bytes(data)


def _is_more(body: dict[str, Any], most: int) -> bool:
    """Whether there are more values than that, those within values included."""
    count, inside = 0, [list(body.values())]
    while inside and count <= most:
        values = inside.pop()
        count += len(values)
        inside += [
            each if isinstance(each, list) else [*each.values()] for each in values if isinstance(each, list | dict)
        ]
    return count > most


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request has more than {most} bytes, which is what this server takes", code="too_large")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return unique_keys(pairs)
    except ValueError as error:
        raise _no_json(f"{error} in an object") from None


def _refuse_constant(name: str) -> Any:
    raise _no_json(f"{name} is no number of JSON")


def _no_json(why: str) -> Refusal:
    return Refusal(400, f"the body cannot be read as JSON: {why}", code="invalid_json")
