"""Which model a member has: what tells it from another one, without its local path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from unisono.backends.transformers import adapter_files
from unisono.errors import SpecError
from unisono.members import PreparedMember
from unisono.user_files import open_plain

ADAPTER = (adapter_files.CONFIG, adapter_files.WEIGHTS)
WEIGHTS = ("*.safetensors", "*.gguf", "*.bin")
_EXACT = ("sha256", "revision")
"""What tells a model from all others."""
_ROUGH = ("size", "parameters")
"""What is known of models without reading their weights, on whatever device and in whatever dtype they are held."""
_AGAIN = "fit it again (`unisono fit`), or take the key fitted, and what was fitted, out of the file"


def identity(member: PreparedMember) -> dict[str, str]:
    """A model's name without its local path, and the sha256 of its weights or their commit on the hub."""
    source, revision = member.source, member.facts.revision
    path, adapter = source.path, _adapter(member)
    if path.is_file():
        return {"name": path.name, "sha256": source.sha256 or sum_of([path]), **adapter}
    if path.is_dir():
        return {"name": path.name, "sha256": sum_of(_files(path)), **adapter}
    return {"name": source.location, **({} if revision is None else {"revision": revision}), **adapter}


def _adapter(member: PreparedMember) -> dict[str, str]:
    """The sum of a member's adapter; nothing where it has none."""
    if member.adapter is None:
        return {}
    path = Path(member.adapter)
    files = sorted(each for each in path.iterdir() if each.name in ADAPTER) if path.is_dir() else [path]
    return {"adapter": sum_of(files) if path.exists() else member.adapter}


def sum_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with open_plain(path) as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def marks_of(member: PreparedMember) -> dict[str, str]:
    """What a file of fitted members keeps of a model: its `identity`, and how large it is."""
    return {**_rough(member), **identity(member)}


def check_fitted(members: Sequence[PreparedMember], fitted: Mapping[str, Mapping[str, str]], *, whole: bool) -> None:
    """Hold members' models against those that an ensemble was fitted on; the sums of files only if ``whole``.

    Raises:
        SpecError: a member has another model.
    """
    for member in members:
        before = fitted.get(member.spec.name)
        if before is None:
            continue
        now = marks_of(member) if whole else {**_rough(member), **_exact(member), **_adapter(member)}
        if before.get("adapter") != now.get("adapter"):
            was, its = (
                "none" if each.get("adapter") is None else f"one of sum {each['adapter'][:12]}"
                for each in (before, now)
            )
            raise SpecError(
                f"the file was fitted on another adapter of member {member.spec.name!r}: it was {was}, and is {its}",
                hint=_AGAIN,
            )
        known = [key for key in _EXACT if key in now and key in before] or [key for key in _ROUGH if key in now]
        for key in known:
            if before.get(key, now[key]) != now[key]:
                raise SpecError(
                    f"the file was fitted on another model of member {member.spec.name!r}: its {key} was "
                    f"{before[key]}, and is {now[key]}",
                    hint=_AGAIN,
                )


def _exact(member: PreparedMember) -> dict[str, str]:
    known = {"sha256": member.source.sha256, "revision": member.facts.revision}
    return {key: value for key, value in known.items() if value is not None}


def _rough(member: PreparedMember) -> dict[str, str]:
    """The size of a model's files; of one that has none here, the number of its parameters, where that is known."""
    path, parameters = member.source.path, member.facts.parameters
    files = [path] if path.is_file() else _files(path) if path.is_dir() else []
    if files:
        return {"size": str(sum(file.stat().st_size for file in files))}
    return {} if parameters is None else {"parameters": str(parameters)}


def _files(folder: Path) -> list[Path]:
    return sorted(file for pattern in WEIGHTS for file in folder.glob(pattern))
