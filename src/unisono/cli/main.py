"""The program: its verbs, and what a user sees when something goes wrong."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from unisono.cli.console import DEBUG_KEY, PLAIN, Talk, say, say_error
from unisono.errors import OldNameWarning, UnisonoError

INTERRUPTED = 130
VERBS = {
    "run": "Write with an ensemble: stream one answer to stdout, or answer a file of prompts.",
    "chat": "Talk with an ensemble in the terminal, or pipe questions, one per line. /help lists the commands.",
    "doctor": "Show what an ensemble is made of, and warn of what would hurt it.",
    "bench": "Time the ensemble, each member alone and other settings, in turns, with the same loaded models.",
    "models": "List the demo models, whether they are installed, and the command that installs them.",
    "serve": "Serve ensembles through the OpenAI API, until SIGTERM or Ctrl-C.",
    "show": "Show a recorded trace on the page of `unisono serve`, until Ctrl-C.",
    "eval": "Ask an ensemble questions and compare it with its members: accuracy, intervals, share ensembled, time.",
    "report": "Rebuild the report of `unisono eval` from the run's folder, finished or not, without any model.",
    "lm-eval": "Run lm-evaluation-harness: lm-eval --model unisono "
    "--model_args spec=FILE[,member=NAME] --tasks NAMES …",
    "tune": "Find the best setting and write it as an ensemble file. `unisono eval` then leaves out its questions.",
    "fit": "Fit members' weights and temperatures on reference answers, and measure the gain on a held-out part.",
    "match": "Ask each model alone and compare each pair: how far apart they are, and whether they fail together.",
    "import-gac": "Convert a configuration of the GaC research release into an ensemble file.",
    "member": "One member of an ensemble by itself, for ensembles on other machines.",
}
"""The verbs, each an ``app`` in a module of its name, and the first paragraph of its help."""


class Verbs(TyperGroup):
    """Imports a verb when it is asked for, and says that it was interrupted, where Typer would leave without a word."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and load_verb(str(name)), rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every verb with its whole help, where Typer would cut it after a line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].help or "") for name in self.list_commands(ctx)])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("\nunisono: interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="unisono",
    cls=Verbs,
    help="Several large language models, with different tokenizers, write one text together.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    **PLAIN,
)
for _name, _help in VERBS.items():
    app.command(_name, help=_help)(lambda: None)  # what the list of verbs shows


def load_verb(name: str) -> Any:
    """The command, or group of commands, of a verb."""
    command = get_command(import_module(f"unisono.cli.{name.replace('-', '_')}").app)
    command.name = name
    return command


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"unisono {version('unisono')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Accept what stands before the verb."""


def main() -> None:
    """Run the program.

    The exit status is 0, 2 for an error that the user can mend, 130 for Ctrl-C, and 1 when nobody reads
    what we write or for a fault of ours.
    """
    _mend_streams()
    _show_warnings()
    try:
        app()
    except BrokenPipeError:
        _close_stdout()
        sys.exit(1)
    except Exception as error:
        if os.environ.get(DEBUG_KEY):
            raise
        sys.exit(_tell(error))


def _tell(error: Exception) -> int:
    if isinstance(error, UnisonoError):
        say_error(error)
        return 2
    if isinstance(error, OSError):
        _close_stdout()
        say(f"unisono: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return 2
    say(f"unisono: internal error: {type(error).__name__}: {error}")
    say(f"  this is a fault of unisono; {DEBUG_KEY}=1 shows where it happened")
    return 1


def _close_stdout() -> None:
    """Send what is left of stdout nowhere: whoever read it has left, and closing it at exit would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _mend_streams() -> None:
    """Give closed streams a place to go, and let no character be refused by an old encoding."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open as long as we run
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_warnings() -> None:
    """Show our own warnings on stderr, each old name once; those of libraries are not the user's affair."""
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)  # "Retrying in 8s": our error says why
    log = logging.getLogger("unisono")
    log.handlers[:] = [Talk()]
    show, told = warnings.showwarning, set[str]()

    def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, OldNameWarning):
            show(message, category, *where, **more)
        elif str(message) not in told:
            told.add(str(message))
            say(f"unisono: {message}")

    warnings.showwarning = tell
