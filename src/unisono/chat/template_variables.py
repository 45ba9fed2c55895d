"""Variables of chat templates beside messages and tools: what they may be named, and hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unisono.chat.json_values import plain_value
from unisono.errors import SpecError, shown

SWITCHES = ("enable_thinking", "thinking")
"""Variables of templates that are true or false: Qwen's, and that of Granite, DeepSeek and Kimi."""

TEMPLATE_VARIABLES = (
    *("messages", "tools", "documents", "add_generation_prompt"),
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    "additional_special_tokens",
    *("raise_exception", "strftime_now", "namespace", "dict", "range", "cycler", "joiner", "lipsum"),
)
"""What every chat template is given, and so cannot be given beside it: the conversation, special tokens, functions."""


def checked_variables(what: str, given: object, reserved: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise SpecError(f"{what} is {shown(given)}, not a mapping of names to values", hint='write {"name": value}')
    if taken := next((key for key in given if key in reserved), None):
        raise SpecError(f"{what} holds {taken!r}, which has a place of its own", hint="leave it out there")
    plain: Mapping[str, Any] = plain_value(what, given)
    return plain


def check_truths(what: str, variables: Mapping[str, Any]) -> None:
    """Refuse text in the place of a truth value: a template takes every text that is not empty for true."""
    for name, value in variables.items():
        if not isinstance(value, str):
            continue
        if name in SWITCHES or value.strip().lower() in ("true", "false"):
            raise SpecError(
                f"{what} holds {name}: {shown(value)}, a text, which templates take for true",
                hint="write true or false, without quotation marks",
            )
