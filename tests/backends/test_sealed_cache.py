"""What the cache keeps is what was put there, or it is made again: no other content ever decides a text."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.tiny_gguf import tiny_tensors, write_tiny
from unisono import self_check
from unisono.backends.base import ModelSource
from unisono.backends.transformers.gguf_conversion import CONTENT, Conversion
from unisono.cache import ENVIRONMENT_KEY, SEAL, build_sealed

WEIGHTS = b"weights" * 1000


def build(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.json").write_text("{}")


def sealed(path: Path, key: str = "model 1") -> bytes:
    return (build_sealed(path, build, "the weights", key) / "model.safetensors").read_bytes()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "other weights of the same size": lambda entry: (entry / "model.safetensors").write_bytes(WEIGHTS[::-1]),
    "fewer": lambda entry: (entry / "model.safetensors").write_bytes(WEIGHTS[1:]),
    "none": lambda entry: (entry / "model.safetensors").unlink(),
    "a huge file": lambda entry: os.truncate(entry / "model.safetensors", 10**12),
    "a pipe": lambda entry: a_pipe(entry / "model.safetensors"),
    "a loop": lambda entry: a_loop(entry / "config.json"),
    "a file more": lambda entry: (entry / "adapter_config.json").write_text("{}"),
    "a folder more": lambda entry: (entry / "more").mkdir(),
    "no seal": lambda entry: (entry / SEAL).unlink(),
    "a seal that is none": lambda entry: (entry / SEAL).write_text("[" * 100_000),
    "a seal of nothing": lambda entry: (entry / SEAL).write_text('{"key": "model 1", "files": null}'),
    "a seal of numbers": lambda entry: (entry / SEAL).write_text('{"key": "model 1", "files": {"config.json": 2}}'),
    "a huge seal": lambda entry: os.truncate(entry / SEAL, 10**12),
    "a pipe for a seal": lambda entry: a_pipe(entry / SEAL),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_an_entry_that_was_changed_is_made_again(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    entry = tmp_path / "deep" / "float32"
    assert sealed(entry) == WEIGHTS
    CHANGES[kind](entry)
    began = time.perf_counter()
    assert sealed(entry) == WEIGHTS
    assert time.perf_counter() - began < 2
    assert sorted(path.name for path in entry.iterdir()) == ["config.json", "model.safetensors", SEAL]
    assert "is made again" in caplog.text
    caplog.clear()
    assert sealed(entry) == WEIGHTS
    assert not caplog.text


def test_an_entry_of_another_key_is_made_again(tmp_path: Path) -> None:
    sealed(tmp_path / "one", "model 1")
    (tmp_path / "one").rename(tmp_path / "two")
    (tmp_path / "two" / "model.safetensors").read_bytes()
    made: list[Path] = []
    build_sealed(tmp_path / "two", made.append, "the weights", "model 2")
    assert made


def test_a_file_in_the_place_of_an_entry_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "float32").write_text("something")
    assert sealed(tmp_path / "float32") == WEIGHTS


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, len(WEIGHTS) - 1), st.integers(1, 255))
def test_one_changed_byte_is_found(tmp_path: Path, place: int, change: int) -> None:
    data = bytearray(WEIGHTS)
    data[place] ^= change
    sealed(tmp_path / "float32")
    stat = (tmp_path / "float32" / "model.safetensors").stat()
    (tmp_path / "float32" / "model.safetensors").write_bytes(data)
    os.utime(tmp_path / "float32" / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sealed(tmp_path / "float32") == WEIGHTS


def test_a_converted_tokenizer_and_weights_of_other_content_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENVIRONMENT_KEY, str(tmp_path / "cache"))
    path = write_tiny(tmp_path / "tiny.gguf", tiny_tensors())

    def conversion() -> Conversion:
        return Conversion(
            ModelSource("gguf", str(path)),
            lambda: {"model_type": "llama"},
            lambda config, dtype, folder, progress: (folder / "model.safetensors").write_bytes(WEIGHTS) and None,
            "tiny",
        )

    ids = conversion().tokenizer().encode("abc")
    weights = conversion().weights(None, "float32", lambda *_: None)
    [content] = (tmp_path / "cache").glob(f"transformers/*/tokenizer/{CONTENT}")
    other = json.loads(content.read_text())
    vocab = other["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    content.write_text(json.dumps(other, ensure_ascii=False))
    (weights / "model.safetensors").write_bytes(WEIGHTS[::-1])
    with caplog.at_level(logging.WARNING):
        assert conversion().tokenizer().encode("abc") == ids
        conversion().weights(None, "float32", lambda *_: None)
    assert (weights / "model.safetensors").read_bytes() == WEIGHTS
    assert caplog.text.count("is made again") == 2


@pytest.mark.parametrize(
    "other", ['{"findings": []}', '{"findings": "text"}', "[" * 100_000, '{"findings": [1], "sum": 2}']
)
def test_a_self_check_that_was_changed_is_made_again(tmp_path: Path, other: str) -> None:
    path = tmp_path / "checked.json"
    self_check._keep(path, "tiny", ["is noise"])
    assert self_check._read(path) == ("is noise",)
    path.rename(tmp_path / "another.json")
    assert self_check._read(tmp_path / "another.json") is None
    path.write_text(other)
    assert self_check._read(path) is None
    a_pipe(path)
    assert self_check._read(path) is None
    path.unlink()
    path.touch()
    os.truncate(path, 10**12)
    assert self_check._read(path) is None
