"""`unisono chat` with the demo pair at a pseudo-terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.terminals import CTRL_C, Terminal
from unisono.cli.talk.transcript import read_transcript

pytestmark = pytest.mark.models

DUO = Path(__file__).parents[2] / "examples" / "duo.yaml"
PROGRAM = [sys.executable, "-m", "unisono"]


def test_the_demo_pair_talks_is_stopped_goes_on_and_is_saved(tmp_path: Path) -> None:
    kept = tmp_path / "talk.json"
    words = ["chat", str(DUO), "--stop", "Question:", "--max-new-tokens", "200", "-q"]
    terminal = Terminal([*PROGRAM, *words], tmp_path)
    terminal.ready()
    terminal.ask("日本の首都は? 🗼")
    terminal.busy()
    terminal.press(CTRL_C + CTRL_C)
    terminal.ready()
    terminal.press(CTRL_C)  # drops the question, which is offered again where no answer had begun
    terminal.see("(Ctrl-D leaves)")
    terminal.ready()
    terminal.ask("/gate confidence:0.4")
    terminal.see("gate: confidence:0.4")
    terminal.ready()
    terminal.press("Tell me a long story about a lighthouse.\r")
    terminal.see(" the ")
    terminal.press(CTRL_C)
    terminal.ready()
    terminal.ask(f"/save {kept}")
    terminal.see("saved in")
    terminal.ready()
    assert terminal.leave() == 0
    turns = read_transcript(kept).conversation.turns
    assert turns[-1].ending == "stopped"
    assert " the " in turns[-1].answer
