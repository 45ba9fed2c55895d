"""Read a request's body: bytes, within the server's limits, into a checked record.

What becomes of the fields that no record has, `fields` says; `messages` reads those of a chat.
"""

from __future__ import annotations

import asyncio
import json
import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from unisono.errors import shown
from unisono.server.constraint import GRAMMAR, is_of_llguidance
from unisono.server.errors import Refusal
from unisono.server.fields import NAMES_OF_ONE, Field, by_one_name, contradiction, is_off, read_fields, same
from unisono.server.functions import FUNCTIONS, with_tools
from unisono.server.invalid_fields import explained
from unisono.server.json_size import body_has_more, is_deeper
from unisono.server.limits import ServerLimits
from unisono.server.plain_fields import plain_fields
from unisono.server.schemas import Record
from unisono.server.template_fields import with_variables
from unisono.user_files import short_float, unique_keys

R = TypeVar("R", bound=Record)

JSON = "application/json"
CHARSET = re.compile(r"""charset\s*=\s*["']?([^"';\s]+)""", re.IGNORECASE)
DEEP = "it is nested too deeply"
GRAMMARS = (GRAMMAR, "grammar", "grammar_string")
"""The names of a grammar: vLLM's, llama.cpp's, and textgen's."""
HOLDERS = ("extra_body", "options")
"""Fields whose keys are fields: of clients that send openai's ``extra_body`` as it is, and Ollama's."""
ASKED = {
    "messages": ("ChatRequest", "/v1/chat/completions"),
    "prompt": ("CompletionRequest", "/v1/completions"),
    "input": ("ResponseRequest", "/v1/responses"),
}
"""What the endpoints are asked with: by field, the name of the endpoint's record, and its path."""


async def read_body(headers: Mapping[str, str], chunks: AsyncIterator[bytes], limits: ServerLimits) -> dict[str, Any]:
    """Read a JSON object, which has to be declared as JSON: browsers send that to another site only with permission.

    Raises:
        Refusal: the body is too large, too slow, of another type, or not a JSON object.
    """
    declared = headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != JSON:
        words = f"the content-type is {shown(declared)}: send JSON, declared as {JSON}"
        raise Refusal(415, words, code="unsupported_media_type")
    _check_coding(headers, declared)
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.body:
        raise _too_large(limits.body)
    try:
        async with asyncio.timeout(limits.reading):
            data = bytearray()
            async for chunk in chunks:
                data += chunk
                if len(data) > limits.body:
                    raise _too_large(limits.body)
    except TimeoutError:
        words = f"the request did not arrive within {limits.reading:g} seconds"
        raise Refusal(408, words, code="request_timeout") from None
    if not limits.strict:
        data = data.removeprefix(BOM_UTF8)  # which some clients on Windows write
    body = parse(data)
    if is_deeper(body):
        raise _no_json(DEEP)
    if body_has_more(body, limits.values):
        words = f"the request has more than {limits.values} values, which is what this server takes"
        large = next((name for name in body if body_has_more({name: body[name]}, limits.values)), None)
        raise Refusal(413, words, param=large, code="too_large")
    return body


def _check_coding(headers: Mapping[str, str], declared: str) -> None:
    """Refuse a body that is said to be packed, or in another encoding than JSON's."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        words = f"the content-encoding is {shown(coding)}: send the body as it is"
        raise Refusal(415, words, code="unsupported_media_type")
    charset = CHARSET.search(declared)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        words = f"the charset is {shown(charset[1])}: JSON is sent in UTF-8"
        raise Refusal(415, words, code="unsupported_media_type")


def parse(data: bytes | bytearray) -> dict[str, Any]:
    """Read a JSON object strictly: UTF-8, no duplicate keys, no NaN. Raises a `Refusal`."""
    try:
        body = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=short_float
        )
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _no_json(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _no_json(DEEP) from None
    except ValueError:
        raise _no_json("it has a number that is too long") from None
    if not isinstance(body, dict):
        raise _no_json(f"it is {shown(body)}, not an object")
    return body


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request has more than {most} bytes, which is what this server takes", code="too_large")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    try:
        return unique_keys(pairs)
    except ValueError as error:
        raise _no_json(f"{error} in an object") from None


def _refuse_constant(name: str) -> Any:
    raise _no_json(f"{name} is no number of JSON")


def _no_json(why: str) -> Refusal:
    return Refusal(400, f"the body cannot be read as JSON: {why}", code="invalid_json")


def read_record(record: type[R], body: Mapping[str, Any], table: Mapping[str, Field], *, strict: bool = False) -> R:
    """Validate a request's body. Raises a `Refusal` that names the first wrong, unknown or unsupported field."""
    body = _of_endpoint(record, body, strict=strict)
    body = body if strict else _with_grammar(body)
    given = read_fields(body, table, strict=strict)
    given = with_tools(given, strict=strict) if FUNCTIONS in record.model_fields else given
    given = given if strict else plain_fields(with_variables(given, record.model_fields))
    given = by_one_name(given)
    try:
        return record.model_validate(given)
    except ValidationError as error:
        known = [*record.model_fields, *(name for names in NAMES_OF_ONE for name in names), *table]
        raise explained(error, given, known) from None


def spread(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body with what it holds in `HOLDERS` at the top level. Raises a `Refusal` where that says something else."""
    plain = dict(body)
    for holder in HOLDERS:
        held = plain.get(holder)
        if not isinstance(held, dict):
            continue
        del plain[holder]
        for name, value in held.items():
            if value is not None and plain.get(name) is not None and not same(plain[name], value):
                raise contradiction(f"{holder}.{name}", value, name, plain[name])
            plain.setdefault(name, value)
    return plain


def as_deployed(body: dict[str, Any], named: str | None, models: Sequence[str]) -> dict[str, Any]:
    """A body with the model that its path names, as Azure's clients do: it answers, whatever the body calls it.

    Raises a `Refusal` where the body names another one of the models that there are.
    """
    given = body.get("model")
    if named is None or not isinstance(given, str | None):  # what is no name at all is refused as that
        return body
    if given != named and given in models and named in models:
        raise contradiction("model", given, "the path's deployment", named)
    return {**body, "model": named}


def with_model(body: dict[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """A body with the model that it leaves out, if one ensemble is served. Raises a `Refusal` where several are."""
    if body.get("model") not in (None, ""):
        return body
    if (only := only_ensemble(models)) is not None:
        return {**body, "model": only}
    words = f"the field 'model' is missing; known: {', '.join(models)}"
    raise Refusal(400, words, param="model", code="missing_field")


def only_ensemble(models: Sequence[str]) -> str | None:
    """The ensemble among models, which are members alone, too; ``None`` where there are several, or none."""
    ensembles = [name for name in models if "/" not in name]
    return ensembles[0] if len(ensembles) == 1 else None


def _with_grammar(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A body in which a grammar of llguidance has vLLM's name; grammars of other forms are refused by their own.

    Raises a `Refusal` where two names have different ones.
    """
    given = {name: body[name] for name in GRAMMARS if not is_off(body.get(name))}
    if not any(map(is_of_llguidance, given.values())):
        return body
    first, *others = given
    if (other := next((other for other in others if given[other] != given[first]), None)) is not None:
        raise contradiction(first, given[first], other, given[other])
    return {GRAMMAR: given[first]} | {name: value for name, value in body.items() if name not in GRAMMARS}


def _of_endpoint(record: type[Record], body: Mapping[str, Any], *, strict: bool) -> Mapping[str, Any]:
    """A body without what another endpoint is asked with, which is refused, or empty beside what is asked here."""
    own = next((name for name, (its_record, _) in ASKED.items() if its_record == record.__name__), None)
    if own is None:
        return body
    # A stored prompt of the Responses API is refused as that.
    others = [other for other in ASKED if other != own and (own, other) != ("input", "prompt")]
    for other in others:
        is_empty = not strict and body.get(own) is not None and is_off(body.get(other))
        if body.get(other) is not None and not is_empty:
            words = f"{other} is for {ASKED[other][1]}, and {ASKED[own][1]} takes {own}: send {own}, or ask there"
            raise Refusal(400, words, param=other, code="unknown_field")
    return {name: value for name, value in body.items() if name not in others}
