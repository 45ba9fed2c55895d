"""The program: its verbs, and what a user sees when something goes wrong."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unisono.cli.bench import bench
from unisono.cli.chat import chat
from unisono.cli.console import DEBUG_KEY, say, say_error
from unisono.cli.doctor import doctor
from unisono.cli.eval import PASSED_ON, evaluate, lm_eval
from unisono.cli.fit import fit
from unisono.cli.flags import Verb
from unisono.cli.import_gac import import_gac
from unisono.cli.match import match
from unisono.cli.member import app as member
from unisono.cli.models import models
from unisono.cli.report import report
from unisono.cli.run import RunCommand, run
from unisono.cli.serve import serve
from unisono.cli.show import show
from unisono.cli.tune import tune
from unisono.errors import OldNameWarning, UnisonoError

INTERRUPTED = 130


class Verbs(TyperGroup):
    """Says that it was interrupted, where Typer would leave without a word."""

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
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=RunCommand)(run)
app.command(cls=Verb)(chat)
app.command(cls=Verb)(doctor)
app.command(cls=Verb)(bench)
app.command(cls=Verb)(models)
app.command(cls=Verb)(serve)
app.command(cls=Verb)(show)
app.add_typer(member)
app.command("eval", cls=Verb)(evaluate)
app.command(cls=Verb)(report)
app.command("lm-eval", cls=Verb, context_settings=PASSED_ON)(lm_eval)
app.command(cls=Verb)(tune)
app.command(cls=Verb)(fit)
app.command(cls=Verb)(match)
app.command("import-gac", cls=Verb)(import_gac)


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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("unisono: %(message)s"))
    log = logging.getLogger("unisono")
    log.handlers[:] = [handler]
    show, told = warnings.showwarning, set[str]()

    def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, OldNameWarning):
            show(message, category, *where, **more)
        elif str(message) not in told:
            told.add(str(message))
            say(f"unisono: {message}")

    warnings.showwarning = tell
