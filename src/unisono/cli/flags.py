"""Records of flags: a verb takes one, whose fields Typer reads as its arguments and flags; and its help."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import ParameterInfo

from unisono.cli.console import PLAIN
from unisono.config.compact import renamed
from unisono.errors import SpecError, deprecated, shown

T = TypeVar("T")
VALUES = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}
"""What stands for the value of a flag in the help, where the flag gives no word of its own."""


class Verb(TyperCommand):
    """Writes help in sections, with whole names of flags, and refuses words that have no place."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments as SPEC, where Typer would write {SPEC}."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if (row := parameter.get_help_record(ctx)) is None:
                continue
            if parameter.param_type_name == "argument":
                sections["Arguments"].append((str(parameter.metavar), row[1]))
            else:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(row)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        passes_on, ctx.allow_extra_args = ctx.allow_extra_args, True
        try:
            rest: list[str] = super().parse_args(ctx, list(args))
        except typer.BadParameter as error:
            value = _given(error.param, args)
            if value is not None and repr(value) not in error.message:
                error.message += f": {shown(value)}"
            raise
        if rest and not passes_on:
            raise self._no_place(rest, ctx)
        return rest

    def _no_place(self, words: list[str], ctx: Any) -> SpecError:
        places = [str(each.metavar) for each in self.get_params(ctx) if each.param_type_name == "argument"]
        verb, takes = ctx.command_path, " and ".join(places) or "flags"
        return SpecError(
            f"{verb} takes {takes} alone: {shown(' '.join(words))} cannot stand here",
            hint="quote a text of several words: 'Why is it?'" if "TEXT" in places else f"{verb} -h lists what can",
        )


def _given(parameter: Any, args: list[str]) -> str | None:
    """The value that a flag has in a command line; ``None`` where that cannot be said."""
    for flag in getattr(parameter, "opts", ()):
        for word, following in itertools.zip_longest(args, args[1:]):
            if word == flag:
                return following
            if word.startswith(f"{flag}="):
                return word.removeprefix(f"{flag}=")
    return None


def verb_app(function: Callable[..., None], *, cls: type[Verb] = Verb, **settings: Any) -> typer.Typer:
    """One verb, as the program loads it when it is asked for: see `unisono.cli.main.VERBS`."""
    app = typer.Typer(**PLAIN)
    app.command(cls=cls, **settings)(name_values(function))
    return app


def name_values(function: Callable[..., None]) -> Callable[..., None]:
    """The function of a verb, whose flags name their values by their types: ``--n N``, ``--stop TEXT``."""
    hints = get_type_hints(function, include_extras=True)
    for hint in hints.values():
        kinds = {each for part in get_args(hint)[:1] for each in (part, *get_args(part))}
        kinds |= {each for part in kinds for each in get_args(part)}
        for info in get_args(hint)[1:]:
            if isinstance(info, ParameterInfo) and info.metavar is None:
                info.metavar = next((word for kind, word in VALUES.items() if kind in kinds), None)
    function.__annotations__ = hints  # which Typer would otherwise evaluate anew
    return function


def takes_flags(verb: Callable[[Any], None]) -> Callable[..., None]:
    """A verb with a parameter for each field of the dataclass ``flags`` that it takes."""
    record = get_type_hints(verb)["flags"]
    hints = get_type_hints(record, include_extras=True)

    @wraps(verb)
    def call(**given: Any) -> None:
        verb(record(**given))

    signature = inspect.signature(record)
    parameters = [parameter.replace(annotation=hints[name]) for name, parameter in signature.parameters.items()]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    return call


def optional(*names: str, **settings: Any) -> Any:
    """A flag whose help says itself what holds without it."""
    return typer.Option(*names, show_default=False, **settings)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the content of --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.")]


def refuse_flags(why: str, hint: str, given: Mapping[str, object]) -> None:
    for flag, value in given.items():
        if value:
            raise SpecError(f"{flag} {why}", hint=hint)


def renamed_flag(value: T | None, old_value: T | None, new: str, old: str) -> T | None:
    """The value of a flag that had another name, with a warning where that is used. Raises a `SpecError` for both."""
    given = {name: each for name, each in ((new, value), (old, old_value)) if each is not None}
    found = renamed(given, new, old).get(new)
    if old in given:
        deprecated(f"{old} is now {new}")
    return found
