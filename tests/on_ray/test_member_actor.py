"""What runs in a Ray actor, without Ray: the contract of the waist, its errors, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import pytest

from support.fakes import make_fakes
from unisono.backends.endpoint import portal
from unisono.backends.endpoint.backend import EndpointBackend
from unisono.backends.endpoint.caller import Answer, Caller, EndpointRequest
from unisono.backends.endpoint.direct import Refused
from unisono.backends.endpoint.worker import ADVANCE, WorkerAdapter
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.errors import MemberUnavailable
from unisono.ray.actor import Loading, MemberActor, Reply
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
    portal.run(asyncio.sleep(0.1))  # what is sent without waiting has been sent by then
    asyncio.run_coroutine_threadsafe(ended(), made).result(20)
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


async def ended() -> None:
    """Wait for what still runs: nobody waits for the farewell of a backend."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


class Near(Caller):
    """Calls an actor in another loop of this process."""

    usable = True

    def __init__(self, actor: MemberActor, loop: asyncio.AbstractEventLoop, near: bool) -> None:
        super().__init__("a", "near", timeout=20, retries=0)
        self.is_near = near
        self._actor, self._loop = actor, loop

    def ask(self, parts: Sequence[memoryview], most: int, deadline: float) -> bytes:
        reply = self._call(ADVANCE, b"".join(parts)).result(20)
        if reply.status != 200:
            raise Refused(reply.status, {}, reply.content)
        return reply.content

    def close(self) -> None:
        pass

    async def attempt_once(self, request: EndpointRequest) -> Answer | tuple[MemberUnavailable, float | None]:
        reply = await asyncio.wrap_future(self._call(request.path, request.content or b""))
        return self.judge(request, Answer(reply.status, {}, reply.content))

    def _call(self, path: str, body: bytes) -> Future[Reply]:
        return asyncio.run_coroutine_threadsafe(self._actor.call(path, body), self._loop)


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("top", [None, 5])
def test_an_actor_keeps_the_contract_of_the_waist(loop: asyncio.AbstractEventLoop, near: bool, top: int | None) -> None:
    actor = MemberActor(LOADING)
    assert asyncio.run_coroutine_threadsafe(actor.loaded(), loop).result(20) is None
    caller = Near(actor, loop, near)
    adapter = WorkerAdapter(caller, top, caller)
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
