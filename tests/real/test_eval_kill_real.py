"""A run on real models that is killed again and again leaves what one leaves that is not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.command_line import Run
from support.covering import ALL
from support.eval_data import write_data

pytestmark = pytest.mark.models
KILLS = 10 if ALL else 1
"""Each costs half a run. Runs of fakes are cut off anywhere (`test_eval_run.py`)."""
SPEC = """\
members:
  - {name: smol, model: "demo:smollm2-135m-instruct", context: 512, threads: 1}
  - {name: gemma, model: "demo:gemma3-270m", context: 512, threads: 1}
"""


def words(out: str) -> list[str]:
    given = ["eval", "duo.yaml", "--tasks", "arc_easy,triviaqa", "--data", "data", "--compare", "--out", out]
    return [*given, "--variant", "gate=confidence:0.5", "--baseline", "genrm", "--limit", "2", "-q"]


def start(folder: Path, out: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "unisono", *words(out)], cwd=folder, stdout=subprocess.DEVNULL)


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Kills hit a run at work; whichever run ends in between is compared, and another one begun."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    (tmp_path / "duo.yaml").write_text(SPEC)
    began = time.monotonic()
    assert run(*words("whole")).code == 0
    whole = time.monotonic() - began
    moments = random.Random(6)
    kills, ended = 0, 0
    while kills < KILLS:
        process = start(tmp_path, f"killed{ended}")
        try:
            assert process.wait(moments.uniform(0.1, 0.9) * whole) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        else:
            check(tmp_path, f"killed{ended}")
            ended += 1
    assert run(*words(f"killed{ended}")).code == 0
    check(tmp_path, f"killed{ended}")


def check(folder: Path, out: str) -> None:
    for name in ("answers.jsonl", "questions.jsonl"):
        assert (folder / out / name).read_bytes() == (folder / "whole" / name).read_bytes()
