"""What a word that names an ensemble is: a file, or a model alone; and which files a wrong path may have meant."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from unisono.backends.file_kinds import begins_as_gguf
from unisono.config.demo import PREFIX
from unisono.config.member_line import ADDRESSES
from unisono.errors import SpecError, closest

FILES = (".yaml", ".yml")
MODELS = (PREFIX, "fake:", *ADDRESSES)
"""How words begin that are no paths."""
MOST_LISTED = 6
MOST_READ = 5_000
"""Entries of a folder that are looked through."""
_HUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_ALONE = "a model alone is written demo:NAME, ORG/MODEL, or the path of its folder or GGUF file"


def model_alone(word: str | Path) -> str | None:
    """The model that a word names, which is then an ensemble of one; ``None`` where it is a file, or meant as one.

    A path that is there counts first, and a hub id is no path into a folder that is there.
    """
    text = str(word)
    if text.startswith(MODELS):
        return text
    path = Path(word)
    if os.path.isdir(path):
        return text if os.path.isfile(path / "config.json") else None
    if os.path.isfile(path):
        return text if _is_gguf(path) else None
    if os.path.exists(path) or os.path.isdir(path.parent):
        return None
    return text if _HUB.fullmatch(text) and path.suffix not in (*FILES, ".gguf", ".json") else None


def no_such_spec(path: Path) -> SpecError:
    """What is wrong where there is no file of a path, with those that may be meant."""
    folder = path.parent
    there = _files(folder)
    beside = "" if folder == Path() else f" in {str(folder)!r}"
    if there:
        listed = ", ".join(there[:MOST_LISTED]) + (", …" if len(there) > MOST_LISTED else "")
        hint = f"there {'is' if len(there) == 1 else 'are'}{beside}: {listed}"
    else:
        hint = f"check the path of the ensemble file: there is none{beside or ' in this folder'}"
    if "=" in path.name:
        hint = f"-m {str(path)!r} names a member; {hint}"
    elif re.search(r"\s", str(path)) and not there:
        hint = f"if this is the text, write the ensemble before it: duo.yaml {str(path)!r}"
    return SpecError(f"there is no ensemble file {str(path)!r}{_meant(path, there)}", hint=f"{hint}; {_ALONE}")


def _meant(path: Path, there: list[str]) -> str:
    """The path that is probably meant: of the same stem, of a similar name, or in a folder of a similar name."""
    for name in there:
        if Path(name).stem == path.stem or name == path.name + Path(name).suffix:
            return f"; did you mean {str(path.parent / name)!r}?"
    if near := closest(path.name, there):
        return f"; did you mean {str(path.parent / near)!r}?"
    if not os.path.isdir(path.parent) and os.path.isdir(path.parent.parent):
        for folder in _entries(path.parent.parent):
            similar = closest(path.parent.name, [folder.name])
            if similar is not None and os.path.isfile(folder / path.name):
                return f"; did you mean {str(folder / path.name)!r}?"
    return ""


def _files(folder: Path) -> list[str]:
    """The ensemble files of a folder, and its GGUF files."""
    return [each.name for each in _entries(folder) if each.suffix in (*FILES, ".gguf") and not os.path.isdir(each)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(itertools.islice(folder.iterdir(), MOST_READ))
    except OSError:
        return []


def _is_gguf(path: Path) -> bool:
    try:
        return begins_as_gguf(path)
    except OSError:  # which whoever reads it tells
        return False
