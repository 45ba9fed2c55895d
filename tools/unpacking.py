"""Takes some files out of an archive, all or none."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path


def unpack(archive: Path, folder: Path, wanted: Callable[[Path], bool]) -> None:
    """Write the wanted files of an archive into a folder, which is replaced when they are all there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        unpacked = Path(name, folder.name)
        unpacked.mkdir()
        with tarfile.open(archive) as opened:
            for member in opened:
                content = opened.extractfile(member) if wanted(Path(member.name)) else None
                if content is not None:
                    with (unpacked / Path(member.name).name).open("wb") as file:
                        shutil.copyfileobj(content, file)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
