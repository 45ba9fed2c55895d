"""Talk on stderr: progress, notes and errors. What a command is asked for goes to stdout."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from unisono.errors import UnisonoError

if TYPE_CHECKING:
    from rich.console import Console

    from unisono.members import Report


@dataclass
class TextLine:
    """The line of a text that is being shown: talk on the same terminal begins a line of its own."""

    is_open: bool = False

    def follow(self, text: str) -> None:
        if text:
            self.is_open = not text.endswith("\n")


TEXT_LINE = TextLine()


def say(words: str) -> None:
    if TEXT_LINE.is_open and not words.startswith("\n") and sys.stdout.isatty() and sys.stderr.isatty():
        words = "\n" + words
    TEXT_LINE.is_open = False
    print(harmless(words), file=sys.stderr, flush=True)


class Talk(logging.Handler):
    """Says what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"unisono: {record.getMessage()}")


def colours(stream: IO[str]) -> bool:
    """Whether what is written to a stream may be coloured (no-color.org, force-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def murmur(text: str) -> None:
    """Write a part of a text as it comes: dimmed on a terminal."""
    safe = harmless(text) if sys.stderr.isatty() else text
    dims = sys.stderr.isatty() and colours(sys.stderr)
    print(f"\x1b[2m{safe}\x1b[0m" if dims else safe, end="", file=sys.stderr, flush=True)
    TEXT_LINE.follow(text)


def harmless(text: str) -> str:
    """A model's text as a terminal may show it: control characters but newlines and tabs are escaped, not obeyed."""
    return CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def say_error(error: UnisonoError) -> None:
    say(f"unisono: {error.message}")
    if error.hint:
        say(f"  hint: {error.hint}")


CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
WIDEST = 10_000
"""Characters of a table's cell."""
DEBUG_KEY = "UNISONO_DEBUG"
"""With this set in the environment, errors are raised with where they happened."""
PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None}
"""Settings of a Typer whose help is plain text: in Rich's tables, long names of flags are cut off at 80 columns."""
WIDE = 160
SECONDS_A_LINE = 60
SECONDS_UNTIL_TOLD = 2
LOADED = "loaded"
"""What every backend reports at the end."""


def plain_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console that writes words as they are: rich would read marks such as ``[red]`` and ``:x:`` in them."""
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)


def table_console() -> Console:
    console = plain_console(soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDE
    return console


def print_table(
    console: Console, titles: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, fold: bool = False
) -> None:
    """Print a table whose first columns, ``left`` of them, hold words and whose others hold numbers.

    Where there is no room, words are cut short; with ``fold``, all but those of the first column are folded.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, title in enumerate(titles):
        table.add_column(
            Text(title),
            justify="left" if place < left else "right",
            overflow="fold" if fold and place else "ellipsis",
        )
    for row in rows:
        table.add_row(*(Text(harmless(_cut(cell))) for cell in row))
    console.print(table)


def _cut(cell: str) -> str:
    """A cell without its end where that is too long: a name in a model's files may have megabytes."""
    return cell if len(cell) <= WIDEST else f"{cell[:WIDEST]}… ({len(cell):,} characters)"


@contextlib.contextmanager
def loading_report(*, quiet: bool = False) -> Iterator[Report]:
    """Yield a `Report` that shows loading: bars on a terminal, else a line a member and for what lasts."""
    if quiet:
        yield lambda member, fraction, words: None
    elif sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        yield _lasting(each_once(lambda member, words: say(f"{member}: {words}")))


@contextlib.contextmanager
def _bars() -> Iterator[Report]:
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[member]}", markup=False),
        BarColumn(24),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=plain_console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def report(member: str, fraction: float, words: str) -> None:
            if member not in tasks:
                tasks[member] = progress.add_task(words, total=1.0, member=member)
            progress.update(tasks[member], completed=fraction, description=words)

        yield report


def _lasting(tell: Report) -> Report:
    """Pass on that a member is loaded, and what is still being done after a while, such as a download."""
    begun: dict[tuple[str, str], float] = {}

    def report(member: str, fraction: float, words: str) -> None:
        began = begun.setdefault((member, words), time.monotonic())
        if words == LOADED or (fraction < 1 and time.monotonic() - began > SECONDS_UNTIL_TOLD):
            tell(member, fraction, words)

    return report


def each_once(tell: Callable[[str, str], None]) -> Report:
    last: dict[str, str] = {}

    def report(member: str, fraction: float, words: str) -> None:
        if last.get(member) != words:
            last[member] = words
            tell(member, words)

    return report


@contextlib.contextmanager
def counting(total: int | None, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Yield a callable that counts what is finished, one by one or several.

    A bar with the time left on a terminal; elsewhere, as in a log, a line now and then.
    """
    if quiet:
        yield lambda more=1: None
        return
    if not sys.stderr.isatty():
        yield _counting_lines(total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=plain_console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda more=1: progress.advance(task, more)


def _counting_lines(total: int | None) -> Callable[..., None]:
    of = "" if total is None else f" of {total:,}"
    done, told = 0, time.monotonic()

    def count(more: int = 1) -> None:
        nonlocal done, told
        done += more
        now = time.monotonic()
        if more and (now - told >= SECONDS_A_LINE or done == total):
            say(f"{done:,}{of}")
            told = now

    return count
