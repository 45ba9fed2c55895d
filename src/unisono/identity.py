"""Which model a member has: what tells it from another one, without its local path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from unisono.errors import SpecError
from unisono.members import PreparedMember

WEIGHTS = ("*.safetensors", "*.gguf", "*.bin")
_CHEAP = ("sha256", "revision", "bytes")
"""What is known of a model without reading its weights, where it is known at all."""


def identity(member: PreparedMember) -> dict[str, str]:
    """A model's name without its local path, and the sha256 of its weights or their commit on the hub."""
    source, revision = member.source, member.facts.revision
    path = source.path
    if path.is_file():
        return {"name": path.name, "sha256": source.sha256 or sum_of([path])}
    if path.is_dir():
        files = sorted(file for pattern in WEIGHTS for file in path.glob(pattern))
        return {"name": path.name, "sha256": sum_of(files)}
    return {"name": source.location, **({} if revision is None else {"revision": revision})}


def sum_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def marks_of(member: PreparedMember) -> dict[str, str]:
    """What a file of fitted members keeps of a model: its `identity`, and the size of its weights."""
    return {**identity(member), "bytes": str(member.facts.weight_bytes)}


def check_fitted(members: Sequence[PreparedMember], fitted: Mapping[str, Mapping[str, str]], *, whole: bool) -> None:
    """Hold members' models against those that an ensemble was fitted on; the sums of files only if ``whole``.

    Raises:
        SpecError: a member has another model.
    """
    for member in members:
        before = fitted.get(member.spec.name)
        if before is None:
            continue
        now = marks_of(member) if whole else _cheap(member)
        for key in _CHEAP:
            if key in now and before.get(key, now[key]) != now[key]:
                raise SpecError(
                    f"the file was fitted on another model of member {member.spec.name!r}: its {key} was "
                    f"{before[key]}, and is {now[key]}",
                    hint="fit it again (`unisono fit`), or take the key fitted, and what was fitted, out of the file",
                )


def _cheap(member: PreparedMember) -> dict[str, str]:
    known = {"sha256": member.source.sha256, "revision": member.facts.revision, "bytes": str(member.facts.weight_bytes)}
    return {key: value for key, value in known.items() if value is not None}
