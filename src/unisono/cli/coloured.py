"""``--show``: a text whose pieces are coloured by what happened at them, with a legend, and a table at the end."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unisono.cli.console import harmless, print_table, table_console
from unisono.outcomes import Kind, Outcome, Summary, Symbol, outcome_of, summary_of
from unisono.step_records import Part, StepRecord

if TYPE_CHECKING:
    from unisono.config.method import Method

BOLD, DIM, ITALIC, UNDERLINED = "1", "2", "3", "4"
WINNERS = ("35", "32", "36", "34", "33")
"""Magenta, green, cyan, blue and yellow: who overrules the lead. Bold, they can be read on black and on white."""
NOBODY = "31"
NEWLINE = "↵\n"
"""Of those that members disagreed about, which no colour shows."""
CONTEXT = 16
"""Characters before a contested piece."""


@dataclass(frozen=True, slots=True)
class Style:
    """How pieces of one sort are written: in colours, or in brackets that name the sort."""

    codes: str = ""
    """Numbers of SGR (ECMA-48), with semicolons between; empty for text as it is."""
    tag: str = ""
    """What stands in the bracket, ``[tag|text]``; empty for no bracket."""

    def opening(self, coloured: bool) -> str:
        if coloured:
            return f"\x1b[{self.codes}m" if self.codes else ""
        return f"[{self.tag}|" if self.tag else ""

    def closing(self, coloured: bool) -> str:
        if coloured:
            return "\x1b[0m" if self.codes else ""
        return "]" if self.tag else ""

    def around(self, words: str, coloured: bool) -> str:
        return self.opening(coloured) + words + self.closing(coloured)


PLAIN = Style()


@dataclass(slots=True)
class _Flow:
    """One part of a text: characters that pieces gave and that are not shown yet, and the style that is open."""

    waiting: deque[tuple[str, Style]] = field(default_factory=deque)
    open: Style = PLAIN
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))


class Painter:
    """Paints a text as it comes, by the records of its steps, and tells at the end what happened in it."""

    def __init__(self, weights: Mapping[str, float], method: Method) -> None:
        """Paint a text that members of these weights, all that vote, write by a method."""
        self.members = tuple(weights)
        self.subtracted = tuple(name for name, weight in weights.items() if weight < 0)
        self.method = method
        self.lead = method.lead_among(weights)
        self.outcomes: list[Outcome] = []
        others = [name for name in self.members if name not in (self.lead, *self.subtracted)]
        self._colours = {name: _colour(place) for place, name in enumerate(others)}
        """By who may overrule the lead."""
        self._flows: dict[Part, _Flow] = {"answer": _Flow(), "reasoning": _Flow()}

    def add(self, steps: Sequence[StepRecord]) -> None:
        """Take all steps that there are so far; those that were taken before are passed over."""
        for step in steps[len(self.outcomes) :]:
            outcome = outcome_of(step)
            self.outcomes.append(outcome)
            flow, style = self._flows[step.part], self.style(outcome)
            flow.waiting += ((character, style) for character in flow.decoder.decode(step.piece or b""))

    def paint(self, part: Part, text: str, *, coloured: bool) -> str:
        """Some more text of a part, whose steps were added, as it is to be written: no control sequence but ours.

        Pieces of one style that follow each other stand in one bracket; `end` closes the last. No colour outlasts the
        text that has it, so that whatever else is written has none.
        """
        flow, painted = self._flows[part], ""
        for character in text:
            style = _style_of(character, flow.waiting)
            if style != flow.open:
                painted += flow.open.closing(coloured) + style.opening(coloured)
                flow.open = style
            painted += NEWLINE if character == "\n" and BOLD in style.codes.split(";") else harmless(character)
        return painted + (self.end(part, coloured=True) if coloured else "")

    def end(self, part: Part, *, coloured: bool) -> str:
        """What closes the style that is open in a part."""
        flow = self._flows[part]
        closing, flow.open = flow.open.closing(coloured), PLAIN
        return closing

    def style(self, outcome: Outcome) -> Style:
        codes, tag = self._of_kind(outcome)
        if outcome.drafted:
            codes, tag = (*codes, UNDERLINED), f"{tag} drafted".lstrip()
        return Style(";".join(codes), tag)

    def _of_kind(self, outcome: Outcome) -> tuple[tuple[str, ...], str]:
        if outcome.kind == "overruled":
            colour = self._colours.get(outcome.winners[0], ())  # of the lead, where another one led at that step
            return (BOLD, *colour), "+".join(outcome.winners)
        return {
            "agreed": ((), ""),
            "carried": ((BOLD,), "+".join(outcome.winners)),
            "nobody": ((BOLD, NOBODY), "nobody"),
            "shut": ((DIM,), "shut"),
            "forced": ((DIM, ITALIC), "forced"),
        }[outcome.kind]

    def legend(self, *, coloured: bool) -> str:
        """A line that says what the styles mean, of what this method can bring about."""
        entries = [style.around(words, coloured) for style, words in self._entries()]
        return " · ".join([*entries, *(f"{name} is subtracted and votes for nothing" for name in self.subtracted)])

    def _entries(self) -> Iterator[tuple[Style, str]]:
        several = len(self.members) - len(self.subtracted) > 1
        yield PLAIN, "all agreed" if several else "its first choice"
        if several:
            yield Style(BOLD, self.lead), f"{self.lead}'s choice, against others"
            for name, codes in self._colours.items():
                yield Style(";".join((BOLD, *codes)), name), f"{name} overruled {self.lead}"
        yield Style(f"{BOLD};{NOBODY}", "nobody"), "nobody's first choice"
        if self.method.gate.reads_lead and len(self.members) > 1:
            yield Style(DIM, "shut"), f"the gate stayed shut: {self.lead} alone"
        if self.method.gate.is_certain and len(self.members) > 1:
            yield Style(f"{DIM};{ITALIC}", "forced"), "the only piece that is allowed"
        if self.method.speculate is not None:
            yield Style(UNDERLINED, "drafted"), "drafted and accepted"

    def print_table(self) -> None:
        """Print what happened, on stdout: pieces, how often each member was overruled, what was most contested."""
        summary = summary_of(self.outcomes)
        print(_totals(summary, self.lead))
        console = table_console()
        rows = [(name, *_overruled(summary, name, name in self.subtracted)) for name in self.members]
        print_table(console, ("member", "asked", "overruled"), rows)
        if summary.contested:
            print()
            titles = ("most contested", "after", *self.members)
            print_table(console, titles, [self._row(*each) for each in summary.contested], left=len(titles))

    def _row(self, place: int, outcome: Outcome) -> tuple[str, ...]:
        before = b"".join(each.piece for each in self.outcomes[:place] if isinstance(each.piece, bytes))
        context = before.decode("utf-8", "replace")[-CONTEXT:]
        return (words_of(outcome.piece), f"…{shown_text(context)}", *(_masses(outcome, name) for name in self.members))


def words_of(piece: Symbol) -> str:
    """A piece in quotes, with what is no printable character escaped; END, or a mark by its name."""
    if piece is None:
        return "END"
    if isinstance(piece, str):
        return f"<{piece}>"
    return f'"{shown_text(piece.decode("utf-8", "backslashreplace"))}"'


def shown_text(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _colour(place: int) -> tuple[str, ...]:
    """The codes of a winner: colours come again in italics where there are more members."""
    codes = (WINNERS[place % len(WINNERS)],)
    return codes if place < len(WINNERS) else (*codes, ITALIC)


def _style_of(character: str, waiting: deque[tuple[str, Style]]) -> Style:
    """The style of the next character. White space beside a mark belongs to pieces, and not to the text."""
    while waiting and waiting[0][0] != character and waiting[0][0].isspace():
        waiting.popleft()
    return waiting.popleft()[1] if waiting and waiting[0][0] == character else PLAIN


def _totals(summary: Summary, lead: str) -> str:
    words: dict[Kind, str] = {
        "agreed": "agreed",
        "carried": "carried against others",
        "overruled": f"overruled {lead}",
        "nobody": "nobody's first choice",
        "shut": "with the gate shut",
        "forced": "the only piece allowed",
    }
    kinds = [f"{summary.kinds[kind]} {words[kind]}" for kind in words if summary.kinds.get(kind)]
    share = f"{100 * summary.ensembled / summary.pieces:.0f} %" if summary.pieces else "none"
    drafted = f"; {summary.accepted} drafted and accepted" if summary.accepted else ""
    return f"{summary.pieces} pieces, {share} ensembled{drafted}\nchoices: {', '.join(kinds)}"


def _overruled(summary: Summary, name: str, is_subtracted: bool) -> tuple[str, str]:
    its = summary.members.get(name)
    if its is None:
        return "0", ""
    if is_subtracted:
        return str(its.asked), "subtracted"
    return str(its.asked), f"{its.overruled} ({100 * its.overruled / its.asked:.0f} %)"


def _masses(outcome: Outcome, name: str) -> str:
    """The probability that a member gave the piece and, where it is another one, its first choice with its own."""
    if name not in outcome.masses:
        return "not asked"
    words = f"{outcome.masses[name]:.3f}"
    choice, p = outcome.choices.get(name, (outcome.piece, 0.0))
    if name in outcome.overruled or (name in outcome.subtracted and choice != outcome.piece):
        words += f", {words_of(choice)} {p:.3f}"
    return words
