"""Tells one model from another: a digest of its vocabulary, its shape, and samples of its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from unisono.members import Model
from unisono.user_files import open_plain

SAMPLE = 1 << 12
SAMPLES = 1 << 12
"""Of so many places, evenly over a file, so many bytes are read: of a model of 16 GB every 4 MB, so that no matrix of a
layer is passed over, and all of a file of 16 MB."""


def fingerprint(model: Model, table: bytes) -> str:
    """The digest of a model whose weights need not be loaded; ``table`` is its token table as it is sent."""
    facts, source = model.facts, model.source
    found = hashlib.sha256(table)
    shape = [facts.architecture, facts.rows, facts.parameters, facts.dtype, facts.revision, source.kind, source.sha256]
    found.update(json.dumps([model.backend, *shape, model.owner.options], default=repr, sort_keys=True).encode())
    if source.kind in ("hub", "fake"):
        found.update(source.location.encode())
    else:
        for path in _files(source.path):
            found.update(f"{path.name} {path.stat().st_size}\n".encode())
            found.update(_samples(path))
    return found.hexdigest()[:32]


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]


def _samples(path: Path) -> bytes:
    size = path.stat().st_size
    step = max(SAMPLE, (size - SAMPLE) // SAMPLES)
    found = hashlib.sha256()
    with open_plain(path) as file:
        for place in (*range(0, size, step), max(0, size - SAMPLE)):
            file.seek(place)
            found.update(file.read(SAMPLE))
    return found.digest()
