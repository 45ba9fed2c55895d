"""What runs in a Ray actor, without Ray: the contract of the waist, and the window through which rows go."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from support.fakes import make_fakes
from unisono.backends.endpoint import portal
from unisono.backends.endpoint.backend import EndpointBackend
from unisono.backends.endpoint.caller import Answer, Caller
from unisono.backends.endpoint.worker import CALL, WorkerAdapter
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.errors import MemberUnavailable
from unisono.ray.actor import Loading, MemberActor
from unisono.ray.window import Offer, Window, Windows
from unisono.testing import BACKEND_CONTRACT, ContractCase

LOADING = Loading("a", '{"model": "fake:a"}', ".", 4)


@pytest.fixture(scope="module", autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop of an actor's process."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


class Near(Caller):
    """Calls an actor in another loop of this process."""

    def __init__(self, actor: MemberActor, loop: asyncio.AbstractEventLoop, window: Window | None) -> None:
        super().__init__("a", "near", timeout=20, retries=0)
        self._actor, self._loop, self._window = actor, loop, window

    async def attempt_once(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        limit: int,
        accepted: tuple[int, ...],
    ) -> Answer | tuple[MemberUnavailable, float | None]:
        window = self._window if path == CALL else None
        coroutine = self._actor.call(path, content or b"", None if window is None else window.offer)
        reply = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))
        assert (reply.written is None) == (window is None or reply.status != 200)
        found = reply.content if window is None or reply.written is None else window.read(reply.written)
        return self.judge(path, Answer(reply.status, {}, found), accepted)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("top", [None, 5])
def test_an_actor_keeps_the_contract_of_the_waist(
    loop: asyncio.AbstractEventLoop, windowed: bool, top: int | None
) -> None:
    actor = MemberActor(LOADING)
    assert asyncio.run_coroutine_threadsafe(actor.loaded(), loop).result(20) is None
    with contextlib.closing(Window(1 << 20)) as window:
        caller = Near(actor, loop, window if windowed else None)
        adapter = WorkerAdapter(caller, top)
        told = portal.run(adapter.describe())
        assert told.tokenizer is not None
        texts = ("the cat sees a dog", "Hello, Sofia — and the dog sings", "日本 ends here")
        case = ContractCase(tuple(tuple(told.tokenizer.encode_prompt(text)) for text in texts), 0.0)
        backend = EndpointBackend(caller, adapter, told, context=told.context, slots=4)
        for check in BACKEND_CONTRACT.values():
            check(backend, case)
        backend.unload()
    asyncio.run_coroutine_threadsafe(actor.close(), loop).result(20)


def test_what_cannot_be_loaded_comes_back_in_words(loop: asyncio.AbstractEventLoop) -> None:
    actor = MemberActor(Loading("a", '{"model": "fake:lost"}', ".", 4))
    fault = asyncio.run_coroutine_threadsafe(actor.loaded(), loop).result(20)
    assert fault is not None
    assert fault.kind == "ModelNotFound"
    assert "there is no fake model 'lost'" in fault.message
    reply = asyncio.run_coroutine_threadsafe(actor.call("/v1/member", b""), loop).result(20)
    assert (reply.status, reply.retry_after) == (503, 5)
    asyncio.run_coroutine_threadsafe(actor.close(), loop).result(20)


def test_an_actor_that_lingers_ends_when_nobody_speaks_to_it(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.ray.actor.LINGER_SECONDS", 0.2)
    ended = threading.Event()

    class Mortal(MemberActor):
        def end(self) -> None:
            ended.set()

    actor = Mortal(Loading("a", '{"model": "fake:a"}', ".", 4, lingers=True))
    asyncio.run_coroutine_threadsafe(actor.loaded(), loop).result(20)
    for _ in range(4):
        assert not ended.wait(0.1)
        asyncio.run_coroutine_threadsafe(actor.call("/health", b""), loop).result(20)
    assert ended.wait(5)
    asyncio.run_coroutine_threadsafe(actor.close(), loop).result(20)


def parts(*texts: bytes) -> list[memoryview]:
    return [memoryview(text) for text in texts]


def test_what_is_written_into_a_window_is_read_there() -> None:
    with contextlib.closing(Window(100)) as window:
        windows = Windows()
        for words in (parts(b"abc", b"", b"defg"), parts(b"x" * 100)):
            length = windows.write(window.offer, words)
            assert length is not None
            assert window.read(length) == b"".join(words)
        assert windows.write(window.offer, parts(b"x" * 101)) is None


def test_a_window_that_is_not_the_same_memory_is_not_written(tmp_path: Any) -> None:
    with contextlib.closing(Window(100)) as window:
        assert Windows().write(Offer(window.offer.path, bytes(32)), parts(b"a")) is None
    assert Windows().write(window.offer, parts(b"a")) is None  # its name is gone
    assert Windows().write(Offer(str(tmp_path), bytes(32)), parts(b"a")) is None
