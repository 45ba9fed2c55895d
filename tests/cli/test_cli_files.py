"""Whatever stands where a command is given a file: it is refused at once, by name, and never waited for."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command_line import Run
from support.eval_data import write_data
from unisono.config.ensemble import load_spec
from unisono.errors import SpecError
from unisono.evals.tasks.rows import RECIPES, read_rows
from unisono.server.middleware import read_keys
from unisono.user_files import SETTINGS, read_bytes

KINDS = ("pipe", "loop", "huge", "device", "folder", "socket", "memory", "unreadable", "binary", "utf-16", "packed")


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
    elif kind == "socket":
        with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as listening:
            listening.bind(name)  # a path of more than a hundred bytes would be too long
    elif kind == "memory":
        path.symlink_to("/proc/self/mem")  # a file of no size, whose first byte cannot be read
    elif kind == "unreadable":
        path.write_text("x")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
    elif kind == "binary":
        path.write_bytes(b"\x7fELF" + bytes(range(256)) * 64)
    elif kind == "utf-16":
        path.write_text('{"id": 1, "prompt": "Hello"}\n', encoding="utf-16")
    elif kind == "packed":
        path.write_bytes(gzip.compress(b'{"id": 1, "prompt": "Hello"}\n'))
    else:
        path.touch()
        os.truncate(path, 10**13)
    return path


def piped(path: Path, text: str) -> Path:
    """A pipe in which a text comes, in two parts."""
    os.mkfifo(path)

    def write() -> None:
        with path.open("w") as pipe:
            pipe.write(text[:10])
            pipe.flush()
            pipe.write(text[10:])

    threading.Thread(target=write, daemon=True).start()
    return path


def _with(duo: Path, key: str, path: Path) -> Path:
    duo.write_text(f"members: [{{name: a, {key}: {path}}}]")
    return duo


PLACES: dict[str, Callable[[Path, Path], tuple[object, ...]]] = {
    "the spec of run": lambda path, duo: ("run", path, "Hello"),
    "the spec of doctor": lambda path, duo: ("doctor", path),
    "the spec of eval": lambda path, duo: ("eval", path, "--tasks", "gsm8k"),
    "the spec of tune": lambda path, duo: ("tune", path, "--task", "gsm8k"),
    "the prompts": lambda path, duo: ("run", duo, "--prompts", path),
    "the schema": lambda path, duo: ("run", duo, "Hello", "--json-schema", path),
    "the keys": lambda path, duo: ("serve", duo, "--api-key-file", path),
    "a configuration": lambda path, duo: ("import-gac", path),
    "the spec of bench": lambda path, duo: ("bench", path),
    "the spec of serve": lambda path, duo: ("serve", path),
    "the spec of member": lambda path, duo: ("member", "serve", path, "--member", "a"),
    "the spec of fit": lambda path, duo: ("fit", path, "--prompts", duo),
    "the answers of fit": lambda path, duo: ("fit", duo, "--prompts", path),
    "the file of fit": lambda path, duo: ("fit", duo, "--tasks", "piqa", "--out", path),
    "the file of tune": lambda path, duo: ("tune", duo, "--task", "piqa", "--out", path),
    "a variant of eval": lambda path, duo: (
        *("eval", duo, "--tasks", "piqa", "--data", write_data(duo.with_name("data")), "--variant", path),
        *("--out", duo.with_name("run")),
    ),
    "the run of report": lambda path, duo: ("report", path),
    "the questions of eval": lambda path, duo: ("eval", duo, "--tasks", "piqa", "--data", path),
    "the folder of eval": lambda path, duo: (
        *("eval", duo, "--tasks", "piqa", "--data", write_data(duo.with_name("data")), "--limit", 1, "--out", path),
    ),
    "a tokenizer": lambda path, duo: ("doctor", _with(duo, "url: 'http://127.0.0.1:9', tokenizer", path)),
    "a model": lambda path, duo: ("doctor", _with(duo, "model", path)),
}


NAMED = (
    *("the spec of run", "the spec of doctor", "the prompts", "the schema", "the keys", "a configuration"),
    *("the spec of bench", "the spec of serve", "the spec of member", "the answers of fit"),
)
"""What may be a pipe, which is then waited for."""
FOLDERS = ("the run of report", "the questions of eval", "the folder of eval", "a model", "a tokenizer")


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (place, kind)
        for place in PLACES
        for kind in KINDS
        if not (kind == "pipe" and place in NAMED) and not (kind == "folder" and place in FOLDERS)
    ],
)
def test_what_is_no_file_to_read_is_refused(run: Run, duo: Path, tmp_path: Path, place: str, kind: str) -> None:
    path = odd(tmp_path, kind, "odd.yaml")
    began = time.perf_counter()
    shown = run(*PLACES[place](path, duo))
    assert time.perf_counter() - began < 20, "it was waited for"  # the first of a verb imports its libraries
    assert shown.code == 2
    assert "Traceback" not in shown.err
    assert "internal error" not in shown.err
    assert path.name in shown.err


def test_what_a_command_is_given_may_come_through_a_pipe(run: Run, duo: Path, tmp_path: Path) -> None:
    """As `<(command)` gives it. Models are named from the pipe's folder, or the current one."""
    spec = piped(tmp_path / "spec.yaml", duo.read_text())
    prompts = piped(tmp_path / "prompts.jsonl", '{"id": 1, "prompt": "Hello"}\n')
    shown = run("run", spec, "--prompts", prompts, "--max-new-tokens", 2)
    assert (shown.code, json.loads(shown.out)["id"]) == (0, 1)
    schema = piped(tmp_path / "schema.json", '{"const": 7}')
    assert run("run", duo, "Hello", "--json-schema", schema, "-q").out.strip() == "7"
    assert read_keys(piped(tmp_path / "keys", "a-key-of-some-length\n"))
    ended, writing = os.pipe()
    os.write(writing, duo.read_bytes())
    os.close(writing)
    assert load_spec(f"/dev/fd/{ended}").folder == Path.cwd()
    os.close(ended)


@pytest.mark.parametrize("spec", [True, False])
def test_a_pipe_without_end_is_read_up_to_its_bound(tmp_path: Path, spec: bool) -> None:
    path, most = tmp_path / "pipe", SETTINGS if spec else 1000
    pipe = piped(path, "#" * (most + 1))
    words = f"it has {most + 1:,} bytes, and at most {most:,} are read"
    with pytest.raises(SpecError if spec else OSError, match=words):
        load_spec(pipe) if spec else read_bytes(pipe, most, named=True)


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
