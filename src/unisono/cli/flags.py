"""Records of flags: a verb takes one, whose fields Typer reads as its arguments and flags."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from unisono.config.compact import renamed
from unisono.errors import SpecError, deprecated

T = TypeVar("T")


class Verb(TyperCommand):
    """Writes arguments into the line of usage as SPEC, where Typer would write {SPEC}."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


def verb_app(function: Callable[..., None], *, cls: type[Verb] = Verb, **settings: Any) -> typer.Typer:
    """One verb, as the program loads it when it is asked for: see `unisono.cli.main.VERBS`."""
    app = typer.Typer(add_completion=False)
    app.command(cls=cls, **settings)(function)
    return app


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
