"""The commands of a chat, and the file that a conversation is kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chats import ANSWERS, make_talkers, session_of
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.cli.talk.commands import COMMANDS, Commands, is_command, line_of, question_of
from unisono.cli.talk.conversation import Conversation, Turn
from unisono.cli.talk.transcript import Transcript, read_transcript, write_transcript
from unisono.errors import SpecError, UnisonoError

TOLD = Transcript(
    Conversation("Be brief", (Turn("Hi", "Good\n€", "Hm.", "stopped"), Turn("Who?", "", None, "context"))),
    ("talker", "shy"),
    {"gate": "first:8", "temperature": 0.5, "boundary": True},
    "And?",
)


@pytest.fixture(autouse=True)
def talkers() -> Iterator[None]:
    make_talkers()
    yield
    FAKE_MODELS.clear()


@pytest.fixture
def commands() -> Commands:
    return Commands(session_of())


def ask(commands: Commands, question: str) -> None:
    session = commands._session
    answer = session.ask(question)
    list(answer)
    session.keep(answer)


@pytest.mark.parametrize("line", ["/help", "//usr/bin?", "/", "Hi", " /x"])
def test_what_begins_with_a_slash_is_a_command_and_two_ask(line: str) -> None:
    assert is_command(line) == (line in ("/help", "/"))
    if not is_command(line):
        assert line_of(question_of(line)) == line


def test_help_lists_every_command(commands: Commands) -> None:
    table = commands.run("/help").table
    assert table is not None
    listed = {row[0].split()[0] for row in table.rows}
    assert listed == {f"/{name}" for name in COMMANDS if name != "exit"}


def test_members_shows_who_votes_and_how_full_their_contexts_are(commands: Commands) -> None:
    ask(commands, "Hi")
    table = commands.run("/members").table
    assert table is not None
    assert [row[:3] for row in table.rows] == [
        ("talker (leads)", "fake:talker", "0.83"),
        ("shy", "fake:shy", "0.17"),
    ]
    assert [row[3:] for row in table.rows] == [("5", "4,096"), ("5", "4,096")]


def test_settings_are_shown_changed_and_taken_back(commands: Commands) -> None:
    assert commands.run("/gate").words == "gate: always"
    assert commands.run("/gate confidence:0.5").words == "gate: confidence:0.5"
    assert commands.run("/combine geometric truncate:10").words == "combine: geometric truncate:10"
    assert commands.run("/lead shy").words == "lead: shy"
    assert commands.run("/speculate ngram:4").words == "speculate: ngram:4"
    assert commands.run("/speculate off").words == "speculate: off"
    assert commands.run("/temperature 0.7").words == "temperature: 0.7"
    assert commands.run("/sampling greedy").words == "sampling: greedy"
    assert commands.run("/reasoning off").words == "reasoning: off"
    assert commands.run("/gate default").words == "gate: always"
    assert commands.run("/lead").words == "lead: shy"
    assert commands.run("/system Be\nbrief").words == "system: Be\nbrief"
    assert commands.run("/system off").words == "there is no system message"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/hlep", "did you mean '/help'"),
        ("/", "there is no command '/'"),
        ("/usr/bin/python", "there is no command"),
        ("/gate sometimes", "unknown gate 'sometimes'"),
        ("/combine mean floor:0.1", "has no floor"),
        ("/temperature warm", "temperature is 'warm'"),
        ("/undo many", "is not a number of turns"),
        ("/undo 0", "is not a number of turns"),
        ("/forget -1", "is not a number of turns"),
        ("/retry", "there is no answer to answer again"),
        ("/continue", "there is no answer to go on with"),
        ("/save", "has no file yet"),
        ('/save ""', "has no file yet"),
        ("/save /nowhere/talk.json", "No such file or directory"),
        ("/show me", "is unknown"),
        ("/clear the table, how?", "/clear stands alone, and 'the table, how?' follows it"),
        ("/quit\nand more that was pasted", "/quit stands alone"),
        ("/show", "there is no answer to show"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_way_out(commands: Commands, line: str, words: str) -> None:
    with pytest.raises(UnisonoError) as caught:
        commands.run(line)
    assert words in caught.value.message
    assert caught.value.hint


def test_pieces_are_shown_where_they_were_noted(commands: Commands) -> None:
    ask(commands, "Hi")
    with pytest.raises(SpecError, match="nothing was noted"):
        commands.run("/show")
    assert commands.run("/show on").legend
    ask(commands, "Hi")
    shown = commands.run("/show").shown
    assert shown is not None
    assert b"".join(step.piece or b"" for step in shown.steps).decode() == ANSWERS["Hi"]
    assert not commands.run("/show off").legend
    assert not commands.shows_pieces


def test_turns_are_taken_back_offered_again_and_forgotten(commands: Commands) -> None:
    assert commands.run("/undo").words == "there is nothing to take back"
    for question in ("Hi", "Who?", "Count"):
        ask(commands, question)
    taken = commands.run("/undo 2")
    assert (taken.words, taken.offered) == ("took back 2 turns: 'Who?'", "Who?")
    ask(commands, "Count")
    assert commands.run("/forget").words == "forgot a turn"
    assert [turn.question for turn in commands._session.conversation.turns] == ["Count"]
    assert commands.run("/forget 9").words == "forgot a turn"
    assert commands.run("/forget").words == "there is nothing to forget"


def test_what_is_forgotten_is_said_to_be_gone_from_the_file_too(commands: Commands, tmp_path: Path) -> None:
    kept = tmp_path / "talk.json"
    for question in ("Hi", "Who?"):
        ask(commands, question)
    commands.run(f"/save {kept}")
    assert commands.run("/forget").words == f"forgot a turn; '{kept}' has no more than the rest"
    assert [turn.question for turn in read_transcript(kept).conversation.turns] == ["Who?"]


def test_a_conversation_is_kept_in_its_file_and_no_other_file_is_lost(commands: Commands, tmp_path: Path) -> None:
    kept, other = tmp_path / "my talk.json", tmp_path / "other.txt"
    other.write_text("precious")
    ask(commands, "Hi")
    with pytest.raises(SpecError, match="already a file"):
        commands.run(f"/save {other}")
    assert other.read_text() == "precious"
    assert "every turn from here on" in commands.run(f'/save "{kept}"').words
    assert read_transcript(kept).conversation.turns == (Turn("Hi", ANSWERS["Hi"]),)
    ask(commands, "Who?")
    commands.save_kept()
    assert len(read_transcript(kept).conversation.turns) == 2
    commands.run("/undo")
    commands.run("/gate first:3")
    assert len(read_transcript(kept).conversation.turns) == 1
    assert read_transcript(kept).settings == {"gate": "first:3"}
    assert commands.run("/save").words == f"saved in '{kept}'"
    assert commands.run(f"/save --overwrite {other}").words.startswith(f"saved in '{other}'")
    assert commands.run("/clear").words == f"a new conversation begins; '{other}' keeps it"
    ask(commands, "Count")
    commands.save_kept()
    assert [turn.question for turn in read_transcript(other).conversation.turns] == ["Hi"]


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path, link = tmp_path / "talk.json", tmp_path / "link.json"
    path.write_text("old")
    link.symlink_to(path)
    write_transcript(link, TOLD)
    assert link.is_symlink()
    assert read_transcript(path) == TOLD
    record = json.loads(path.read_text())
    assert list(record) == ["unisono_chat", "members", "settings", "messages"]
    assert record["messages"][2] == {
        "role": "assistant",
        "content": "Good\n€",
        "reasoning_content": "Hm.",
        "finish_reason": "stopped",
    }


def test_nothing_but_a_file_is_written_over(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/null")):
        with pytest.raises(SpecError, match="cannot write"):
            write_transcript(path, TOLD)
    assert pipe.is_fifo()


USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it is []"),
        ({}, "lacks the key 'unisono_chat'"),
        ({"unisono_chat": 2, "messages": []}, "unisono_chat is 2"),
        ({"unisono_chat": 1, "mesages": []}, "unknown key 'mesages'"),
        ({"unisono_chat": 1, "messages": [ASSISTANT]}, "message 1 is of the role 'assistant'"),
        ({"unisono_chat": 1, "messages": [USER, USER]}, "message 2 is of the role 'user'"),
        ({"unisono_chat": 1, "messages": [USER, ASSISTANT, {"role": "system", "content": "x"}]}, "message 3"),
        ({"unisono_chat": 1, "messages": [{**USER, "content": None}]}, "messages.0.content is null"),
        ({"unisono_chat": 1, "messages": [{**USER, "finish_reason": "end"}, ASSISTANT]}, "neither reasons nor ends"),
        ({"unisono_chat": 1, "messages": [USER, {**ASSISTANT, "finish_reason": "bored"}]}, "finish_reason"),
        ({"unisono_chat": 1, "settings": {"gate": ["always"]}}, "settings.gate"),
    ],
)
def test_a_broken_file_is_refused_in_words_and_left_alone(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    before = path.read_bytes()
    with pytest.raises(SpecError) as caught:
        read_transcript(path)
    assert words in caught.value.message
    assert str(path) in caught.value.message
    assert path.read_bytes() == before


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no conversation"):
        read_transcript(tmp_path / "none.json")
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(SpecError, match="it is not UTF-8"):
        read_transcript(tmp_path / "latin")
    with pytest.raises(SpecError, match="Is a directory"):
        read_transcript(tmp_path)
