"""Writes an ensemble file that was made of another one, or of flags."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unisono.cache import write_whole
from unisono.config.member import OF_PATHS
from unisono.errors import SpecError
from unisono.user_files import SETTINGS, read_text


def check_out(out: Path, spec: Path | None, prompts: Path | None = None, *, flag: str = "--out") -> None:
    """Refuse a file that cannot be written, that is read, or that is no ensemble file. Raises a `SpecError`."""
    name = repr(str(out))
    if os.path.isdir(out):
        raise SpecError(f"{flag} is {name}, a folder", hint="give a file")
    for read, what in ((spec, "the ensemble file itself"), (prompts, "the file of the prompts itself")):
        if read is not None and os.path.exists(out) and os.path.exists(read) and out.samefile(read):
            raise SpecError(f"{flag} is {name}, {what}", hint="give another file")
    try:
        folder = out.resolve().parent
    except (OSError, RuntimeError) as error:  # links that lead to one another
        raise SpecError(f"{flag} is {name}, which leads nowhere: {error}", hint="give another file") from error
    if not os.path.isdir(folder):
        raise SpecError(f"{flag} is {name}, in a folder that does not exist", hint=f"make it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise SpecError(f"{flag} is {name}, in a folder that cannot be written to", hint=f"choose another {flag}")
    if os.path.exists(out) and not _is_ensemble(out):
        raise SpecError(
            f"{flag} is {name}, which is not an ensemble file and would be overwritten", hint="give another file"
        )


def write_ensemble(
    path: Path, folder: Path, content: Mapping[str, Any], head: str = "", *, flag: str = "--out"
) -> None:
    """Write an ensemble file under a comment, with relative paths of models, from a folder, that hold from where it is.

    A file that was there is replaced when all is written. Raises a `SpecError` where it cannot be.
    """
    target, text = path.resolve(), head + text_of(content, folder, path)
    try:
        write_whole(target, lambda beside: beside.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot write {str(path)!r}: {error.strerror}", hint=f"choose another {flag}") from error


def text_of(content: Mapping[str, Any], folder: Path | None = None, path: Path | None = None) -> str:
    """An ensemble file's text; with relative paths of models, which hold from a folder, as they hold from the file."""
    import yaml

    content = copy.deepcopy(dict(content))
    for member in content["members"]:
        for key in OF_PATHS:
            if folder is not None and path is not None and isinstance(given := member.get(key), str):
                member[key] = _moved(given, folder.resolve(), path.resolve().parent)
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _moved(given: str, old: Path, new: Path) -> str:
    """A relative path as seen from another folder; what is no path that leads somewhere stays what it is."""
    there = old / given
    if Path(given).is_absolute() or not os.path.exists(there):
        return given
    plain = there.resolve() if there.name == ".." else there.parent.resolve() / there.name  # a link keeps its name
    moved = os.path.relpath(plain, new)
    return given if os.path.normpath(given) == moved else moved


def _is_ensemble(path: Path) -> bool:
    """Whether a file is an ensemble file, or empty."""
    import yaml

    try:
        text = read_text(path, SETTINGS)
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return not text.strip() or (isinstance(content, dict) and "members" in content)
