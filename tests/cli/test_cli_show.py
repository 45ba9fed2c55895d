"""`--show`: what happened at each piece, in colours or in brackets."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from support.command_line import Run
from unisono.cli.coloured import Painter, Style, words_of
from unisono.cli.console import colours, harmless, plain_console, print_table, table_console
from unisono.config.method import Method
from unisono.step_records import DraftRecord, GateReading, StepRecord, TopPieces

PAIR = {"x": 0.5, "y": 0.5}
SURE: TopPieces = ((b"x", 0.9),)
ELSE: TopPieces = ((b"y", 0.6),)


def step(piece: bytes | None, *, x: bool, y: bool | None = None, **keys: object) -> StepRecord:
    """A step whose piece is the first choice of ``x`` and ``y``, or not; ``None`` where it was not asked."""
    firsts = {"x": x} if y is None else {"x": x, "y": y}
    top = {name: ((piece, 0.9),) if first else ((b"?", 0.6),) for name, first in firsts.items()}
    masses = {name: 0.9 if first else 0.2 for name, first in firsts.items()}
    unasked = ("y",) if y is None else ()
    return StepRecord(piece, 0.5, tuple(top), masses, top, lead="x", unasked=unasked, **keys)  # type: ignore[arg-type]


STEPS = [
    step(b"One", x=True, y=True),
    step(b" \xe2\x82", x=True, y=False),
    step(b"\xac two", x=False, y=True),
    step(b"\n", x=False, y=True),
    step(b" three", x=False, y=False, draft=DraftRecord("x", b" three", accepted=True)),
    step(b" \x1b[2J", x=True, gate=GateReading(0.9, 0.5, asked=False)),
    step(None, x=True, y=True),
]
TEXT = "One € two\n three \x1b[2J"


def painted(*, coloured: bool, at_once: int = 3) -> str:
    painter = Painter(PAIR, Method(gate="confidence:0.5"))  # type: ignore[arg-type]
    text = ""
    for end in range(0, len(TEXT), at_once):
        painter.add(STEPS)
        text += painter.paint("answer", TEXT[end : end + at_once], coloured=coloured)
    return text + painter.end("answer", coloured=coloured)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_brackets_say_without_colours_what_happened(at_once: int) -> None:
    assert painted(coloured=False, at_once=at_once) == ("One[x| ][y|€ two↵\n][nobody drafted| three][shut| \\x1b[2J]")


def test_colours_say_it_and_none_outlasts_its_text() -> None:
    assert painted(coloured=True, at_once=100) == (
        "One\x1b[1m \x1b[0m\x1b[1;35m€ two↵\n\x1b[0m\x1b[1;31;4m three\x1b[0m\x1b[2m \\x1b[2J\x1b[0m"
    )
    in_parts = painted(coloured=True, at_once=3)
    assert re.sub(r"\x1b\[[0-9;]*m", "", in_parts) == "One € two↵\n three \\x1b[2J"
    assert in_parts.endswith("\x1b[0m")


def test_a_text_that_a_stop_string_has_cut_is_painted_as_far_as_it_is_shown() -> None:
    painter = Painter(PAIR, Method())
    painter.add([step(b" \n", x=True, y=True), step(b"One two", x=False, y=True)])  # white space beside a mark is cut
    assert painter.paint("answer", "One", coloured=False) + painter.end("answer", coloured=False) == "[y|One]"


def test_the_legend_names_what_the_method_can_bring_about() -> None:
    plain = Painter({**PAIR, "z": 1}, Method()).legend(coloured=False)
    assert plain == (
        "all agreed · [x|x's choice, against others] · [y|y overruled x] · [z|z overruled x] · "
        "[nobody|nobody's first choice]"
    )
    gated = Painter(PAIR, Method(gate="every:2", speculate="y:2")).legend(coloured=True)  # type: ignore[arg-type]
    assert "\x1b[2mthe gate stayed shut: x alone\x1b[0m" in gated
    assert "\x1b[4mdrafted and accepted\x1b[0m" in gated
    assert "overruled" not in Painter({"x": 1}, Method()).legend(coloured=False)


def test_the_first_of_positive_weight_leads_and_a_subtracted_member_wins_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    painter = Painter({"y": -0.5, "x": 1.0, "z": 0.5}, Method(combine="logits"))  # type: ignore[arg-type]
    legend = painter.legend(coloured=False)
    assert "[x|x's choice, against others] · [z|z overruled x] · [nobody" in legend
    assert legend.endswith(" · y is subtracted and votes for nothing")
    told = replace(step(b"One", x=False, y=True), subtracted=("y",))
    painter.add([told, replace(told, members={"x": 0.2, "y": 0.2}, top={"x": ((b"?", 0.6),), "y": ((b"!", 0.7),)})])
    assert painter.paint("answer", "One", coloured=False) == "[nobody|One"
    painter.print_table()
    table = " ".join(capsys.readouterr().out.split())
    assert "2 nobody's first choice" in table
    assert "y 2 subtracted x 2 2 (100 %) z 0" in table
    assert '0.200, "!" 0.700' in table


def test_what_rich_reads_as_marks_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("d[:x:]", "[red]a[/red]", ":heart: \\[b] \\")
    print_table(table_console(), words, [words], left=3)
    plain_console().print(words[2])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        *[" ".join(words).split()] * 2,
        words[2].split(),
    ]


def test_a_cell_of_megabytes_is_cut_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(table_console(), ("", "name"), [("token", "x" * 10**7)], left=2, fold=True)
    assert "".join(capsys.readouterr().out.split()).endswith("x…(10,000,000characters)")


def test_the_lead_is_bold_where_it_overrules_one_that_led_in_its_place() -> None:
    painter = Painter({"y": 0.5, "x": 0.5}, Method())
    painter.add([step(b"One", x=False, y=True)])
    assert painter.paint("answer", "One", coloured=True) == "\x1b[1mOne\x1b[0m"


def test_many_members_have_styles_of_their_own() -> None:
    legend = Painter({f"m{number}": 1 for number in range(11)}, Method()).legend(coloured=True)
    codes = re.findall(r"\x1b\[([0-9;]+)m", legend)
    assert len({code for code in codes if code != "0"}) == 12


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colours(Terminal())
    assert not colours(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not colours(Terminal())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours(Terminal())


def test_pieces_and_texts_never_hold_control_characters() -> None:
    assert harmless("a\x1b]0;t\x07\r\x9b1m\x7f\n\t€") == "a\\x1b]0;t\\x07\\x0d\\x9b1m\\x7f\n\t€"
    assert words_of(b"\x1b[2J \xff\n") == '"\\x1b[2J \\xff\\n"'
    assert (words_of(None), words_of("reasoning_end")) == ("END", "<reasoning_end>")
    assert Style().around("x", coloured=True) == "x"


def test_run_shows_a_legend_the_text_and_a_table(run: Run, duo: Path) -> None:
    plain = run("run", duo, "Together", "--max-new-tokens", 12, "-q").out
    shown = run("run", duo, "Together", "--max-new-tokens", 12, "-q", "--show")
    assert shown.code == 0
    assert shown.err == ""
    legend, text, *rest = shown.out.split("\n\n")
    assert legend.startswith("all agreed · [a|a's choice, against others] · [b|b overruled a]")
    assert re.sub(r"\[(?:a|b|nobody)\|(.*?)\]", r"\1", text, flags=re.DOTALL).replace("↵", "") == harmless(plain[:-1])
    assert re.search(r"12 pieces, 100 % ensembled", rest[0])
    assert re.search(r"^a +1[23] +\d+ \(\d+ %\)$", rest[0], re.MULTILINE)
    assert "most contested" in rest[1]
    assert len(rest[1].splitlines()) <= 6


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--json",), "--json does not go with --show"),
        (("--n", 2, "--temperature", 1), "--n does not go with --show"),
        (("--prompts", "{file}"), "--show does not go with --prompts"),
    ],
)
def test_show_refuses_what_it_cannot_show(run: Run, duo: Path, flags: tuple[object, ...], words: str) -> None:
    text = () if "--prompts" in flags else ("Together",)
    shown = run("run", duo, *text, "--show", *(str(flag).replace("{file}", str(duo)) for flag in flags))
    assert shown.code == 2
    assert words in shown.err
