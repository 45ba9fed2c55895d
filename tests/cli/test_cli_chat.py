"""`unisono chat` from stdin, and through a pseudo-terminal as a user drives it; members are fakes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chats import ANSWERS, MEMBERS, PASSES, make_talkers
from support.command_line import Run
from support.terminals import ALT_ENTER, CTRL_C, ENTER, Terminal
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.cli.talk.transcript import read_transcript

PROGRAM = Path(__file__).parents[1] / "support" / "chat_fakes.py"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Path]:
    make_talkers()
    path = tmp_path / "pair.yaml"
    path.write_text(json.dumps({"members": MEMBERS}))
    yield path
    FAKE_MODELS.clear()


def test_lines_of_stdin_are_turns_and_answers_alone_are_on_stdout(run: Run, pair: Path) -> None:
    shown = run("chat", pair, "-q", stdin=b"Hi\n\nWho?\n/undo\nWho?")
    assert shown.code == 0
    assert shown.out == f"{ANSWERS['Hi']}\n{ANSWERS['Who?']}\n{ANSWERS['Who?']}\n"
    assert shown.err == "took back a turn: 'Who?'\n"


def test_what_a_model_writes_reaches_a_pipe_as_it_is_and_talk_cannot_control_a_terminal(run: Run, pair: Path) -> None:
    shown = run("chat", pair, "-q", stdin=b"Escape\n/system \x1b[2J\n/system\n")
    assert shown.out == ANSWERS["Escape"] + "\n"
    assert shown.err == "system: \\x1b[2J\n" * 2


def test_a_line_that_cannot_be_answered_is_said_and_stops_no_other(run: Run, pair: Path) -> None:
    shown = run("chat", pair, "-q", stdin=b"/gait always\ncaf\xe9\n/gate never\nHi\n")
    assert shown.code == 2
    assert shown.out == ANSWERS["Hi"] + "\n"
    assert "there is no command '/gait'; did you mean '/gate'?" in shown.err
    assert "line 2 of stdin is not UTF-8" in shown.err
    assert "unknown gate 'never'" in shown.err


def test_json_gives_an_object_a_turn(run: Run, pair: Path) -> None:
    shown = run("chat", pair, "-q", "--json", "--max-new-tokens", 10, stdin=b"Count\n/continue\n")
    first, second = shown.lines()
    assert (first["text"], first["finish_reason"], first["usage"]["pieces"]) == (" one" * 10, "length", 10)
    assert second["text"] == " one" * 20


def test_a_conversation_is_saved_and_resumed(run: Run, pair: Path, tmp_path: Path) -> None:
    kept = tmp_path / "talk.json"
    assert run("chat", pair, "-q", "--gate", "first:2", stdin=f"Hi\n/save {kept}\nWho?\n".encode()).code == 0
    assert run("chat", pair, "-q", "--resume", kept, "--system", "Hm", stdin=b"Count").code == 0
    told = read_transcript(kept)
    assert [turn.question for turn in told.conversation.turns] == ["Hi", "Who?", "Count"]
    assert (told.conversation.system, dict(told.settings)) == ("Hm", {"gate": "first:2"})
    wrong = run("chat", pair, "--resume", tmp_path / "none.json")
    assert (wrong.code, wrong.out) == (2, "")
    assert "there is no conversation" in wrong.err
    kept.write_text(kept.read_text().replace("first:2", "first:two"))
    wrong = run("chat", pair, "--resume", kept)
    assert wrong.code == 2
    assert "talk.json' do not fit: " in wrong.err


def test_a_pipe_is_told_of_a_question_that_a_resumed_file_leaves_open(run: Run, pair: Path, tmp_path: Path) -> None:
    told = tmp_path / "talk.json"
    told.write_text(json.dumps({"unisono_chat": 1, "messages": [{"role": "user", "content": "Who?"}]}))
    shown = run("chat", pair, "-q", "--resume", told, stdin=b"/retry\n")
    assert shown.out == ANSWERS["Who?"] + "\n"
    assert shown.err == "the last question has no answer: 'Who?'; /retry as the first line answers it\n"


def test_an_amateur_that_stands_first_does_not_lead_in_the_legend(run: Run, pair: Path) -> None:
    shy, talker = {**MEMBERS[1], "weight": -0.5}, MEMBERS[0]
    pair.write_text(json.dumps({"members": [shy, talker], "combine": "contrastive"}))
    shown = run("chat", pair, "-q", "--show", stdin=b"Who?\n/show\n")
    assert shown.code == 0
    assert "its first choice · [nobody|nobody's first choice] · shy is subtracted and votes for nothing" in shown.out
    assert "shy's choice" not in run("run", pair, "Who?", "-q", "--show").out
    bench = run("bench", pair, "--rounds", 1, "--pieces", 4, "-q")
    assert "shy leads" not in bench.out + bench.err


@pytest.mark.parametrize(
    ("kept", "flags", "asked", "said"),
    [
        ({"temperature": 1.5}, ("--sampling", "greedy"), "/temperature", "temperature: 0"),
        ({"draw": 1.5}, ("--sampling", "greedy"), "/temperature", "temperature: 0"),
        ({"gate": "first:2", "boundary": True}, ("--gate", "first:3"), "/gate", "gate: first:3"),
        ({"speculate": "ngram", "max_pieces": 9}, ("--speculate", "ngram:4"), "/speculate", "speculate: ngram:4"),
        ({"speculate": "ngram:2"}, ("--speculate", "off"), "/speculate", "speculate: off"),
        ({"temperature": 1.5}, ("--sampling", "greedy", "--temperature", 0.5), "/temperature", "temperature: 0.5"),
        ({"speculate": "ngram"}, ("--max-pieces", 4), "/speculate", "speculate: ngram:4"),
    ],
)
def test_flags_win_over_the_settings_of_a_resumed_file(
    run: Run, pair: Path, tmp_path: Path, kept: object, flags: tuple[object, ...], asked: str, said: str
) -> None:
    told = tmp_path / "talk.json"
    told.write_text(json.dumps({"unisono_chat": 1, "settings": kept, "messages": []}))
    shown = run("chat", pair, "-q", "--resume", told, *flags, stdin=asked.encode())
    assert (shown.code, shown.err) == (0, said + "\n")


def test_default_is_what_the_file_says_and_not_the_flags(run: Run, pair: Path, tmp_path: Path) -> None:
    pair.write_text(json.dumps({"members": MEMBERS, "gate": "first:7"}))
    shown = run("chat", pair, "-q", "--gate", "first:2", stdin=b"/gate\n/gate default\n")
    assert shown.err == "gate: first:2\ngate: first:7\n"


def test_a_flag_that_does_not_fit_is_not_said_of_the_resumed_file(run: Run, pair: Path, tmp_path: Path) -> None:
    told = tmp_path / "talk.json"
    told.write_text(json.dumps({"unisono_chat": 1, "settings": {"gate": "first:2"}, "messages": []}))
    shown = run("chat", pair, "-q", "--resume", told, "--max-pieces", 3)
    assert shown.code == 2
    assert shown.err.startswith("unisono: max_pieces is given, but nobody drafts")
    assert run("chat", pair, "-q", "--gate", "never").err.startswith("unisono: unknown gate")


def test_pieces_are_shown_in_brackets_where_there_are_no_colours(run: Run, pair: Path) -> None:
    shown = run("chat", pair, "-q", "--show", "--gate", "first:1", stdin=b"Who?\n/show\n")
    legend, answer, *rest = shown.out.splitlines()
    assert legend.startswith("all agreed · ")
    assert answer == "The[shut| cat.]"
    assert rest[:3] == [legend, "", answer]
    assert " pieces, " in shown.out
    assert run("chat", pair, "--show", "--json").code == 2


@pytest.mark.usefixtures("pair")
def test_members_are_named_without_a_file_and_idle_flags_are_said(run: Run) -> None:
    shown = run("chat", "-m", "fake:talker", "-m", "fake:shy weight:0.2", "--top-p", 0.5, stdin=b"Hi\n/gate always\n")
    assert shown.out == ANSWERS["Hi"] + "\n"
    assert "--top-p has no effect at temperature 0" in shown.err


def start(pair: Path, home: Path, milliseconds: int, *words: str) -> Terminal:
    return Terminal([sys.executable, str(PROGRAM), str(milliseconds), "chat", str(pair), *words], home)


def test_a_user_talks_stops_edits_and_leaves(pair: Path, tmp_path: Path) -> None:
    terminal = start(pair, tmp_path, 5)
    terminal.see("talker + shy; /help lists commands")
    terminal.ready()
    terminal.ask("Count")
    terminal.see(" one one one")
    terminal.press("typed ahead")
    terminal.press(CTRL_C)
    assert "typed" not in terminal.see("stopped: what is written stays")
    terminal.ready()
    terminal.see("typed ahead")  # keys that came meanwhile wait for the prompt
    terminal.press(CTRL_C)
    terminal.see("(Ctrl-D leaves)")
    terminal.ready()
    terminal.ask("/continue")
    terminal.see("pieces in")
    terminal.ready()
    terminal.resize(40)
    terminal.ask("Escape")
    terminal.see("a\\x1b]0;gone\\x07b\\x0d")
    terminal.see("pieces in")
    terminal.ready()
    terminal.press("/gate first:1" + ENTER)
    terminal.see("gate: first:1")
    terminal.ready()
    terminal.press("W" + ALT_ENTER + "\\" + ENTER + "Who?" + ENTER)
    terminal.see(ANSWERS["Who?"])
    terminal.see("% ensembled")
    terminal.ready()
    terminal.ask(f"/save {tmp_path / 'talk.json'}")
    terminal.see("saved in")
    terminal.ready()
    assert terminal.leave() == 0
    told = read_transcript(tmp_path / "talk.json").conversation
    assert [turn.question for turn in told.turns] == ["Count", "Escape", "W\n\nWho?"]
    assert told.turns[0].answer == ANSWERS["Count"]
    history = tmp_path / "unisono" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "+Count\n" in history.read_text()


def stop_reading(terminal: Terminal, home: Path) -> None:
    """Press Ctrl-C while a pass reads the question, and again, which does not wait for the pass."""
    passes = home / PASSES
    while not passes.exists():
        time.sleep(0.01)
    for _ in range(2):  # with time to hear each
        terminal.press(CTRL_C)
        time.sleep(0.1)
    passes.unlink()


def test_ctrl_c_stops_reading_and_a_question_comes_back(pair: Path, tmp_path: Path) -> None:
    terminal = start(pair, tmp_path, 600, "--no-history")
    terminal.ready()
    terminal.ask("Who?")
    stop_reading(terminal, tmp_path)
    terminal.see("stopped before an answer began")
    terminal.ready()
    terminal.see("Who?")
    assert not (tmp_path / "unisono").exists()
    terminal.press(CTRL_C)
    terminal.ready()
    terminal.press("\x1b[200~//pasted\r\nHi\x1b[201~")  # which sends nothing
    terminal.ask("")
    stop_reading(terminal, tmp_path)
    terminal.see("stopped before an answer began")
    terminal.ready()
    terminal.see("//pasted")
    terminal.press(CTRL_C)
    terminal.ready()
    assert terminal.leave() == 0
