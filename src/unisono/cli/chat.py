"""``unisono chat``: a conversation with an ensemble, in the terminal or from stdin."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import platformdirs
import typer

from unisono.cli.console import loading_report
from unisono.cli.flags import Quiet, optional, refuse_flags, takes_flags, verb_app
from unisono.cli.method import MethodFlags, say_idle
from unisono.cli.spec_flags import SpecFlags, names_file, read_given
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.cli.talk.loop import LineReader
    from unisono.cli.talk.session import Session
    from unisono.cli.talk.transcript import Transcript
    from unisono.config.ensemble import EnsembleSpec

CHUNK = 256
"""Ids of a prompt that are read in a step: Ctrl-C waits for no more."""
FAILED = 2
"""The exit status where a line of stdin was refused, or could not be answered."""


@dataclass(kw_only=True)
class ConversationFlags(SpecFlags, MethodFlags):
    system: Annotated[str | None, optional(help="Put a system message before the conversation.")] = None
    resume: Annotated[
        Path | None, optional(metavar="FILE", help="Continue the conversation that /save wrote to FILE.")
    ] = None
    max_new_tokens: Annotated[int, typer.Option(help="Write at most this many pieces of an answer.")] = 1024
    stop: Annotated[list[str] | None, optional(help="End answers before this text. May be given several times.")] = None
    show: Annotated[
        bool,
        typer.Option(
            "--show",
            help="Colour each piece by what happened at it, such as who overruled the lead. /show prints a table.",
        ),
    ] = False
    history: Annotated[
        bool, typer.Option(help="Keep what is typed, for later chats, in a file that only you can read.")
    ] = True
    as_json: Annotated[
        bool, typer.Option("--json", help="Read one question per line, and print one JSON object for each.")
    ] = False
    quiet: Quiet = False

    def __post_init__(self) -> None:
        from unisono.records import Limits

        self.limits = Limits(self.max_new_tokens, self.stop or ())
        self.settings = {name: value for name, value in self.changes().items() if value is not None}
        if "draw" in self.settings:
            self.settings["sampling"] = self.settings.pop("draw")


@takes_flags
def chat(flags: ConversationFlags) -> None:
    """Talk with an ensemble in the terminal, or pipe questions, one per line. /help lists the commands."""
    from unisono.cli.talk.commands import Commands
    from unisono.cli.talk.loop import Loop
    from unisono.cli.talk.screen import Screen

    refuse_flags("does not go with --json", "--show is for people", {"--show": flags.show and flags.as_json})
    begun = _begun(flags)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not flags.as_json
    with contextlib.ExitStack() as stack:
        session = _load(flags, begun, stack)
        session.traced = flags.show or is_terminal
        commands = Commands(session, flags.resume, shows_pieces=flags.show)
        screen = Screen(is_terminal=is_terminal, quiet=flags.quiet, as_json=flags.as_json)
        loop = Loop(session, commands, _reader(is_terminal, flags), screen)
        if is_terminal and not flags.quiet:
            screen.note(_greeting(session, begun))
        loop.run()
    if loop.failed and not is_terminal:
        raise typer.Exit(FAILED)


app = verb_app(chat)


def _begun(flags: ConversationFlags) -> Transcript:
    """What the conversation goes on from: a file, an own system message, and settings, in which flags win."""
    from dataclasses import replace

    from unisono.cli.talk.conversation import Conversation
    from unisono.cli.talk.session import with_changes
    from unisono.cli.talk.transcript import Transcript, read_transcript

    begun = Transcript(Conversation()) if flags.resume is None else read_transcript(flags.resume)
    if flags.system is not None:
        begun = replace(begun, conversation=replace(begun.conversation, system=flags.system))
    return replace(begun, settings=with_changes(begun.settings, flags.settings))


def _load(flags: ConversationFlags, begun: Transcript, stack: contextlib.ExitStack) -> Session:
    """Load the ensemble until the stack is left. It keeps what it has read, so that a turn reads only what is new.

    Raises as `prepare` and `load_models` do.
    """
    from unisono.build import prepare
    from unisono.cli.talk.session import Session
    from unisono.engine.service import Service
    from unisono.loaded_models import load_engine

    named = {} if names_file(flags.spec) else begun.settings  # of a file, ``default`` is what the file says
    spec = read_given(flags.spec, flags.members, flags.save, named).spec
    method = _changed(spec, begun, flags).method
    if not flags.quiet:
        say_idle(method, flags.settings)
    with loading_report(quiet=flags.quiet) as report:
        prepared = prepare(spec, report=report)
        engine = stack.enter_context(load_engine(prepared, report, longest_block=CHUNK, keep_prefixes=True))
    return Session(prepared, Service({"": engine}, chunk=CHUNK), begun, flags.limits)


def _changed(spec: EnsembleSpec, begun: Transcript, flags: ConversationFlags) -> EnsembleSpec:
    """The ensemble as it begins to write. Raises a `SpecError` that says whether the resumed file does not fit."""
    try:
        return spec.but(**begun.settings)
    except SpecError:
        resumed = {name: value for name, value in begun.settings.items() if name not in flags.settings}
        try:
            spec.but(**resumed)
        except SpecError as error:
            words = f"the settings in {str(flags.resume)!r} do not fit: {error.message}"
            raise SpecError(words, hint=error.hint) from error
        raise


def _reader(is_terminal: bool, flags: ConversationFlags) -> LineReader:
    from unisono.cli.talk.commands import COMMANDS
    from unisono.cli.talk.piped_lines import PipedLines

    if not is_terminal:
        return PipedLines()
    from unisono.cli.talk.line_editor import LineEditor

    history = platformdirs.user_state_path("unisono") / "chat_history" if flags.history else None
    return LineEditor(list(COMMANDS), history)


def _greeting(session: Session, begun: Transcript) -> str:
    """Who is there, and what to press."""
    words = [f"{' + '.join(session.members)}; /help lists commands, Ctrl-C stops an answer, Ctrl-D leaves"]
    if turns := session.conversation.turns:
        words.append(
            f"going on after {len(turns)} turn{'s' * (len(turns) > 1)}; the last question: {turns[-1].question}"
        )
    if begun.members and begun.members != session.members:
        words.append(f"the answers so far are by {', '.join(begun.members)}")
    return "\n".join(words)
