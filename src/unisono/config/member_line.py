"""One member in one line, ``[NAME=]MODEL[ KEY:VALUE…]``, for ensembles without a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from unisono.config.compact import read_number
from unisono.config.demo import DEMO_MODELS, PREFIX
from unisono.config.member import PLAIN
from unisono.errors import SpecError, nearest, shown

NUMBERS = ("weight", "temperature", "context", "threads", "top", "timeout", "retries", "wait")
TEXTS = (
    *("backend", "dtype", "device", "chat_template", "tokenizer", "served_model", "api_key_env", "on_failure"),
    *("share_weights_with", "adapter"),
)
KEYS = (*NUMBERS, *TEXTS)
"""Keys of a member that a line has room for: those whose values have no blanks."""
ADDRESSES = ("http://", "https://")
FORM = "[NAME=]MODEL[ KEY:VALUE…]"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = re.compile(r"([A-Za-z_]+):(\S+)")
LONGEST_NAME = 64
_NAMING = 'name the members otherwise: "first=MODEL", "second=MODEL"'


def members_of(given: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The members that a list names, each in a line or as a mapping of the file's keys.

    A member without a name is called as its model is. Raises a `SpecError` that names the line.
    """
    if not given:
        raise SpecError("there are no members", hint="name at least one model")
    members = [read_member(each) for each in given]
    names = [member.get("name") for member in members]
    for place, name in enumerate(names):
        if name in names[:place] and name is not None:
            raise SpecError(f"two members are named {shown(name)}", hint=_NAMING)
    return members


def named_members(given: Mapping[str, str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The members that keywords name: ``gemma="demo:gemma3-270m weight:0.5"``. Raises a `SpecError`."""
    return [read_member(each, name) for name, each in given.items()]


def read_member(given: str | Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """A member as the file has it, out of a line or a mapping; ``name`` is its name, where something else has said it.

    Raises a `SpecError` for a line of another form, an unknown key, or one that stands twice.
    """
    if isinstance(given, Mapping):
        return _of_mapping(given, name)
    if not isinstance(given, str) or not given.strip() or "\0" in given:
        raise SpecError(f"a member is {shown(given)}", hint=f"write it as {FORM}, or as a mapping with a model")
    text, keys = _keys(given.strip())
    own, model = _named(text, given)
    if own is not None and name is not None:
        raise SpecError(f"the member {name!r} is {shown(given)}, with another name", hint="leave the name and = out")
    _check_model(model, given)
    return {"name": own or name or default_name(model), **_home(model), **keys}


def member_alone(model: str) -> dict[str, Any]:
    """The one member of an ensemble that is a model alone."""
    return {"name": default_name(model), **_home(model)}


def default_name(model: str) -> str:
    """What a member is called that has no name of its own: the last part of what names its model."""
    if model.startswith(ADDRESSES):
        last = _host(model)
    else:
        last = re.split(r"[/\\]", model.removeprefix(PREFIX).rstrip("/\\"))[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last.removesuffix(".gguf"))
    return plain.strip("-._")[:LONGEST_NAME] or "model"


def _host(address: str) -> str:
    """What an address names; all of one that is none, which `MemberSpec` refuses."""
    try:
        return urlsplit(address).netloc
    except ValueError:
        return address


def _of_mapping(given: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    if name is not None and "name" in given:
        raise SpecError(f"the member {name!r} has a name in its mapping, too", hint="leave the key 'name' out")
    own = {"name": name} if name is not None else {}
    model = given.get("model", given.get("url"))
    if not own and "name" not in given and isinstance(model, str):
        own = {"name": default_name(model)}
    return {**own, **given}


def _keys(text: str) -> tuple[str, dict[str, Any]]:
    """What stands before the keys at the end of a line, and these. A value that is to be a number is one."""
    keys: dict[str, Any] = {}
    while len(parts := text.rsplit(maxsplit=1)) == 2 and (found := _KEY.fullmatch(parts[1])):
        key, value = found.groups()
        if _is_path(text) and not _is_path(parts[0]):
            break
        if key not in KEYS:
            raise SpecError(
                f"unknown key {shown(key)} in the member {shown(text)}{nearest(key, KEYS)}; known: {', '.join(KEYS)}",
                hint="what holds blanks, and every other key of a member, is for an ensemble file (docs/spec.md)",
            )
        if key in keys:
            raise SpecError(f"the key {key!r} of a member is given twice: {shown(text)}", hint="give it once")
        keys[key] = read_number(value) if key in NUMBERS else value
        text = parts[0]
    return text, dict(reversed(keys.items()))


def _is_path(text: str) -> bool:
    """Whether a member's model is a path that is there, whatever its words look like; a name may stand before it."""
    return any(each and os.path.exists(os.path.expanduser(each)) for each in (text, text.partition("=")[2]))


def _named(text: str, line: str) -> tuple[str | None, str]:
    """The name before the first ``=``, if there is one, and the model.

    What holds a slash there is the beginning of a path, and no name.
    """
    name, equals, model = text.partition("=")
    if not equals or "/" in name or "\\" in name:
        return None, text
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"the member {shown(line)}: {shown(name)} cannot be a name",
            hint="use letters, digits, '.', '_' and '-'; keys are written weight:0.5",
        )
    if os.path.exists(text):
        raise SpecError(
            f"the member {shown(line)} may be the file {shown(text)}, or {shown(model)} by the name {name!r}",
            hint=f"write ./{text} for the file, or {name}=./{model}",
        )
    return name, model


def _check_model(model: str, line: str) -> None:
    if not model:
        raise SpecError(f"the member {shown(line)} has no model", hint=f"write it as {FORM}")
    if model.endswith((".yaml", ".yml")):
        raise SpecError(
            f"the member {shown(line)} is an ensemble file", hint="give the file alone, in place of members"
        )
    if re.search(r"\s", model) and not os.path.exists(os.path.expanduser(model)):
        raise SpecError(
            f"the member {shown(line)}: there is no model {shown(model)}, and its last word is not KEY:VALUE",
            hint=f"write it as {FORM}, such as 'gemma=demo:gemma3-270m weight:0.5'; known keys: {', '.join(KEYS)}",
        )


def _home(model: str) -> dict[str, str]:
    """Where a member's model is. A demo model that is a base model reads conversations as questions and answers."""
    demo = DEMO_MODELS.get(model.removeprefix(PREFIX)) if model.startswith(PREFIX) else None
    reads = {"chat_template": PLAIN} if demo is not None and not demo.instruct else {}
    return {"url" if model.startswith(ADDRESSES) else "model": model, **reads}
