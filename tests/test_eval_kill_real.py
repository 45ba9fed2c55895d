"""A run on real models that is killed again and again leaves what one leaves that is not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval_data import write_data

pytestmark = pytest.mark.models
KILLS = 10
SPEC = """\
members:
  - {name: smol, model: "demo:smollm2-135m-instruct", context: 512, threads: 1}
  - {name: gemma, model: "demo:gemma3-270m", context: 512, threads: 1}
"""


def start(folder: Path, out: str) -> subprocess.Popen[bytes]:
    words = ["eval", "duo.yaml", "--tasks", "arc_easy,triviaqa", "--data", "data", "--compare", "--out", out]
    words += ["--variant", "gate=confidence:0.5", "--baseline", "genrm", "--limit", "3", "-q"]
    return subprocess.Popen([sys.executable, "-m", "unisono", *words], cwd=folder, stdout=subprocess.DEVNULL)


def test_a_run_that_was_killed_ten_times_ends_as_one_that_was_not(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "duo.yaml").write_text(SPEC)
    began = time.monotonic()
    assert start(tmp_path, "whole").wait() == 0
    whole = time.monotonic() - began
    moments = random.Random(6)
    answered = []
    for _ in range(KILLS):
        process = start(tmp_path, "killed")
        time.sleep(moments.uniform(0.3, 0.8) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        file = tmp_path / "killed" / "answers.jsonl"
        answered.append(file.stat().st_size if file.exists() else 0)
    assert start(tmp_path, "killed").wait() == 0
    assert answered == sorted(answered)
    for name in ("answers.jsonl", "questions.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
