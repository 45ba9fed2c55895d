"""A conversation in a file: one JSON object, documented in docs/chat.md, always written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisono.cache import write_whole
from unisono.cli.talk.conversation import REASONING, Conversation, Ending, Turn
from unisono.errors import SpecError, shown
from unisono.user_files import DOCUMENT, check_plain, read_text, short_float, why_unread
from unisono.validation import explain

VERSION = 1
Setting = str | int | float | bool


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str
    reasoning_content: str | None = None
    finish_reason: Ending | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    unisono_chat: Literal[1]
    members: list[str] = Field(default_factory=list)
    settings: dict[str, Setting] = Field(default_factory=dict)
    messages: Annotated[list[_Message], Field(default_factory=list)]


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a file holds of a conversation."""

    conversation: Conversation
    members: tuple[str, ...] = ()
    """Who wrote the answers."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What replaced keys of the ensemble file, as `Method.but` takes them."""
    unanswered: str = ""
    """A question at the end that has no answer."""


def read_transcript(path: Path) -> Transcript:
    """Read what `write_transcript` wrote, or somebody else in that form. Raises a `SpecError`; the file stays."""
    name = repr(str(path))
    try:
        text = read_text(path, DOCUMENT, "utf-8-sig")
    except FileNotFoundError:
        hint = "check the name, or leave --resume out: /save writes such a file"
        raise SpecError(f"there is no conversation {name}", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the conversation {name}: {why_unread(error)}", hint="check the file") from error
    try:
        found = _File.model_validate(json.loads(text, parse_float=short_float))
    except ValidationError as error:
        raise _no_conversation(name, _explained(error)) from error
    except (ValueError, RecursionError) as error:
        raise _no_conversation(name, f"it is not JSON: {error}") from error
    return _transcript(name, found)


def write_transcript(path: Path, transcript: Transcript) -> None:
    """Write a file in one step: what was there stays until all is written. Raises a `SpecError`."""
    record = {
        "unisono_chat": VERSION,
        "members": list(transcript.members),
        "settings": dict(transcript.settings),
        "messages": _messages(transcript),
    }
    data = (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode(errors="backslashreplace")
    try:
        target = path.resolve()  # a link stays one
        if target.exists():
            check_plain(target, target.stat())
        write_whole(target, lambda beside: beside.write_bytes(data))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"cannot write {str(path)!r}: {why}", hint="give another file: /save FILE") from error


def _messages(transcript: Transcript) -> list[dict[str, str]]:
    conversation = transcript.conversation
    messages = [] if conversation.system is None else [{"role": "system", "content": conversation.system}]
    for turn in conversation.turns:
        messages.append({"role": "user", "content": turn.question})
        reasoning = {REASONING: turn.reasoning} if turn.reasoning else {}
        messages.append({"role": "assistant", "content": turn.answer, **reasoning, "finish_reason": turn.ending})
    if transcript.unanswered:
        messages.append({"role": "user", "content": transcript.unanswered})
    return messages


def _transcript(name: str, found: _File) -> Transcript:
    messages = list(enumerate(found.messages, 1))
    system = messages.pop(0)[1].content if messages and messages[0][1].role == "system" else None
    turns = list[Turn]()
    while len(messages) > 1:
        question, answer = (_of_role(name, *messages.pop(0), role) for role in ("user", "assistant"))
        turns.append(Turn(question.content, answer.content, answer.reasoning_content, answer.finish_reason or "end"))
    unanswered = _of_role(name, *messages[0], "user").content if messages else ""
    return Transcript(Conversation(system, tuple(turns)), tuple(found.members), found.settings, unanswered)


def _of_role(name: str, number: int, message: _Message, role: str) -> _Message:
    if message.role != role:
        raise _no_conversation(name, f"message {number} is of the role {message.role!r}, and {role!r} comes there")
    if role == "user" and (message.reasoning_content or message.finish_reason):
        raise _no_conversation(name, f"message {number} is a user's, and neither reasons nor ends")
    return message


def _explained(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {shown(where)}"
    if problem["type"] == "missing":
        return f"it lacks the key {where!r}"
    return f"{where or 'it'} is {shown(problem['input'])}: {explain([dict(problem)])}"


def _no_conversation(name: str, why: str) -> SpecError:
    return SpecError(
        f"{name} is not a conversation of unisono chat: {why}",
        hint="name a file that /save wrote; this one was not changed",
    )
