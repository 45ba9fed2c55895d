"""A first test of a loaded model: whether it writes like a language model, and as its tokenizer reads.

It takes a short text and a short answer when a model is loaded for the first time (`model_findings`); what it found is
kept in the cache. ``UNISONO_SELF_CHECK=off`` leaves it out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from unisono.backends.base import Backend
from unisono.backends.gguf_parts import parts_of
from unisono.backends.registry import BACKENDS
from unisono.cache import cache_root, replace_file
from unisono.errors import CacheError, UnisonoError
from unisono.members import PreparedMember
from unisono.model_findings import adapter_findings, findings, text_ids
from unisono.user_files import SETTINGS, read_bytes

log = logging.getLogger(__name__)

SWITCH = "UNISONO_SELF_CHECK"
FORMAT = 5
"""Increment when the same model could be judged otherwise."""


def self_check(member: PreparedMember, backend: Backend) -> tuple[str, ...]:
    """What is wrong with a loaded model, in words, each naming its member; nothing for a model that is fine.

    ``backend`` has a free slot. What was found for these files before is read from the cache. Nothing is found where
    the check is `left_out`.
    """
    if left_out(member) or backend.facts.truncated is not None or len(text_ids(member)) > backend.facts.context:
        return ()
    path = _path(member)
    found = _read(path)
    if found is None:
        try:
            found = tuple(findings(member, backend))
        except (MemoryError, UnisonoError):
            raise
        except Exception as error:  # a check refuses no model
            found = (f"could not be checked ({type(error).__name__}: {error})",)
        else:
            _keep(path, member.source.location, found)
    return tuple(f"{subject(member)} {words}" for words in found)


def subject(member: PreparedMember) -> str:
    """What is checked, in words: the model that a member has, which is not the member where that has an adapter."""
    name = f"member {member.spec.name!r}"
    return name if member.adapter is None else f"the model of {name}, without its adapter,"


def adapter_check(member: PreparedMember, backend: Backend) -> tuple[str, ...]:
    """What is wrong with a model with a member's adapter, as which it sees the ``backend``: in a pass at each start."""
    if left_out(member) or backend.facts.truncated is not None:
        return ()
    try:
        found = tuple(adapter_findings(member, backend))
    except (MemoryError, UnisonoError):
        raise
    except Exception as error:  # a check refuses no model
        found = (f"could not be checked with its adapter ({type(error).__name__}: {error})",)
    return tuple(f"member {member.spec.name!r} {words}" for words in found)


def left_out(member: PreparedMember) -> str | None:
    """Why a model is not checked when it is loaded, in words; ``None`` where it is."""
    if (switch := os.environ.get(SWITCH, "")).lower() in ("off", "0", "no", "false"):
        return f"{SWITCH} is {switch!r}"
    if member.source.kind in ("endpoint", "ray"):
        return "who loads its weights checks them"
    if member.source.kind == "fake":
        return "it is no real model"
    if member.facts.truncated is not None:
        return "it tells its likeliest ids only"
    if (ids := len(text_ids(member))) > member.facts.context:
        return f"the check reads {ids} tokens, and its context is {member.facts.context}"
    return None


def why_not_done(member: PreparedMember) -> str:
    """Why nothing is `kept` of a check."""
    if (why := left_out(member)) is not None:
        return why
    if _path(member) is None:
        return "it is made at each start, for the revision of the model is not known"
    return "it is made when the model is first loaded, as --weights does"


def kept(member: PreparedMember) -> tuple[str, ...] | None:
    """What an earlier check of the same files found; ``None`` where there was none."""
    return _read(_path(member))


def _read(path: Path | None) -> tuple[str, ...] | None:
    try:
        kept = None if path is None else json.loads(read_bytes(path, SETTINGS))
        return tuple(kept["findings"]) if path and kept and kept["sum"] == _sum(path, kept["findings"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _sum(path: Path, findings: Sequence[str]) -> str:
    """What tells the findings of an entry from any others."""
    return hashlib.sha256(json.dumps([path.name, list(findings)]).encode()).hexdigest()


def _keep(path: Path | None, model: str, findings: Sequence[str]) -> None:
    if path is None:
        return
    content = json.dumps({"model": model, "findings": findings, "sum": _sum(path, findings)}, ensure_ascii=False)
    try:
        replace_file(path, partial(_write, content), "the result of a self-check")
    except CacheError as error:
        log.warning("%s; %s", error.message, error.hint)


def _write(content: str, path: Path) -> None:
    path.write_text(content, "utf-8")


def _path(member: PreparedMember) -> Path | None:
    """The cache entry: by the model's files and by all that decides how they are read."""
    files = _files(member)
    if files is None:
        return None
    encoder, libraries = member.encoder, BACKENDS[member.backend].libraries
    parts = [
        *(FORMAT, *files, member.backend, member.facts.dtype, member.facts.device, member.vocabulary.fingerprint),
        *(None if encoder.template is None else encoder.template.source, encoder.system, encoder.prefix),
        *(getattr(sys.modules.get(library), "__version__", None) for library in libraries),
        repr(sorted(member.owner.options.items())),
    ]
    return cache_root() / "self-checks" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"


def _files(member: PreparedMember) -> list[str] | None:
    """What tells the files of a model from others; ``None`` where that is not known."""
    source = member.source
    if source.kind in ("fake", "endpoint", "ray"):
        return None
    if source.kind == "hub":
        return [source.location, member.facts.revision] if member.facts.revision else None
    if source.sha256 is not None:
        return [source.sha256]
    paths = sorted(source.path.iterdir()) if source.kind == "folder" else parts_of(source.path)
    stats = [(path, path.stat()) for path in paths if path.is_file()]
    return [source.location, *(f"{path.name} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)]
