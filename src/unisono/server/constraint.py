"""What an answer is restricted to: our own field, and the names that vLLM, SGLang and llama.cpp have for the same."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from unisono.config.constraint import BYTE_ORDER_MARK, JSON_OBJECT, JSON_SCHEMA, LARK, REGEX, Constraint
from unisono.config.constraint import KINDS as KINDS_OF_ALL
from unisono.constraints.grammar import SUBJECT
from unisono.constraints.json_schema import DEFINED_FORMATS, plain_schema, without_unknown_formats
from unisono.errors import SpecError, UnisonoError, shown
from unisono.server.errors import Refusal, invalid, refusal_of
from unisono.server.field_tables import WRITE_LARK
from unisono.server.fields import unsupported
from unisono.server.json_size import is_deeper
from unisono.server.schemas import GenerationFields

OWN = "unisono.constraint"
GRAMMAR = "guided_grammar"
LLGUIDANCE = "%llguidance"
"""What a grammar of llguidance begins with, in Lark's form: that of clients of guidance, and in llama.cpp, too."""
KINDS = {
    GRAMMAR: LARK,
    "guided_json": JSON_SCHEMA,
    "guided_regex": REGEX,
    "guided_choice": LARK,
    "json_schema": JSON_SCHEMA,
    "regex": REGEX,
}
"""By field, the kind of its constraint; a choice is written as a grammar."""
IN_STRUCTURED_OUTPUTS = {
    "json": JSON_SCHEMA,
    "regex": REGEX,
    "choice": LARK,
    "json_object": JSON_OBJECT,
    "grammar": LARK,
}


def read_constraint(request: GenerationFields, *, strict: bool = False) -> tuple[Constraint | None, str]:
    """The constraint of a call, and the field that it comes from. Raises a `Refusal` that names a wrong one."""
    given: dict[str, Any] = {}
    if request.unisono is not None and request.unisono.constraint is not None:
        given[OWN] = request.unisono.constraint
    for name, kind in KINDS.items():
        if (value := getattr(request, name)) is not None:
            if name == GRAMMAR:
                _check_grammar(name, value)
            given[name] = _of_kind(kind, value)
    for key, value in (request.structured_outputs or {}).items():
        if value is None or value is False:
            continue
        name = f"structured_outputs.{key}"
        if key not in IN_STRUCTURED_OUTPUTS:
            known = ", ".join(IN_STRUCTURED_OUTPUTS)
            raise invalid(name, f"{name} is {shown(value)}, and is not supported; known: {known}; or use {OWN}")
        kind = IN_STRUCTURED_OUTPUTS[key]
        check = _check_grammar if key == "grammar" else partial(_check_kind, kind)
        check(name, value)
        given[name] = _of_kind(kind, value)
    found = {name: _parsed(constraint, name, strict=strict) for name, constraint in given.items()}
    name = next(iter(found), OWN)
    # One client may ask several servers: guidance writes a grammar by vLLM's old name and by its new one.
    if (other := next((other for other in found if found[other] != found[name]), None)) is not None:
        raise invalid(name, f"{name} and {other} are given: leave one out")
    return found.get(name), name


def is_of_llguidance(grammar: object) -> bool:
    """Whether a grammar says that it is one of llguidance, as those have to that clients send."""
    return isinstance(grammar, str) and grammar.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(LLGUIDANCE)


def _check_grammar(name: str, value: Any) -> None:
    """Refuse a grammar of another form: one text may be several things in EBNF, GBNF and Lark."""
    if not is_of_llguidance(value):
        words = f"grammars of llguidance are read, which begin with {LLGUIDANCE}; {WRITE_LARK}"
        raise unsupported(name, value, words)


def _check_kind(kind: str, name: str, value: Any) -> None:
    if kind == JSON_OBJECT and value is not True:
        raise invalid(name, f"{name} is {shown(value)}: it is true or false")
    if kind != LARK:
        return
    if not isinstance(value, list) or not value or not all(isinstance(word, str) and word for word in value):
        raise invalid(name, f"{name} is {shown(value)}: it is a list of one text or more, none of them empty")


def _of_kind(kind: str, value: Any) -> Any:
    if kind == JSON_OBJECT:
        return JSON_OBJECT
    return {kind: _choice(value) if kind == LARK and isinstance(value, list) else value}


def _choice(words: list[str]) -> str:
    """A grammar of words, as one terminal: of rules, there may be few thousands at one place."""
    return f"start: CHOICE\nCHOICE: {' | '.join(map(json.dumps, words))}"


def read_format(given: Any, *, strict: bool = False) -> Constraint | None:
    """The constraint of a ``response_format``. Raises a `Refusal` that names the wrong field."""
    if given is None or given["type"] == "text":
        return None
    if given["type"] == REGEX:
        return _parsed({REGEX: given[REGEX]}, "response_format", strict=strict)
    wanted = given if given["type"] == JSON_OBJECT else given["json_schema"]
    if strict and wanted.get("description") is not None:
        name = "response_format.json_schema.description"
        words = f"{name} is given, and no member is shown it: write it into a message"
        raise Refusal(400, words, param=name, code="unsupported")
    if (schema := wanted.get("schema")) is None:
        return Constraint(JSON_OBJECT)
    return _parsed({JSON_SCHEMA: schema}, "response_format", strict=strict)


def _parsed(constraint: object, name: str, *, strict: bool) -> Constraint | None:
    """Read a constraint; its schema, unless strict, as it was meant. Raises a `Refusal` that names its field."""
    try:
        found = Constraint.parse(constraint)
        if strict or found is None or found.kind != JSON_SCHEMA or is_deeper(schema := found.schema):
            return found
        return Constraint.parse({JSON_SCHEMA: without_unknown_formats(plain_schema(schema), DEFINED_FORMATS)})
    except SpecError as error:
        raise refusal_of(error, param=name) from None


def said_of(error: UnisonoError, name: str) -> UnisonoError:
    """An error of a constraint whose subject is the field that it comes from: a client has not written its grammar."""
    words = error.message
    for subject in map(SUBJECT.format, () if name == OWN else KINDS_OF_ALL):
        words = words.replace(subject, name, 1)
    return type(error)(words, hint=error.hint)
