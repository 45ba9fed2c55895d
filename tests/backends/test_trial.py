"""A file over which llama.cpp ends the process is tried in another one, and refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

from support.gguf_files import rewrite_gguf
from support.tiny_gguf import tiny_tensors, write_tiny
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.gguf_parts import read_gguf
from unisono.backends.llamacpp import loader, trial
from unisono.errors import ModelCorrupt, ModelUnsupported


@pytest.fixture(autouse=True)
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trial.SWITCH, "on")
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))


def load(path: Path) -> Any:
    request = LoadRequest("m", ModelSource("gguf", str(path)), device="cpu", context=64)
    return loader.LlamaCppLoader(request).load(lambda fraction, words: None)


def test_what_would_end_the_process_is_refused_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of another kind than its file says has no tokens for bytes, and llama.cpp looks for them."""
    whole = write_tiny(tmp_path / "whole.gguf", tiny_tensors())
    tokens = [*read_gguf(whole).metadata["tokenizer.ggml.tokens"]]
    tokens[-1] = "▁written as that kind does"
    kind = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens}
    path = rewrite_gguf(whole, tmp_path / "odd.gguf", metadata=kind)
    with pytest.raises(
        ModelUnsupported, match=r"member 'm': llama.cpp ends the process over .*odd\.gguf: .*at"
    ) as told:
        load(path)
    assert "convert the model again" in str(told.value.hint)
    assert "UNISONO_TRIAL_LOAD=off loads it all the same" in str(told.value.hint)
    monkeypatch.setattr(trial, "_try", lambda path: "a cause of the moment")
    with pytest.raises(ModelUnsupported, match="a cause of the moment"):
        load(path)
    monkeypatch.setattr(trial, "_try", lambda path: "")
    trial.check_survives(loader.library, "1", read_gguf(whole))


def test_a_library_that_crashes_when_it_is_taken_down_says_nothing_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds for GPUs do, and would have every file refused."""
    package = tmp_path / "unisono" / "backends" / "llamacpp"
    package.mkdir(parents=True)
    (package / "loader.py").write_text("import atexit, os\natexit.register(os.abort)\nlibrary = None\n")
    (package / "trial.py").write_text("def plan(library, path): pass\n")
    monkeypatch.setattr(trial.sys, "path", [str(tmp_path), *trial.sys.path])
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    assert trial._try(tmp_path / "t.gguf") == ""
    (package / "trial.py").write_text("import os\ndef plan(library, path): os.abort()\n")
    assert trial._try(tmp_path / "t.gguf") == "SIGABRT"


def test_another_build_of_the_same_version_tries_again(tmp_path: Path) -> None:
    built = tmp_path / "libllama.so"
    library = SimpleNamespace(_lib=SimpleNamespace(_name=str(built)))
    file, keys = read_gguf(write_tiny(tmp_path / "t.gguf", tiny_tensors())), set()
    for content in (None, b"one", b"another"):
        if content:
            built.write_bytes(content)
        keys.add(trial._key(library, "1", file))
    os.utime(built, (1, 1))
    assert len(keys | {trial._key(library, "1", file)}) == 4


def test_a_file_that_is_fine_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = write_tiny(tmp_path / "t.gguf", tiny_tensors()), []
    monkeypatch.setattr(trial, "_try", lambda path: seen.append(path) or "")
    for _ in range(2):
        load(path).unload()
    write_tiny(path, tiny_tensors(), name="another")
    load(path).unload()
    assert len(seen) == 2


@pytest.mark.parametrize("reason", [None, ""])
def test_where_nothing_can_be_said_nothing_is_refused_or_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str | None
) -> None:
    file = read_gguf(write_tiny(tmp_path / "t.gguf", tiny_tensors()))
    monkeypatch.setattr(trial, "_try", lambda path: reason)
    trial.check_survives(loader.library, "1", file)
    assert bool(list((tmp_path / "cache").rglob("*.json"))) is (reason == "")


def test_a_switch_leaves_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trial.SWITCH, "off")
    monkeypatch.setattr(trial, "_try", lambda path: pytest.fail("it is tried"))
    trial.check_survives(loader.library, "1", read_gguf(write_tiny(tmp_path / "t.gguf", tiny_tensors())))


def test_positions_that_are_no_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trial.SWITCH, "off")
    path = write_tiny(tmp_path / "t.gguf", tiny_tensors(), rope__freq_base=0.0)
    with pytest.raises(ModelCorrupt, match=r"rope\.freq_base is 0") as told:
        load(path)
    assert told.value.hint == "convert the model again"  # transformers refuses it, too
