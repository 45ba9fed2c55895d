"""Writes an ensemble file that was made of another one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unisono.errors import SpecError


def check_out(out: Path, spec: Path) -> None:
    """Refuse to write over the file that is read. Raises a `SpecError`."""
    if out.exists() and out.samefile(spec):
        raise SpecError(f"--out is {str(out)!r}, the ensemble file itself", hint="give another file")


def write_ensemble(path: Path, spec: Path, content: Mapping[str, Any], head: str) -> None:
    """Write an ensemble file under a comment, with relative paths of models that hold from where it is.

    Raises a `SpecError` where it cannot be written.
    """
    import yaml

    for member in content["members"]:
        beside = spec.parent / member.get("model", "")
        if "model" in member and beside.exists() and not Path(member["model"]).is_absolute():
            member["model"] = os.path.relpath(beside, path.parent)
    body = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=1000)
    try:
        path.write_text(head + body)
    except OSError as error:
        raise SpecError(f"cannot write {str(path)!r}: {error.strerror}", hint="choose another --out") from error
