"""Which ensemble a verb is for: the flags that name a file, a model alone, or members; and what these say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unisono.cli.flags import optional
from unisono.cli.method import MethodFlags
from unisono.errors import SpecError
from unisono.user_files import SETTINGS, read_text

if TYPE_CHECKING:
    from unisono.config.ensemble import EnsembleSpec
    from unisono.config.method import Method

SUFFIXES = (".yaml", ".yml", ".gguf")
NO_ENSEMBLE = "name its file, a model alone (demo:NAME, ORG/MODEL, a folder or a GGUF file), or members with -m"

MemberWords = Annotated[
    list[str] | None,
    optional(
        "--member",
        "-m",
        metavar="[NAME=]MODEL",
        help="Name a member in place of a file, once for each member. KEY:VALUE may follow in the same word: "
        "'gemma=demo:gemma3-270m weight:0.5'.",
    ),
]
Save = Annotated[
    Path | None,
    optional("--save", metavar="FILE", help="Write an ensemble file with these members and flags."),
]


@dataclass(frozen=True)
class Given:
    """An ensemble as a command line names it."""

    spec: EnsembleSpec
    file: Path | None
    """Its file; ``None`` for a model alone, and for members."""
    name: str
    """What files and folders that are made of it are called."""

    @property
    def folder(self) -> Path:
        """What relative paths of models begin in."""
        return Path.cwd() if self.file is None else self.file.resolve().parent

    def beside(self, suffix: str) -> Path:
        """Where an ensemble is written that is made of it: in the folder of its file, or in the current one."""
        name = f"{self.name}-{suffix}.yaml"
        return Path(name) if self.file is None else self.file.with_name(name)

    @property
    def title(self) -> str:
        return self.name if self.file is None else self.file.name

    @cached_property
    def text(self) -> str:
        """The text of its file, or that which `--save` would write here."""
        if self.file is not None:
            return read_text(self.file, SETTINGS)
        from unisono.cli.ensemble_file import text_of

        return text_of(content_of(self.spec))


@dataclass(kw_only=True)
class SpecFlags:
    """A spec, or members in its place."""

    spec: Annotated[
        str | None, typer.Argument(metavar="SPEC", help="The ensemble file, or a model alone.", show_default=False)
    ] = None
    members: MemberWords = None
    save: Save = None

    def given(self, *, again: bool = False) -> Given:
        """The ensemble, written to ``--save`` where that is given. Raises a `SpecError`.

        A file may be a pipe, unless it will be read ``again``.
        """
        return read_given(self.spec, self.members, self.save, again=again)


@dataclass(kw_only=True)
class EnsembleOrMembers(SpecFlags, MethodFlags):
    """A spec that says itself how it writes, or members, for which flags say it."""

    def given(self, *, again: bool = False) -> Given:
        return read_given(self.spec, self.members, self.save, self.changes(), again=again)


def read_given(
    spec: str | None,
    members: list[str] | None,
    save: Path | None = None,
    method: Mapping[str, Any] | None = None,
    *,
    again: bool = False,
    changes_files: bool = False,
) -> Given:
    """Read what a command line says of an ensemble, and write it to ``save``.

    The flags of the method change a model alone and members, and a file only where that is said. Raises a `SpecError`.
    """
    from unisono.config.ensemble import load_spec

    if spec is not None and members:
        raise SpecError(f"{spec!r} and -m are both given", hint="give the file, or name all members with -m")
    if not spec and not members:
        raise SpecError("there is no ensemble", hint=NO_ENSEMBLE)
    changed = {key: value for key, value in (method or {}).items() if value is not None}
    found = load_spec(members or spec or "", again=again, combine=changed.get("combine"))
    file = Path(spec) if spec is not None and names_file(spec) else None
    if changed and file is not None and not changes_files:
        flag = f"--{next(iter(changed)).replace('_', '-')}"
        raise SpecError(f"{flag} is given, but {spec!r} says how it writes", hint="write it into the file")
    found = found.but(**changed)
    given = Given(found, file, _name_of(found) if file is None else file.stem)
    if save is not None:
        _save(given, save)
    return given


def names_file(spec: str | None) -> bool:
    """Whether a spec is given, and is a file or meant as one: no model alone."""
    from unisono.config.spec_word import model_alone

    return spec is not None and model_alone(spec) is None


def text_beside(spec: str | None, members: list[str] | None, text: str | None) -> tuple[str | None, str | None]:
    """The spec and the text where both may stand: behind members, the first word is the text. Raises a `SpecError`."""
    if not members:
        if not spec:
            raise SpecError("there is no ensemble", hint=NO_ENSEMBLE)
        return spec, text
    if text is not None:
        raise SpecError(
            f"{spec!r} and a text are given beside -m, which names all members",
            hint="leave the file out, or -m; a text of several words is quoted",
        )
    if spec is not None and _is_no_text(spec):
        raise SpecError(
            f"{spec!r} stands where the text does, as -m names all members",
            hint="leave it out, or -m; if it is the text, give it on stdin",
        )
    return None, spec


def _is_no_text(word: str) -> bool:
    """Whether a word names a model or a file that is there. One with blanks is a text, unless a file is called so."""
    is_one = word.endswith(SUFFIXES) or not names_file(word)
    return is_one and (os.path.exists(word) or (":" in word and not re.search(r"\s", word)))  # of any length


def _name_of(spec: EnsembleSpec) -> str:
    return "-".join(member.name for member in spec.members)


def content_of(spec: EnsembleSpec) -> dict[str, Any]:
    """A spec as a file says it: its members, and what of its method is not the default."""
    members = [
        member.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude_defaults=True)
        for member in spec.members
    ]
    return {"members": members, **_method_keys(spec.method)}


def _method_keys(method: Method) -> dict[str, str]:
    from unisono.config.method import Method

    plain = Method()
    changed = [key.name for key in fields(Method) if getattr(method, key.name) != getattr(plain, key.name)]
    return {name: str(getattr(method, name)) for name in changed}


def _save(given: Given, save: Path) -> None:
    """Raises a `SpecError` where the file says something else already, or cannot be written."""
    from unisono.cli.ensemble_file import check_out, text_of, write_ensemble

    if given.file is not None:
        raise SpecError(
            f"--save is given, but {str(given.file)!r} is an ensemble file already",
            hint="copy it; --save writes what -m and flags say",
        )
    check_out(save, None, flag="--save")
    content = content_of(given.spec)
    if os.path.exists(save) and read_text(save, SETTINGS) not in ("", text_of(content, given.folder, save)):
        raise SpecError(f"--save is {str(save)!r}, which holds another ensemble", hint="give another file")
    write_ensemble(save, given.folder, content, flag="--save")
