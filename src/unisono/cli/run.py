"""``unisono run``: one text from the command line or stdin, or many from a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from unisono.cli.console import loading_report, say
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.ensemble import Stream
    from unisono.types import Limits

INLINE = ""
"""The value of a ``--trace`` without a file."""


class RunCommand(TyperCommand):
    """Lets ``--trace`` stand without a value, which means: into each line of ``--out``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare ``--trace`` an empty value."""
        given: list[str] = []
        options = args.index("--") if "--" in args else len(args)
        for index, word in enumerate(args):
            alone = index + 1 == len(args) or args[index + 1].startswith("-")
            given.append("--trace=" if word == "--trace" and alone and index < options else word)
        return super().parse_args(ctx, given)


def run(
    spec: Annotated[Path, typer.Argument(help="The ensemble file.", show_default=False)],
    text: Annotated[
        str | None, typer.Argument(help="What to answer; read from stdin when it is left out.", show_default=False)
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without a chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message before the text.", show_default=False)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Pieces to write at most.")] = 256,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given several times.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when the text has ended.")] = False,
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]",
            help="Write every step to FILE as JSON lines; with --prompts, without FILE, into each line of --out.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help='JSON lines {"id", "prompt"} or {"id", "messages"} to answer.', show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the answers to --prompts go.", show_default=False)] = None,
    batch: Annotated[int, typer.Option(help="How many of --prompts are written at once.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where --out was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Let an ensemble write: stream one answer to stdout, or answer a file of prompts."""
    from unisono.types import Limits

    limits = Limits(max_new_tokens, stop or ())
    if prompts is None:
        _refuse(
            "goes with --prompts",
            "give a file of prompts, or leave it out",
            {"--out": out, "--resume": resume, "--overwrite": overwrite, "--batch": batch != 1},
        )
        _run_one(spec, _text(text), raw, system, limits, as_json, trace, quiet)
        return
    from unisono.cli.prompts import PromptsJob, run_prompts

    _refuse(
        "does not go with --prompts",
        "the answers, and their traces, go to --out",
        {"a text": text, "--json": as_json, "a FILE for --trace": trace},
    )
    run_prompts(PromptsJob(spec, prompts, out, raw, system, limits, batch, resume, overwrite, trace is not None, quiet))


def _refuse(why: str, hint: str, given: dict[str, object]) -> None:
    for flag, value in given.items():
        if value:
            raise SpecError(f"{flag} {why}", hint=hint)


def _run_one(
    spec: Path,
    text: str,
    raw: bool,
    system: str | None,
    limits: Limits,
    as_json: bool,
    trace: str | None,
    quiet: bool,
) -> None:
    from unisono.build import prepare
    from unisono.ensemble import Ensemble
    from unisono.spec import load_spec
    from unisono.types import Prompt

    if trace == INLINE:
        raise SpecError("--trace needs a file here", hint="write --trace FILE")
    prompt = Prompt(*conversation(text, raw, system))
    trace_file = None if trace is None else _open_trace(Path(trace))
    with loading_report(quiet=quiet) as report:
        prepared = prepare(load_spec(spec), report=report)
        prepared.check_prompt(prompt)
        engine = prepared.load(report)
    with Ensemble(prepared, engine) as ensemble:
        stream = ensemble.stream(
            prompt.text,
            messages=prompt.messages,
            max_new_tokens=limits.max_new_tokens,
            stop=limits.stop,
            trace=trace is not None,
        )
        with stream:
            try:
                _show(stream, as_json, quiet)
            finally:
                if trace_file is not None:
                    _write_trace(stream, trace_file)


def conversation(text: str, raw: bool, system: str | None) -> tuple[str | None, list[Any] | None]:
    """The ``prompt`` or ``messages`` that a text from the command line means."""
    if raw:
        if system is not None:
            raise SpecError("--system does not go with --raw", hint="raw text has no roles; write it into the text")
        return text, None
    opening = [] if system is None else [{"role": "system", "content": system}]
    return None, [*opening, {"role": "user", "content": text}]


def _text(text: str | None) -> str:
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise SpecError("there is no text", hint="give it as an argument or on stdin, or use --prompts FILE")
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise SpecError(f"the text on stdin is not UTF-8: {error.reason} at byte {error.start}") from error


def _show(stream: Stream, as_json: bool, quiet: bool) -> None:
    for part in stream:
        if not as_json:
            sys.stdout.write(part)
            sys.stdout.flush()
    generation = stream.generation
    if as_json:
        record = generation.to_json()
        record.pop("steps", None)
        print(json.dumps(record, ensure_ascii=False))
        return
    print(flush=True)
    if not quiet and sys.stderr.isatty():
        seconds = generation.seconds.total
        pieces = generation.usage.pieces
        say(f"[{pieces} pieces in {seconds:.1f} s, {pieces / seconds:.1f} a second; {generation.finish_reason}]")


def _open_trace(path: Path) -> FileIO:
    try:
        return path.open("wb", buffering=0)
    except OSError as error:
        raise SpecError(f"cannot write the trace to {str(path)!r}: {error.strerror}") from error


def _write_trace(stream: Stream, file: FileIO) -> None:
    with file:
        for step in stream.steps:
            write_line(file, step.to_json())


def write_line(file: FileIO, record: Mapping[str, Any]) -> None:
    """Write one JSON line to an unbuffered file, so that it survives us.

    Raises:
        SpecError: it cannot be written; nothing is left behind to fail again when the file is closed.
    """
    data = memoryview((json.dumps(record, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise SpecError(
            f"cannot write to {file.name!r}: {error.strerror}", hint="make room, or choose another file"
        ) from error
