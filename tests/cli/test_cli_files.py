"""Whatever stands where a command is given a file: it is refused at once, by name, and never waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command_line import Run
from unisono.errors import SpecError
from unisono.evals.tasks.rows import RECIPES, read_rows

KINDS = ("pipe", "loop", "huge", "device", "folder")


def odd(folder: Path, kind: str, name: str = "odd.jsonl") -> Path:
    path = folder / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 10**13)
    return path


PLACES: dict[str, Callable[[Path, Path], tuple[object, ...]]] = {
    "the spec of run": lambda path, duo: ("run", path, "Hello"),
    "the spec of doctor": lambda path, duo: ("doctor", path),
    "the spec of eval": lambda path, duo: ("eval", path, "--tasks", "gsm8k"),
    "the prompts": lambda path, duo: ("run", duo, "--prompts", path),
    "the schema": lambda path, duo: ("run", duo, "Hello", "--json-schema", path),
    "the keys": lambda path, duo: ("serve", duo, "--api-key-file", path),
    "a configuration": lambda path, duo: ("import-gac", path),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_to_read_is_refused(run: Run, duo: Path, tmp_path: Path, place: str, kind: str) -> None:
    path = odd(tmp_path, kind)
    began = time.perf_counter()
    shown = run(*PLACES[place](path, duo))
    assert time.perf_counter() - began < 2
    assert shown.code == 2
    assert "Traceback" not in shown.err
    assert "internal error" not in shown.err
    assert path.name in shown.err


@pytest.mark.parametrize("kind", ["pipe", "loop", "device"])
def test_a_model_that_is_no_file_is_refused(run: Run, tmp_path: Path, kind: str) -> None:
    path = odd(tmp_path, kind, "odd.gguf")
    (spec := tmp_path / "one.yaml").write_text(f"members: [{{name: a, model: {path}}}]")
    began = time.perf_counter()
    shown = run("run", spec, "Hello")
    assert time.perf_counter() - began < 2
    assert shown.code == 2
    assert "member 'a'" in shown.err
    assert str(path) in shown.err


@pytest.mark.parametrize("kind", ["pipe", "huge", "device"])
@pytest.mark.parametrize("name", ["answers.jsonl", "times.jsonl", "questions.jsonl", "run.json"])
def test_a_run_s_folder_of_no_files_is_refused(run: Run, tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "run.json").write_text('{"tasks": [], "systems": []}')
    for other in ("answers.jsonl", "times.jsonl", "questions.jsonl"):
        (tmp_path / other).touch()
    (tmp_path / name).unlink()
    odd(tmp_path, kind, name)
    began = time.perf_counter()
    shown = run("report", tmp_path)
    assert time.perf_counter() - began < 2
    assert "Traceback" not in shown.err
    assert "internal error" not in shown.err


@pytest.mark.parametrize("kind", KINDS)
def test_questions_that_are_no_file_are_refused(tmp_path: Path, kind: str) -> None:
    path = odd(tmp_path, kind, "gsm8k.jsonl")
    began = time.perf_counter()
    with pytest.raises(SpecError, match=r"gsm8k\.jsonl"):
        read_rows(path, RECIPES["gsm8k"], ["gsm8k"])
    assert time.perf_counter() - began < 2
