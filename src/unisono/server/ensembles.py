"""The ensembles that a server serves: their files by the names of models, and the service over them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from unisono.build import prepare_several
from unisono.config.ensemble import EnsembleSpec
from unisono.config.member_line import default_name
from unisono.config.spec_word import model_alone
from unisono.engine.service import Service
from unisono.errors import SpecError, shown
from unisono.loaded_models import load_service
from unisono.members import Report, silent

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def named_files(ensembles: Iterable[str]) -> dict[str, Path | str]:
    """The files, or models alone, of ``[NAME=]FILE`` by the names of what is served. Raises a `SpecError`."""
    found: dict[str, Path | str] = {}
    for word in ensembles:
        given, equals, rest = word.partition("=")
        named = bool(equals) and not os.path.exists(word)
        path: Path | str = rest if named else word
        if (model := model_alone(str(path))) is None:
            path = Path(path)
        name = given if named else default_name(model) if model is not None else Path(word).stem
        if not NAME.fullmatch(name):
            raise SpecError(
                f"{shown(name)} cannot be the name of a model",
                hint="use letters, digits, '.', '_' and '-'; NAME=FILE gives it another name",
            )
        if name in found:
            raise SpecError(
                f"two ensembles are named {name!r}: {found[name]} and {path}", hint=f"name one otherwise: NAME={path}"
            )
        found[name] = path
    return found


def load_ensembles(
    specs: Mapping[str, EnsembleSpec], *, batch: int, queue: int, chunk: int, alone: bool, report: Report = silent
) -> Service:
    """Load ensembles by the names under which they are served; see `load_service`."""
    prepared = prepare_several(list(specs.values()), batch=batch, report=report)
    return load_service(dict(zip(specs, prepared, strict=True)), alone=alone, queue=queue, chunk=chunk, report=report)
