"""What the program says of itself, and of words that it does not take."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import pytest

from support.command_line import Run
from unisono.cli.answers import ShownText
from unisono.cli.console import Talk
from unisono.cli.main import VERBS, load_verb

OWN = sorted(set(VERBS) - {"lm-eval", "member"})
"""The verbs whose help is ours, and that stand alone."""


@pytest.mark.parametrize("verb", [*OWN, "member serve"])
def test_help_has_every_flag_whole_at_80_columns_and_values_by_their_names(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run(*verb.split(), "--help").out
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r" <\w", text), "the names of Python's types"
    command = load_verb(verb.split()[0])
    command = command.commands["serve"] if verb == "member serve" else command
    for parameter in command.params:
        names = [parameter.metavar] if parameter.param_type_name == "argument" else parameter.opts
        if not getattr(parameter, "hidden", False):
            assert all(name in text for name in (*names, *parameter.secondary_opts))


def test_the_list_of_verbs_has_the_whole_help_of_each(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = " ".join(run("--help").out.split())
    assert all(" ".join(help_of.split()) in words for help_of in VERBS.values())


@pytest.mark.parametrize(
    ("words", "problem", "way_out"),
    [
        (("run", "Why is the sky blue?"), "no ensemble file 'Why is the sky blue?'", "write the ensemble before it"),
        (("run", ""), "there is no ensemble", "name its file"),
        (
            ("run", "{duo}", "is", "it", "blue?"),
            "run takes SPEC and TEXT alone: 'it blue?' cannot stand here",
            "quote",
        ),
        (("doctor", "{duo}", "x"), "doctor takes SPEC alone: 'x' cannot stand here", "doctor -h lists"),
        (("models", "x"), "models takes flags alone: 'x' cannot stand here", "models -h lists"),
        (("run", "{duo}", "--temperature", "hot", "x"), "Invalid value for '--temperature': ", ": 'hot'"),
        (("show", "{duo}", "--port=http"), "Invalid value for '--port': ", ": 'http'"),
        (("run", "{duo}", "--batch", "0", "x"), "Invalid value for '--batch': ", ": '0'"),
        (("show",), "Missing argument 'TRACE'", "show -h' for help"),
        (("member", "serve"), "Missing argument 'SPEC'", "serve -h' for help"),
        (("eval",), "Missing option '--tasks'", "eval -h' for help"),
        (("fit", "{duo}"), "neither --tasks nor --prompts is given", "give one of them"),
        (("run", "{duo}", "x", "--json-schema", "{duo}"), "duo.yaml' is refused: the json_schema is not JSON", "check"),
    ],
)
def test_words_that_a_verb_does_not_take_are_named_with_the_way_out(
    run: Run,
    duo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    problem: str,
    way_out: str,
) -> None:
    (empty := tmp_path / "empty").mkdir()
    monkeypatch.chdir(empty)
    shown = run(*(word.format(duo=duo) for word in words))
    assert (shown.code, shown.out) == (2, "")
    assert problem in shown.err
    assert way_out in shown.err


def test_what_is_logged_within_a_text_on_a_terminal_begins_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show, talk = ShownText(), Talk()
    warning = logging.makeLogRecord({"msg": "member %r is slow", "args": ("smol",)})
    for is_terminal, told in (
        (False, "unisono: member 'smol' is slow\n"),
        (True, "\nunisono: member 'smol' is slow\n"),
    ):
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda told=is_terminal: told)
        show("answer", "The river")
        talk.emit(warning)
        assert capsys.readouterr() == ("The river", told)
        talk.emit(warning)
        show("answer", " Nile")
        show.end()
        talk.emit(warning)
        assert capsys.readouterr() == (" Nile\n", "unisono: member 'smol' is slow\n" * 2)


def test_a_text_in_place_of_the_ensemble_is_refused_before_stdin_is_read(run: Run, duo: Path) -> None:
    shown = run("run", duo.parent / "none.yaml", stdin=b"\xff")
    assert "there is no ensemble file" in shown.err
