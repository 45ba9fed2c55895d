"""Memory for rows: who can open which, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.backends.endpoint.proxies import is_here
from unisono.backends.endpoint.row_memory import LARGEST, POSSIBLE, ClientMemory, MadeMemory, OpenedMemory
from unisono.backends.endpoint.worker_frames import Call
from unisono.backends.wire import Frame, FrameError
from unisono.worker.row_memories import MOST, RowMemories

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="this system has no memory files")
HERE = "http://127.0.0.1:1"
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def call(session: str, memory: str | None = "") -> Call:
    return Call(session, 1, "", (), memory)


def answer(**head: Any) -> Frame:
    return Frame({"rows": 3, **head}, {})


def test_rows_are_read_as_they_were_written_and_by_nobody_else() -> None:
    made = MadeMemory(64)
    opened = OpenedMemory(list(made.offer))
    made.write(ROWS)
    found = opened.read(2, 3)
    assert found is not None
    assert (found == ROWS).all()
    assert not found.flags.writeable
    assert opened.read(4, 4) is not None
    assert opened.read(17, 1) is None
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(made.offer[1], 8)  # what is mapped cannot become shorter
    made.close()
    made.close()
    assert (found == ROWS).all()


def test_an_offer_that_cannot_be_opened_is_none(tmp_path: Path) -> None:
    made, (process, file, name, size) = (memory := MadeMemory(64)), memory.offer
    other = os.memfd_create(name)  # of the same name, and not sealed
    os.ftruncate(other, size)
    plain = os.open(tmp_path, os.O_RDONLY)
    wrong: list[object] = [
        [process, file, "unisono-rows-" + "0" * 32, size],
        [process, file, name, size + 1],
        [process, file, name, LARGEST + 1],
        [process, file, name, 0],
        [process, file, f"{name}/../x", size],
        [process, other, name, size],
        [process, plain, name, size],
        [process, -1, name, size],
        [-1, file, name, size],
        [2**70, 2**70, name, size],
        [process, file, name],
        {"process": process},
        None,
    ]
    for offer in wrong:
        with pytest.raises((OSError, ValueError)):
            OpenedMemory(offer)
    assert OpenedMemory([process, file, name, size]).name == name
    os.close(other)
    os.close(plain)
    made.close()
    with pytest.raises((OSError, ValueError)):
        OpenedMemory([process, file, name, size])


def test_a_client_says_what_it_has_and_asks_no_more_where_it_can_open_none() -> None:
    client, made = ClientMemory(True), MadeMemory(64)
    assert client.name == ""
    assert client.read(answer(offer=list(made.offer)), 2, 3) is None
    assert client.name == made.name
    made.write(ROWS)
    found = client.read(answer(memory=made.name), 2, 3)
    assert found is not None
    assert (found == ROWS).all()
    for wrong in (answer(memory="x"), answer(memory=made.name, rows=4), answer(memory=None)):
        with pytest.raises(FrameError, match="not shared"):
            client.read(wrong, 2, 3)
    with pytest.raises(FrameError, match="too small"):
        client.read(answer(memory=made.name), 6, 3)
    assert client.read(answer(offer=[1, 2, "x", 3]), 2, 3) is None
    assert client.name is None
    with pytest.raises(FrameError, match="not shared"):
        client.read(answer(memory=made.name), 2, 3)
    made.close()


def test_only_a_client_on_the_same_machine_asks_for_one() -> None:
    assert [is_here(each) for each in (HERE, "http://[::1]:80/x", "http://localhost", "http://0.0.0.0:8000")] == [
        True
    ] * 4
    assert [is_here(each) for each in ("http://10.0.0.1:80", "http://localhost.evil.example", "http://x")] == [
        False
    ] * 3
    assert ClientMemory(False).name is None


def test_memories_are_the_clients_own_and_end_with_its_session() -> None:
    living = {"one", "two"}
    memories = RowMemories(living.__contains__)
    assert memories.leave(call("one"), ROWS) is None
    offers = {name: memories.offer(call(name)) for name in ("one", "two")}
    names = {name: offer[2] for name, offer in offers.items() if offer is not None}
    assert names["one"] != names["two"]
    assert memories.leave(call("one", names["one"]), ROWS) == names["one"]
    assert memories.offer(call("one", names["one"])) is None
    assert memories.leave(call("one", names["two"]), ROWS) is None
    assert memories.leave(call("one", None), ROWS) is memories.offer(call("one", None)) is None
    large = np.broadcast_to(np.float32(0), (1, LARGEST // 4 + 1))
    assert memories.leave(call("one", names["one"]), large) is None
    living.remove("one")
    memories.prune()
    assert len(memories) == 1
    assert memories.leave(call("one", names["one"]), ROWS) is None
    memories.close()
    assert len(memories) == 0


def test_there_are_few_and_those_of_ended_sessions_make_room() -> None:
    living = {str(number) for number in range(MOST + 1)}
    memories = RowMemories(living.__contains__)
    assert [memories.offer(call(str(number))) is None for number in range(MOST + 1)] == [False] * MOST + [True]
    living.remove("0")
    assert memories.offer(call(str(MOST))) is not None
    memories.close()
