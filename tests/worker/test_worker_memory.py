"""Rows that are left in memory for a client of the same machine are those that are sent to others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.fakes import make_fakes
from support.workers import Worker, working
from unisono.backends.base import Backend, Feed, LoadRequest, dense
from unisono.backends.endpoint import row_memory
from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.endpoint.worker_frames import TYPE, Call, call_frame
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.registry import make_loader
from unisono.backends.wire import read_frame
from unisono.worker.row_memories import RowMemories

pytestmark = pytest.mark.skipif(not row_memory.POSSIBLE, reason="this system has no memory files")
A = {"name": "a", "model": "fake:a"}


@pytest.fixture(scope="module", autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What has become of the rows of each call: the name of a memory, or ``None`` for what was sent."""
    found: list[str | None] = []
    leave = RowMemories.leave

    def noted(self: RowMemories, call: Call, rows_NV: Any) -> str | None:
        found.append(leave(self, call, rows_NV))
        return found[-1]

    monkeypatch.setattr(RowMemories, "leave", noted)
    return found


def backend_at(worker: Worker) -> Backend:
    source = EndpointSource("endpoint", worker.url, timeout=20, retries=0)
    return make_loader("endpoint", LoadRequest("a", source, slots=4)).load(lambda fraction, words: None)


def rows_of(backend: Backend, steps: int = 4) -> list[np.ndarray]:
    """Copies of the rows of some steps of two texts."""
    slots = [backend.open() for _ in range(2)]
    return [np.array(dense(backend.advance([Feed(slot, [step + 1], 1) for slot in slots]))) for step in range(steps)]


def test_rows_are_the_same_bit_for_bit(left: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    with working(A, slots=8) as worker:
        here = backend_at(worker)
        in_memory = rows_of(here)
        assert left[0] is None
        assert left[1] is not None
        assert left[1:] == [left[1]] * 3
        monkeypatch.setattr(row_memory, "POSSIBLE", False)
        far = backend_at(worker)
        sent = rows_of(far)
        assert left[4:] == [None] * 4
        for one, other in zip(in_memory, sent, strict=True):
            assert (one.view(np.uint32) == other.view(np.uint32)).all()
        here.unload()
        far.unload()


def test_a_memory_that_cannot_be_opened_is_not_asked_for_again(
    left: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> str:
        raise PermissionError(path)

    with working(A, slots=8) as worker:
        backend = backend_at(worker)
        with monkeypatch.context() as patched:
            patched.setattr(row_memory.os, "readlink", refuse)
            rows_of(backend, 2)
        rows_of(backend, 2)
        assert left == [None] * 4
        backend.unload()


def test_a_worker_that_has_started_again_shares_another_one(left: list[str | None]) -> None:
    with working(A, slots=8) as first:
        backend, port = backend_at(first), int(first.url.rpartition(":")[2])
        before = rows_of(backend)
    with working(A, slots=8, port=port):
        after = rows_of(backend)
        assert [each is None for each in left] == [True, False, False, False] * 2
        assert left[1] != left[5]
        assert all((one == other).all() for one, other in zip(before, after, strict=True))
        backend.unload()


def test_a_client_that_names_anothers_memory_has_its_rows_sent() -> None:
    with working(A, slots=8) as worker:

        def ask(session: str, memory: str | None) -> tuple[dict[str, Any], int]:
            asked = Call(session, 1, worker.model, [Question(0, [1], 0, 1)], memory)
            frame = read_frame(worker.post("/v1/advance", b"".join(call_frame(asked)), TYPE).content)
            return frame.head, len(frame.arrays)

        (own, _), (other, _) = ask("x" * 16, ""), ask("y" * 16, "")
        assert own["offer"][2] != other["offer"][2]
        head, arrays = ask("x" * 16, other["offer"][2])
        assert (head["offer"], arrays) == (own["offer"], 1)
        head, arrays = ask("x" * 16, own["offer"][2])
        assert (head["memory"], arrays) == (own["offer"][2], 0)
        head, arrays = ask("x" * 16, None)
        assert ("offer" in head, "memory" in head, arrays) == (False, False, 1)
        asked = b"".join(call_frame(Call("x" * 16, 1, worker.model, [Question(0, [1], 0, 1)], 7)))  # type: ignore[arg-type]
        assert worker.post("/v1/advance", asked, TYPE).status_code == 400
