"""A file over which llama.cpp ends the process is tried in another one, and refused by name."""

from __future__ import annotations

from pathlib import Path
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


def test_what_would_end_the_process_is_refused_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of another kind than its file says has no tokens for bytes, and llama.cpp looks for them."""
    whole = write_tiny(tmp_path / "whole.gguf", tiny_tensors())
    path = rewrite_gguf(whole, tmp_path / "odd.gguf", metadata={"tokenizer.ggml.model": "llama"})
    with pytest.raises(
        ModelUnsupported, match=r"member 'm': llama.cpp ends the process over .*odd\.gguf: .*at"
    ) as told:
        load(path)
    assert "convert the model again" in str(told.value.hint)
    monkeypatch.setattr(trial, "_try", lambda path: pytest.fail("it is tried again"))
    with pytest.raises(ModelUnsupported, match="ends the process"):
        load(path)


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
    with pytest.raises(ModelCorrupt, match=r"rope\.freq_base is 0"):
        load(path)
