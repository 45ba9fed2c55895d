"""The union vocabulary on disk: made once for a set of vocabularies, read in a fraction of the time."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.cache import cache_root, replace_file
from unisono.errors import CacheError
from unisono.vocab.union import MemberMap, UnionMember, UnionVocabulary, build_union

FORMAT = 1
"""Raised whenever the numbering or the file changes, so that old files are not read."""

log = logging.getLogger(__name__)


def load_union(members: Sequence[UnionMember], folder: Path | None = None) -> UnionVocabulary:
    """Return the union of the members' vocabularies, from the cache or built and kept there.

    A damaged, foreign or half-written file is replaced. A folder that cannot be written costs only
    the time to build again next time, and a warning in the log.

    Args:
        members: in their order, which is part of the numbering.
        folder: where the files are; default: ``unions`` in the user's cache folder.

    Raises:
        VocabularyError: a member cannot spell plain text.
    """
    path = (folder or cache_root() / "unions") / f"{union_key(members)}.npz"
    found = read_union(path, members)
    if found is not None:
        return found
    union = build_union(members)
    try:
        replace_file(path, lambda temporary: write_union(temporary, union), "the union vocabulary")
    except CacheError as error:
        log.warning("%s; %s", error.message, error.hint)
    return union


def union_key(members: Sequence[UnionMember]) -> str:
    """The name of a union's file: the content of the vocabularies in their order, nothing else."""
    parts = [f"{member.speller.vocabulary.fingerprint}:{member.leading_space}" for member in members]
    return hashlib.sha256(f"{FORMAT};{';'.join(parts)}".encode()).hexdigest()[:32]


def write_union(path: Path, union: UnionVocabulary) -> None:
    """Write a union as an uncompressed ``.npz``, whose entries carry their own checksums."""
    arrays: dict[str, NDArray[Any]] = {"data": np.frombuffer(union.data, np.uint8), "offset_U": union.offset_U}
    arrays["left_out"] = np.frombuffer(b"".join(union.left_out), np.uint8)
    arrays["left_out_length"] = np.array([len(piece) for piece in union.left_out], np.int64)
    for index, member_map in enumerate(union.maps):
        arrays[f"column_V.{index}"] = member_map.column_V
        arrays[f"id_U.{index}"] = member_map.id_U
        if member_map.first_column_V is not None:
            arrays[f"first_column_V.{index}"] = member_map.first_column_V
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_union(path: Path, members: Sequence[UnionMember]) -> UnionVocabulary | None:
    """Read a union's file; ``None`` when it is absent, damaged, or of other members."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            ends = np.cumsum(arrays["left_out_length"])
            pieces = arrays["left_out"].tobytes()
            union = UnionVocabulary(
                maps=tuple(
                    MemberMap(
                        arrays[f"column_V.{index}"],
                        arrays[f"first_column_V.{index}"] if member.leading_space else None,
                        arrays[f"id_U.{index}"],
                    )
                    for index, member in enumerate(members)
                ),
                data=arrays["data"].tobytes(),
                offset_U=arrays["offset_U"],
                left_out=tuple(
                    pieces[end - length : end] for end, length in zip(ends, arrays["left_out_length"], strict=True)
                ),
            )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        log.warning("the cached union vocabulary %s is damaged (%s) and is built again", path, error)
        return None
    return union if _fits(union, members) else None


def _fits(union: UnionVocabulary, members: Sequence[UnionMember]) -> bool:
    return int(union.offset_U[-1]) == len(union.data) and all(
        len(member_map.column_V) == member.speller.vocabulary.rows and len(member_map.id_U) == union.size
        for member_map, member in zip(union.maps, members, strict=True)
    )
