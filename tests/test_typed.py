"""A strict mypy project outside of this one sees the types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unisono

PROJECT = """
from unisono import Ensemble, Generation, Request, Sampling
from unisono.types import Constraint, Gate, Message
from unisono.tools import find_calls

with Ensemble.load("duo.yaml") as duo:
    reveal_type(duo.generate("Once"))
    reveal_type(duo.generate("Once", n=2, temperature=0.5))
    reveal_type(duo.generate(["Once", "Twice"]))
    reveal_type(duo.stream("Once", top_p=0.9).generation.text)
    reveal_type(duo.members)
    duo.generate("Once", temprature=0.5)
"""
SEEN = [
    "unisono.records.Generation",
    "list[unisono.records.Generation]",
    "list[unisono.records.Generation]",
    "str",
    "tuple[str, ...]",
]


@pytest.mark.slow
def test_a_strict_project_outside_sees_the_types(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROJECT)
    source = Path(unisono.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(source), "MYPYPATH": ""}
    words = ["-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary", "program.py"]
    shown = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    lines = shown.stdout.splitlines()
    notes = [line.split('"')[1] for line in lines if "Revealed type" in line]
    assert [note.replace("builtins.", "") for note in notes] == SEEN, shown.stdout + shown.stderr
    wrong = [line for line in lines if " error: " in line]
    assert wrong, shown.stdout
    assert all(line.startswith("program.py:12: ") for line in wrong), shown.stdout
    assert "temprature" in wrong[0]
