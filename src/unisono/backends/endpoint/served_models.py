"""Which of the models that an OpenAI-compatible server lists is the one that a member names."""

from __future__ import annotations

import hashlib
from typing import Any

from unisono.errors import SpecError

Entry = dict[str, Any]
_FIRST = 16
"""The most names that a message lists."""


def find_served(models: object, name: str | None, member: str, address: str) -> tuple[Entry, frozenset[str]]:
    """The entry of the model with this name, and all names that it has there, of which any may be in an answer.

    ``models`` is what stands at ``/v1/models``. A server of one model needs no name. Raises a `SpecError`.
    """
    listed = models.get("data") if isinstance(models, dict) else None
    entries = {
        entry["id"]: entry for entry in listed or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    }
    wanted = next(iter(entries), None) if name is None else name
    if wanted in entries:
        names = frozenset(each for each, entry in entries.items() if _is_same(entry, entries[wanted]))
        if name is not None or len(names) == len(entries):
            return entries[wanted], names
    wrong = "serves several models" if name is None and entries else f"does not serve {name!r}"
    if not entries:
        wrong = "serves no model"
    rest = f" and {len(entries) - _FIRST} more" if len(entries) > _FIRST else ""
    raise SpecError(
        f"member {member!r}: {address} {wrong}",
        hint=f"let its key served_model name one of: {', '.join([*entries][:_FIRST]) or 'none is served'}{rest}",
    )


def fingerprint(entry: Entry) -> str:
    """What is known of the model; another one has another."""
    told = [entry.get(key) for key in ("id", "root", "parent", "max_model_len", "owned_by")]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _is_same(entry: Entry, other: Entry) -> bool:
    """Whether two entries are one model: vLLM lists each of its names, with the path that all have."""
    if entry["id"] == other["id"]:
        return True
    told = [[each.get(key) for key in ("root", "parent", "max_model_len", "owned_by")] for each in (entry, other)]
    return bool(entry.get("root")) and entry.get("owned_by") == "vllm" and told[0] == told[1]
