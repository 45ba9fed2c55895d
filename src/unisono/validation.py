"""What pydantic finds wrong with a value, in the words of this project."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from unisono.errors import nearest

_KINDS = {
    "string_type": "text",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "a number"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "iterable_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "{object}"),
    "none_required": "null",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
}
"""What a value must be, by the types of pydantic's errors; in braces, what their context says."""
_BOUNDS = {
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less",
    "greater_than": "more than {gt}",
    "less_than": "less than {lt}",
    "too_short": "of {min_length} or more entries",
    "too_long": "of {max_length} entries or fewer",
    "string_too_short": "of {min_length} or more characters",
    "string_too_long": "of {max_length} characters or fewer",
    "int_parsing_size": "a number of fewer digits",
}
"""The same for a value of the right kind."""
_FAULTS = {"string_unicode": "it is not Unicode text; repair its encoding"}
_QUOTED = re.compile(r"'([^']*)'")


def explain(problems: Iterable[Mapping[str, Any]], *, an_object: str = "an object") -> str:
    """Say what is wrong with a value, in words that follow ``NAME is VALUE: ``.

    ``problems`` are entries of `ValidationError.errors` about one value; of a union, each type has its own.
    ``an_object`` is what the value's language calls one.
    """
    given = list(problems)
    musts, faults, near = list[str](), list[str](), ""
    for problem in [each for each in given if each["type"] not in _KINDS] or given:  # of the right kind
        kind, context = problem["type"], problem.get("ctx") or {}
        if kind in ("too_short", "string_too_short") and context["min_length"] == 1:
            faults.append("it must not be empty")
        elif kind in _KINDS or kind in _BOUNDS:
            numbers = {key: int(value) for key, value in context.items() if _is_whole(value)}
            template = _KINDS.get(kind) or _BOUNDS[kind]
            musts.append(template.format_map({**context, **numbers, "object": an_object}))
            choices = _QUOTED.findall(str(context.get("expected", context.get("expected_tags", ""))))
            near = near or nearest(str(context.get("tag", problem.get("input"))), choices)
        else:
            faults.append(_FAULTS.get(kind) or _plain(str(problem["msg"])))
    must = [f"it must be {' or '.join(dict.fromkeys(musts))}{near}"] if musts else []
    return ", or ".join(dict.fromkeys([*must, *faults]))


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _plain(message: str) -> str:
    ours = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:] if ours == message else ours
