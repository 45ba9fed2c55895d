"""The variables by which chat templates are told whether to think, and what a template reads for not to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_probe import QUESTION
from unisono.chat.template_variables import SWITCHES

EFFORT, THINKING = "reasoning_effort", SWITCHES[0]
NO_EFFORT = ("none", "no_think")
"""Efforts that stand for no reasoning, in templates that know one by its name."""
WITHOUT: Mapping[str, Any] = {
    **dict.fromkeys(SWITCHES, False),
    "thinking_budget": 0,
    "thinking_mode": "disabled",
    "thinking_option": "off",
}
"""By variable, what stands for no reasoning."""
WORDS = (
    *("minimal", "low", "medium", "high", "xhigh", "max", "ultra"),
    *("enabled", "disabled", "adaptive", "on", "off", *NO_EFFORT),
)
"""Values that templates compare, and that are no user's words."""
_STATES = {"thinking_mode": ("enabled", "disabled"), "thinking_option": ("on", "off")}
_NONSENSE = "probe_effort"


@functools.lru_cache(64)
def without_thinking(template: ChatTemplate) -> Mapping[str, Any]:
    """The variables that tell a template not to think, of those that it reads.

    An effort is one of them where the template treats that as no other text: gpt-oss writes any into its prompt.
    """
    found = {name: value for name, value in WITHOUT.items() if name in template.variables}
    if EFFORT in template.variables and (effort := next(filter(_knower(template, found), NO_EFFORT), None)):
        found[EFFORT] = effort
    return found


def _knower(template: ChatTemplate, found: Mapping[str, Any]) -> Callable[[str], bool]:
    other = _rendered(template, {**found, EFFORT: _NONSENSE})

    def knows(effort: str) -> bool:
        text = _rendered(template, {**found, EFFORT: effort})
        return text is not None and (other is None or text != other.replace(_NONSENSE, effort))

    return knows


def _rendered(template: ChatTemplate, variables: Mapping[str, Any]) -> str | None:
    try:
        return template.probe([QUESTION], variables=variables)
    except TemplateFailure:
        return None


def thinking_words(template: ChatTemplate, variables: Mapping[str, Any] | None, *, off: bool) -> dict[str, Any]:
    """What a template is told of thinking in known words: by a request's variables, and with reasoning ``off``."""
    own = without_thinking(template) if off else {}
    known = {name: value for name, value in (variables or {}).items() if isinstance(value, str) and value in WORDS}
    if known.get(EFFORT) in NO_EFFORT and EFFORT in own:  # the template's own word for it
        del known[EFFORT]
    return {**own, **{name: value for name, value in known.items() if name in (EFFORT, *_STATES)}}


def asked(variables: Mapping[str, Any] | None) -> Iterator[tuple[str, Any, bool]]:
    """The variables that say whether to think, with their values, and whether to."""
    for name, value in (variables or {}).items():
        if name == EFFORT and isinstance(value, str):
            yield name, value, value.lower() not in NO_EFFORT
        elif name in SWITCHES and isinstance(value, bool):
            yield name, value, value
        elif name == "thinking_budget" and isinstance(value, int) and not isinstance(value, bool):
            yield name, value, value != 0
        elif name in _STATES and value in _STATES[name]:
            yield name, value, value != WITHOUT[name]
