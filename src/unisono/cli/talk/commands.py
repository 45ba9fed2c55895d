"""The commands of a chat, such as ``/gate confidence:0.5``: what each does to a session, and what it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unisono.cli.talk.answer import Answer
from unisono.cli.talk.conversation import Turn
from unisono.cli.talk.session import Session
from unisono.cli.talk.transcript import write_transcript
from unisono.config.compact import read_number
from unisono.errors import SpecError, nearest, shown

SIGN = "/"
LITERAL = "//"
"""What a question begins with that begins with one of them."""
OFF, DEFAULT, OVERWRITE = "off", "default", "--overwrite"
MOST = 1_000_000
_QUESTION = "a question that begins with / is written with //"


@dataclass(frozen=True, slots=True)
class Table:
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    """How many of its columns hold words."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What is to be done after a command."""

    words: str = ""
    """To be said."""
    table: Table | None = None
    answer: Answer | None = None
    """To be written."""
    offered: str = ""
    """A question to be edited as the next one."""
    shown: Answer | None = None
    """What happened to its pieces is to be shown."""
    legend: bool = False
    """Whether to say what colours of pieces mean."""
    leaves: bool = False


def is_command(line: str) -> bool:
    return line.startswith(SIGN) and not line.startswith(LITERAL)


def question_of(line: str) -> str:
    """What a line that is no command asks."""
    return line.removeprefix(SIGN) if line.startswith(LITERAL) else line


def line_of(question: str) -> str:
    """The line that asks a question."""
    return SIGN + question if question.startswith(SIGN) else question


class Commands:
    """Runs commands on a session, and keeps the file that the conversation is in."""

    def __init__(self, session: Session, file: Path | None = None, *, shows_pieces: bool = False) -> None:
        """Command a session, whose conversation is in a ``file`` already, or in none."""
        self._session = session
        self.file = None if file is None else _path_of(str(file))
        self.shows_pieces = shows_pieces
        """Whether pieces are coloured by what happened to them while they are written."""

    def run(self, line: str) -> Effect:
        """Do what a line says. Raises a `UnisonoError`, and has then done nothing."""
        word, *rest = line.strip().split(None, 1)
        name = word.removeprefix(SIGN)
        if name not in COMMANDS:
            raise SpecError(
                f"there is no command {shown(word)}{nearest(word, [SIGN + each for each in COMMANDS])}",
                hint=f"/help lists them; {_QUESTION}",
            )
        command, words = COMMANDS[name], rest[0].strip() if rest else ""
        if words and not command.form:
            raise SpecError(f"{word} stands alone, and {shown(words)} follows it", hint=_QUESTION)
        return command.run(self, words)

    def save_kept(self) -> None:
        """Write the conversation into its file, if it has one. Raises a `SpecError`."""
        if self.file is not None:
            write_transcript(self.file, self._session.transcript)

    def _help(self, rest: str) -> Effect:
        rows = [(f"/{name} {command.form}".rstrip(), command.help) for name, command in COMMANDS.items()]
        return Effect(table=Table(("command", ""), [row for row in rows if row[1]], left=2))

    def _members(self, rest: str) -> Effect:
        session = self._session
        last = {} if session.last is None else session.last.prompt_tokens
        rows = [
            (
                f"{member.spec.name}{' (leads)' if member.spec.name == session.lead else ''}",
                str(member.owner.home),
                f"{member.weight:.2f}",
                f"{last[member.spec.name]:,}" if member.spec.name in last else "",
                f"{session.contexts[member.spec.name]:,}",
            )
            for member in session.prepared.members
        ]
        return Effect(table=Table(("member", "model", "weight", "last prompt", "of"), rows, left=2))

    def _system(self, rest: str) -> Effect:
        session = self._session
        if rest:
            session.speak_as(None if rest == OFF else rest)
            self.save_kept()
        system = session.conversation.system
        return Effect("there is no system message" if system is None else f"system: {system}")

    def _setting(self, name: str, rest: str) -> Effect:
        session = self._session
        if rest:
            number = read_number(rest) if name == "temperature" else rest
            session.change(name, None if rest == DEFAULT else number)
            self.save_kept()
        return Effect(f"{name}: {_value(session, name)}")

    def _undo(self, rest: str) -> Effect:
        session = self._session
        unanswered, count = session.unanswered, _count(rest)
        taken = session.undo(count)
        self.save_kept()
        if not taken and not unanswered:
            return Effect("there is nothing to take back")
        if not taken:
            return Effect("took back the question that has no answer", offered=unanswered)
        return Effect(f"took back {_turns(taken)}: {_short(taken[0].question)}", offered=taken[0].question)

    def _forget(self, rest: str) -> Effect:
        gone = self._session.forget(_count(rest))
        if not gone:
            return Effect("there is nothing to forget")
        self.save_kept()
        its_file = "" if self.file is None else f"; {str(self.file)!r} has no more than the rest"
        return Effect(f"forgot {_turns(gone)}{its_file}")

    def _clear(self, rest: str) -> Effect:
        gone = self._session.undo(MOST)
        file, self.file = self.file, None
        kept = f"; {str(file)!r} keeps it" if file is not None and gone else ""
        return Effect(f"a new conversation begins{kept}")

    def _retry(self, rest: str) -> Effect:
        return Effect(answer=self._session.retry())

    def _continue(self, rest: str) -> Effect:
        return Effect(answer=self._session.proceed())

    def _save(self, rest: str) -> Effect:
        overwrite = rest == OVERWRITE or rest.startswith(f"{OVERWRITE} ")
        name = _unquoted(rest.removeprefix(OVERWRITE).strip() if overwrite else rest)
        if not name and self.file is None:
            raise SpecError("the conversation has no file yet", hint="give one: /save talk.json")
        path = self.file if not name and self.file is not None else _path_of(name)
        own = self.file is not None and path == self.file
        if not own and not overwrite and os.path.lexists(path):
            hint = f"give another name, or write /save {OVERWRITE} {name}"
            raise SpecError(f"there is already a file {str(path)!r}", hint=hint)
        write_transcript(path, self._session.transcript)
        self.file = path
        return Effect(f"saved in {str(path)!r}" + ("" if own else "; every turn from here on, too"))

    def _show(self, rest: str) -> Effect:
        if rest not in ("", "on", OFF):
            raise SpecError(f"/show {rest} is unknown", hint="write /show, /show on or /show off")
        session = self._session
        if rest:
            self.shows_pieces = rest == "on"
            session.traced = session.traced or self.shows_pieces
            return Effect(legend=True) if self.shows_pieces else Effect("pieces are not coloured")
        if session.last is None:
            raise SpecError("there is no answer to show", hint="ask something first")
        if not session.last.steps:
            raise SpecError("nothing was noted of the last answer", hint="/show on, and then /retry")
        return Effect(shown=session.last)

    def _quit(self, rest: str) -> Effect:
        return Effect(leaves=True)


@dataclass(frozen=True, slots=True)
class Command:
    run: Callable[[Commands, str], Effect]
    help: str = ""
    """Empty for another name of a command."""
    form: str = ""


def _setting_command(name: str, form: str, words: str) -> Command:
    return Command(lambda commands, rest: commands._setting(name, rest), words, form)


COMMANDS = {
    "help": Command(Commands._help, "show this list"),
    "members": Command(Commands._members, "show who votes, and how many tokens of each context the last prompt took"),
    "system": Command(Commands._system, "show or change the system message; off removes it", "[TEXT|off]"),
    "gate": _setting_command("gate", "[GATE]", "show or change when the others are asked, as in /gate confidence:0.5"),
    "combine": _setting_command("combine", "[RULE]", "show or change the rule, as in /combine geometric truncate:10"),
    "lead": _setting_command("lead", "[NAME]", "show or change who leads"),
    "speculate": _setting_command("speculate", "[DRAFTER]", "show or change who drafts, as in /speculate ngram:4"),
    "sampling": _setting_command("sampling", "[WORDS]", "show or change it, as in /sampling 0.7 top_p:0.9"),
    "temperature": _setting_command("temperature", "[T]", "change the temperature alone"),
    "reasoning": _setting_command("reasoning", "[off|N]", "show or change whether answers reason first"),
    "vocabulary": _setting_command("vocabulary", "[WORDS]", "show or change what members vote on: union, or bytes"),
    "retry": Command(Commands._retry, "answer the last question again"),
    "continue": Command(Commands._continue, "go on with an answer that was cut off"),
    "undo": Command(Commands._undo, "take the last turn back, or the last N", "[N]"),
    "forget": Command(Commands._forget, "leave the oldest turn out, or the oldest N", "[N]"),
    "clear": Command(Commands._clear, "begin a new conversation with the same settings"),
    "save": Command(Commands._save, "write the conversation to a file, and keep it there", "[--overwrite] [FILE]"),
    "show": Command(Commands._show, "show what happened to each piece of the last answer; on: of all", "[on|off]"),
    "quit": Command(Commands._quit, "leave, as Ctrl-D does"),
    "exit": Command(Commands._quit),
}


def _value(session: Session, name: str) -> str:
    method = session.method
    match name:
        case "lead":
            return session.lead
        case "speculate":
            return OFF if method.speculate is None else str(method.speculate)
        case "temperature":
            return f"{method.sampling.temperature:g}"
    return str(getattr(method, name))


def _count(rest: str) -> int:
    number = read_number(rest or "1")
    if not isinstance(number, int) or not 1 <= number <= MOST:
        raise SpecError(f"{shown(rest)} is not a number of turns", hint="write a whole number, as in /undo 2")
    return number


def _turns(turns: Sequence[Turn]) -> str:
    return "a turn" if len(turns) == 1 else f"{len(turns)} turns"


def _short(text: str) -> str:
    return shown(" ".join(text.split()))


def _unquoted(name: str) -> str:
    """A name without the quotes that a shell would take off it."""
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"" else name


def _path_of(name: str) -> Path:
    """The path of a name, its ``~`` and the current folder looked up. Raises a `SpecError` where it can be none."""
    try:
        return Path(os.path.abspath(Path(name).expanduser()))
    except (RuntimeError, ValueError) as error:
        raise SpecError(f"{shown(name)} is not a file name: {error}", hint="give another") from error
