"""A member inside a server's vLLM, on a stand-in: slots on sessions in another loop, steps that are held together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.vllm_stand_in import AsyncLLM, Engine, vllm_stands_in
from unisono.backends.base import Feed
from unisono.backends.vllm.backend import VllmBackend
from unisono.backends.vllm.groups import GroupName, Groups
from unisono.errors import BackendMissing, SpecError
from unisono.testing import ContractCase, check_backend_contract, hashed_rule
from unisono.worker import vllm_middleware

ROWS, CONTEXT = 40, 60
RULE = functools.cache(hashed_rule(ROWS))
CASE = ContractCase(tuple(tuple(range(at, at + length)) for at, length in ((1, 9), (3, 12), (2, 19))), 0.0)


@contextlib.contextmanager
def loaded(engine: Engine, *, sessions: int = 8, blocks: int = 10_000, gathers: bool = True) -> Iterator[VllmBackend]:
    """A backend in this thread, over an engine in another one's loop."""
    with vllm_stands_in(engine) as library:
        if gathers:
            library.gather_groups()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:

            async def make() -> AsyncLLM:
                return AsyncLLM(engine, sessions=sessions, context=CONTEXT, blocks=blocks)

            made = asyncio.run_coroutine_threadsafe(make(), loop).result()
            shared_core: Any = importlib.import_module("unisono.backends.vllm.shared_core")
            backend = VllmBackend("served", shared_core.SharedCore(made, loop), 4)
            yield backend
            backend.unload()
        finally:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@pytest.mark.parametrize("told", [{}, {"sessions": 4}, {"sessions": 2}, {"blocks": 28}], ids=str)
def test_a_shared_engine_keeps_the_contract(told: dict[str, int]) -> None:
    with loaded(Engine(RULE, ROWS), **told) as backend:
        check_backend_contract(backend, CASE)


def passes(*, gathers: bool) -> list[int]:
    """How many ids each pass of a step of three texts read."""
    made = Engine(RULE, ROWS)
    with loaded(made, gathers=gathers) as backend:
        slots = [backend.open() for _ in range(3)]
        backend.advance([Feed(slot, CASE.texts[n]) for n, slot in enumerate(slots)])
        made.passes.clear()
        backend.advance([Feed(slot, [5]) for slot in slots])
        return [len(each) for each in made.passes]


def test_chunks_of_a_step_are_read_in_one_pass() -> None:
    assert passes(gathers=True) == [3]
    assert len(passes(gathers=False)) > 1


def test_a_session_that_is_ended_leaves_the_engine() -> None:
    made = Engine(RULE, ROWS)
    with loaded(made) as backend:
        slot = backend.open()
        backend.advance([Feed(slot, CASE.texts[0])])
        backend.close(slot)
        deadline = time.monotonic() + 5
        while not made.ended:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert np.array_equal(backend.advance([Feed(backend.open(), [3, 4])])[0], RULE((3, 4)))


def test_groups_of_two_owners_do_not_mix_and_none_waits_for_long() -> None:
    overdue: list[GroupName] = []
    groups = Groups(overdue.append, seconds=0.05)
    first, second = GroupName("a", 1, 2), GroupName("b", 1, 2)
    assert groups.hold(GroupName("c", 9, 1), "z", "Z") == ["Z"]
    assert groups.hold(first, "x", "X") == ()
    assert groups.hold(second, "y", "Y") == ()
    assert groups.hold(first, "u", "U") == ["X", "U"]
    deadline = time.monotonic() + 5
    while not overdue:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert overdue == [second]
    assert groups.release(second) == ["Y"]
    assert groups.release(second) == ()
    assert groups.hold(first, "v", "V") == ()
    groups.drop(["v"])
    assert groups.release(first) == ()


def test_a_server_without_the_processor_or_of_another_series_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(args=SimpleNamespace(logits_processors=None, api_key=None))
    with pytest.raises(SpecError, match="needs its logits processor"):
        vllm_middleware.check_arguments(state)
    state.args.logits_processors = [vllm_middleware.PROCESSOR]
    vllm_middleware.check_arguments(state)
    monkeypatch.setattr("unisono.backends.vllm.versions.installed_version", lambda: "0.40.0")
    with pytest.raises(BackendMissing, match=r"vLLM is 0\.40\.0 here"):
        vllm_middleware.UnisonoMember(lambda scope, receive, send: asyncio.sleep(0))


def test_the_keys_of_the_server_are_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    state = SimpleNamespace(args=SimpleNamespace(api_key=None))
    assert vllm_middleware.keys_of(state) is None
    monkeypatch.setenv("VLLM_API_KEY", "of-the-environment")
    assert vllm_middleware.keys_of(state) == ["of-the-environment"]
    state.args.api_key = ["one", "other"]
    assert vllm_middleware.keys_of(state) == ["one", "other"]
