"""The cache folder: a reader never meets a half-written entry."""

from __future__ import annotations

import errno
import multiprocessing
import time
from pathlib import Path

import pytest

from unisono.cache import ENVIRONMENT_KEY, build_once, cache_root, replace_file, require_space
from unisono.errors import CacheError


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ENVIRONMENT_KEY, str(tmp_path))
    assert cache_root() == tmp_path


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def build(path: Path) -> None:
        calls.append(path)
        path.write_text("done")

    for _ in range(2):
        assert build_once(tmp_path / "deep" / "entry", build, "an entry").read_text() == "done"
    assert len(calls) == 1


def test_a_failing_build_leaves_nothing(tmp_path: Path) -> None:
    def build(path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "entry", build, "an entry")
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_a_full_disk_is_told_as_such_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    path.write_text("old")

    def build(temporary: Path) -> None:
        temporary.write_text("new, but")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CacheError, match="the disk is full"):
        replace_file(path, build, "an entry")
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_written_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot keep an entry"):
        build_once(tmp_path / "file" / "entry", lambda path: None, "an entry")


def test_too_little_space_is_found_out_before_the_work(tmp_path: Path) -> None:
    require_space(tmp_path, 1, "a byte")
    with pytest.raises(CacheError, match="a planet needs"):
        require_space(tmp_path, 10**18, "a planet")


def slow_build(path: Path) -> None:
    with path.open("w") as file:
        for _ in range(20):
            file.write("x" * 1000)
            file.flush()
            time.sleep(0.005)


def build_and_check(path: str) -> None:
    entry = build_once(Path(path), slow_build, "an entry")
    assert entry.stat().st_size == 20_000


def test_two_processes_may_build_the_same_entry_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=build_and_check, args=(str(tmp_path / "entry"),)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
