"""Variables of chat templates in the places that other servers give them: each is moved where it is read here.

Baseten and Dynamo call ``chat_template_kwargs`` ``chat_template_args``. Z.ai, Cerebras and DashScope have some of the
variables at the top level, or in ``thinking``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from unisono.server.fields import contradiction, same

VARIABLES, ARGUMENTS = "chat_template_kwargs", "chat_template_args"
THINKING, ENABLED, DISABLED = "thinking", "enable_thinking", "disable_reasoning"
PAST = ("clear_thinking", "preserve_thinking")
"""Whether the reasoning of past answers is left out, or written."""


def with_variables(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """A request's fields with its variables in ``chat_template_kwargs``, for an endpoint that knows these fields.

    Raises a `Refusal` where two places say different things.
    """
    rest = dict(given)
    if isinstance(rest.get(DISABLED), bool) and ENABLED in known:
        _put(rest, ENABLED, not rest[DISABLED], DISABLED, rest.pop(DISABLED))
    if VARIABLES not in known or not isinstance(variables := rest.get(VARIABLES) or {}, Mapping):
        return rest
    variables = dict(variables)
    if isinstance(rest.get(ARGUMENTS), Mapping):
        for name, value in rest.pop(ARGUMENTS).items():
            _put(variables, name, value, f"{ARGUMENTS}.{name}", value, VARIABLES)
    thinking = rest.get(THINKING)
    for name in PAST:
        if name in rest:
            _put(variables, name, value := rest.pop(name), name, value, VARIABLES)
        if isinstance(thinking, Mapping) and (value := thinking.get(name)) is not None:
            _put(variables, name, value, f"{THINKING}.{name}", value, VARIABLES)
    if isinstance(thinking, Mapping):
        rest[THINKING] = {name: value for name, value in thinking.items() if name not in PAST}
    return {**rest, VARIABLES: variables} if variables else rest


def _put(into: dict[str, Any], name: str, value: Any, its: str, given: Any, within: str = "") -> None:
    """Set what is given in another place, unless something else stands there."""
    if into.get(name) is not None and not same(into[name], value):
        raise contradiction(its, given, f"{within}.{name}" if within else name, into[name])
    into[name] = value
