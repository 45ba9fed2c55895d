"""``unisono import-gac``: an ensemble file out of a configuration of the GaC research release."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from unisono.cli.console import say
from unisono.cli.flags import Overwrite, optional, verb_app
from unisono.errors import SpecError
from unisono.user_files import SETTINGS, read_text, why_unread


def import_gac(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A GaC configuration (YAML).", show_default=False)],
    out: Annotated[Path | None, optional(help="Write the ensemble file there. Default: stdout.")] = None,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the spec and the notes as one JSON object on stdout.")
    ] = False,
) -> None:
    """Convert a configuration of the GaC research release into an ensemble file."""
    from unisono.config.gac import import_gac as convert

    imported = convert(_read(config), config)
    text = imported.to_yaml(config.name)
    if out is not None and os.path.exists(out) and out.samefile(config):
        raise SpecError(f"--out is {str(out)!r}, the configuration itself", hint="choose another file")
    if out is not None:
        _write(out, text, overwrite=overwrite)
    if as_json:
        notes = [asdict(note) for note in imported.notes]
        print(json.dumps({"spec": dict(imported.spec), "notes": notes}, ensure_ascii=False))
    elif out is None:
        sys.stdout.write(text)
    for note in imported.notes:
        say(f"note: {note}")


app = verb_app(import_gac)


def _read(path: Path) -> str:
    try:
        return read_text(path, SETTINGS, named=True)
    except FileNotFoundError:
        raise SpecError(f"there is no configuration {str(path)!r}", hint="check its path") from None
    except (OSError, UnicodeDecodeError) as error:
        words = f"cannot read the configuration {str(path)!r}: {why_unread(error)}"
        raise SpecError(words, hint="check the file") from error


def _write(path: Path, text: str, *, overwrite: bool) -> None:
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SpecError(f"{str(path)!r} is there already", hint="--overwrite replaces it") from None
    except OSError as error:
        raise SpecError(f"cannot write {str(path)!r}: {error.strerror}", hint="choose another file") from error
