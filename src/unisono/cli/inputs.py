"""What `unisono run` is asked to do: its flags, and the texts and constraints that they give."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import loading_report
from unisono.cli.flags import Overwrite, Quiet, optional
from unisono.cli.method import MethodFlags, say_idle
from unisono.cli.spec_flags import SpecFlags, names_file, read_given, text_beside
from unisono.config.constraint import JSON_SCHEMA, Constraint
from unisono.errors import PromptError, SpecError
from unisono.user_files import DOCUMENT, why_unread
from unisono.user_files import read_text as read_text_file

if TYPE_CHECKING:
    from unisono.chat.messages import Message, Prompt
    from unisono.engine.request import GenerationOptions
    from unisono.ensemble import Ensemble

INLINE = ""
"""The value of a ``--trace`` without a file."""


@dataclass(kw_only=True)
class RunFlags(SpecFlags, MethodFlags):
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="The text to answer. Default: read it from stdin.", show_default=False),
    ] = None
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without a chat template.")] = False
    system: Annotated[str | None, optional(help="Put a system message before the text.")] = None
    max_new_tokens: Annotated[int, typer.Option(help="Write at most this many pieces.")] = 256
    stop: Annotated[list[str] | None, optional(help="Stop before this text. May be given several times.")] = None
    json_schema: Annotated[Path | None, optional(metavar="FILE", help="Write JSON that fits this schema.")] = None
    constraint_words: Annotated[
        str | None,
        optional(
            "--constraint",
            metavar="KIND[:SOURCE]",
            help="Write text of this form: json_object, regex:REGEX, lark:GRAMMAR or json_schema:SCHEMA.",
        ),
    ] = None
    n: Annotated[
        int, typer.Option("--n", min=1, help="Write this many texts for one prompt; --json prints a line for each.")
    ] = 1
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end of the text.")] = False
    trace: Annotated[
        str | None,
        optional(
            metavar="[FILE]",
            help="Write every step to FILE as JSON lines. With --prompts, leave FILE out: the steps go to --out.",
        ),
    ] = None
    show: Annotated[
        bool,
        typer.Option(
            "--show",
            help="Colour each piece by what happened at it, such as who overruled the lead, and end with a table. "
            "Without colours, brackets say it.",
        ),
    ] = False
    prompts: Annotated[
        Path | None,
        optional(help='Answer a file of prompts, JSON lines {"id", "prompt"} or {"id", "messages"}.'),
    ] = None
    out: Annotated[Path | None, optional(help="Write the answers to --prompts to this file. Default: stdout.")] = None
    batch: Annotated[int, typer.Option(min=1, help="Write this many answers to --prompts at once.")] = 1
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted --out.")] = False
    overwrite: Overwrite = False
    quiet: Quiet = False

    def __post_init__(self) -> None:
        from unisono.records import Limits

        self.spec, self.text = text_beside(self.spec, self.members, self.text)
        self.limits = Limits(self.max_new_tokens, self.stop or ())
        self.method = self.changes()
        self.constraint = _read_constraint(self.json_schema, self.constraint_words)

    def check_file(self) -> None:
        """Raise a `SpecError` where there is no such ensemble file: before a text is read from stdin."""
        from unisono.config.spec_word import no_such_spec

        if self.spec and names_file(self.spec) and not os.path.lexists(self.spec):
            raise no_such_spec(Path(self.spec))

    def options(self) -> GenerationOptions:
        """What `Ensemble.generate` takes beside the prompt, but for the method."""
        return {
            "max_new_tokens": self.limits.max_new_tokens,
            "stop": self.limits.stop,
            "trace": self.trace is not None or self.show,
            "constraint": self.constraint,
        }

    def prompt_of(self, text: str) -> Prompt:
        from unisono.chat.messages import Message, Prompt

        if not self.raw and not text.strip():
            raise PromptError("the prompt is empty", hint="give some text to answer")
        if not self.raw:
            return Prompt(messages=[*self.opening(), Message(role="user", content=text)])
        if self.system is not None:
            raise SpecError("--system does not go with --raw", hint="raw text has no roles; write it into the text")
        return Prompt(text)

    def opening(self) -> list[Message]:
        from unisono.chat.messages import Message

        return [] if self.system is None else [Message(role="system", content=self.system)]

    def load(self, batch: int, *prompts: Prompt) -> Ensemble:
        """The ensemble, once prompts and constraint are found to suit it. Raises as `prepare` and `load_models`."""
        from unisono.build import prepare
        from unisono.ensemble import Ensemble
        from unisono.loaded_models import load_engine

        spec = read_given(self.spec, self.members, self.save, self.method, changes_files=True).spec
        if not self.quiet:
            say_idle(spec.method, self.method)
        with loading_report(quiet=self.quiet) as report:
            prepared = prepare(spec, batch=batch, report=report)
            for prompt in prompts:
                prepared.check_prompt(prompt)
            prepared.check_constraint(self.constraint)
            return Ensemble(prepared, load_engine(prepared, report))


def _read_constraint(json_schema: Path | None, constraint: str | None) -> Constraint | None:
    if json_schema is None:
        return Constraint.parse(constraint)
    if constraint is not None:
        raise SpecError("--json-schema does not go with --constraint", hint="a text has one constraint")
    try:
        source = read_text_file(json_schema, DOCUMENT, "utf-8-sig", named=True)
    except (OSError, UnicodeDecodeError) as error:
        words = f"the schema {str(json_schema)!r} cannot be read: {why_unread(error)}"
        raise SpecError(words, hint="check the file") from error
    try:
        return Constraint(JSON_SCHEMA, source)
    except SpecError as error:
        raise SpecError(f"the schema {str(json_schema)!r} is refused: {error.message}", hint=error.hint) from error


def read_text(text: str | None) -> str:
    """The text to answer: the argument, or stdin where it is left out or ``-``. Raises a `SpecError`."""
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise SpecError("there is no text", hint="give it as an argument or on stdin, or use --prompts FILE")
    try:
        read = sys.stdin.buffer.read(DOCUMENT + 1)  # what never ends is not waited for
        if len(read) > DOCUMENT:
            raise SpecError(f"the text on stdin has more than {DOCUMENT:,} bytes", hint="give a shorter one")
        return read.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise SpecError(f"the text on stdin is not UTF-8: {error.reason} at byte {error.start}") from error
