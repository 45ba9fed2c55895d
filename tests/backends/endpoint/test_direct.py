"""The connection for the calls of steps, at a server that answers what a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from support.completions_stand_in import CompletionsStandIn
from unisono.backends.endpoint import client as pools
from unisono.backends.endpoint.client import Client
from unisono.backends.endpoint.direct import HEAD, Direct, Late, OtherForm, Refused, Unusual
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.endpoint.worker_frames import ANSWER, CALL, STEPS
from unisono.errors import MemberUnavailable
from unisono.testing import fake_member

LATER = b"|later|"
DOOR = f"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {STEPS}\r\n\r\n".encode()
CLOSED = b""


def said(content: bytes, status: int = 200, wait: int = 0, length: int | None = None) -> bytes:
    return ANSWER.pack(status, wait, len(content) if length is None else length) + content


def told(answers: Sequence[bytes], ask: Callable[[str], None], door: bytes = DOOR) -> int:
    """Ask a server that gives these answers, one a call; return how many connections it had."""
    left, connections = list(answers), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(door)
            while left:
                await reader.readexactly(CALL.size + 2)
                answer = left.pop(0)
                for part in answer.split(LATER):
                    writer.write(part)
                    await asyncio.sleep(0.02 if LATER in answer else 0)
                if not answer:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        await asyncio.to_thread(ask, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        server.close()

    asyncio.run(main())
    return connections


def post(direct: Direct, seconds: float = 5) -> bytes:
    return bytes(direct.ask([memoryview(b"ab")], 100, time.monotonic() + seconds))


def test_a_connection_is_kept_unless_the_other_side_closes_it() -> None:
    def ask(address: str) -> None:
        direct = Direct(address, {})
        assert post(direct) == b"12"
        assert post(direct) == b"34"
        with pytest.raises(Unusual):
            post(direct)
        assert post(direct) == b"5" * 100
        assert direct.usable

    assert told([said(b"12"), said(b"34"), CLOSED, LATER.join([said(b"5" * 100)[:7], said(b"5" * 100)[7:]])], ask) == 2


def test_what_comes_unasked_is_no_answer_to_the_next_call() -> None:
    def ask(address: str) -> None:
        direct = Direct(address, {})
        assert post(direct) == b"12"
        time.sleep(0.1)
        assert post(direct) == b"34"

    assert told([said(b"12") + LATER + said(b"!!"), said(b"34")], ask) == 2


def test_an_answer_has_its_time_and_none_is_read_later() -> None:
    def ask(address: str) -> None:
        direct = Direct(address, {})
        for seconds in (0.05, -1):
            with pytest.raises(Late):
                post(direct, seconds)
        assert direct.usable
        assert post(direct) == b"34"

    assert told([said(b"12")[:3], said(b"34")], ask) == 2


def test_a_refusal_is_an_answer() -> None:
    def ask(address: str) -> None:
        direct = Direct(address, {})
        for wait in (7, 0):
            with pytest.raises(Refused) as refused:
                post(direct)
            headers = {"retry-after": "7"} if wait else {}
            assert (refused.value.status, refused.value.headers, refused.value.content) == (503, headers, b"no")
        assert direct.usable

    assert told([said(b"no", 503, 7), said(b"no", 503)], ask) == 1


@pytest.mark.parametrize("answer", [said(b"", length=101), said(b"12", length=1), said(b"", length=2**63)])
def test_an_answer_of_another_length_is_not_read(answer: bytes) -> None:
    def ask(address: str) -> None:
        with pytest.raises(OtherForm):
            post(Direct(address, {}))

    told([answer], ask)


@pytest.mark.parametrize(
    ("door", "usable"),
    [
        (b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 401 Who\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 404 None\r\ncontent-length: 0\r\n\r\n", False),
        (DOOR.replace(STEPS.encode(), b"websocket"), False),
        (DOOR + said(b"12"), False),
        (b"x" * HEAD, False),
        (b"x\r\n\r\n", False),
    ],
)
def test_a_connection_that_is_not_switched_is_not_used(door: bytes, usable: bool) -> None:
    def ask(address: str) -> None:
        direct = Direct(address, {})
        with pytest.raises(Unusual):
            post(direct)
        assert direct.usable == usable

    told([], ask, door)


def test_what_goes_through_a_proxy_is_asked_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.invalid:1")
    assert not Direct("http://far.invalid", {}).usable
    monkeypatch.setenv("NO_PROXY", "far.invalid")
    assert Direct("http://far.invalid", {}).usable


@pytest.mark.parametrize("proxy", ["http://proxy.invalid:1", "socks5://proxy.invalid:1", "gopher://proxy.invalid:1"])
def test_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setattr(pools, "_pools", {})
    assert Direct("http://localhost:80", {}).usable
    with CompletionsStandIn(fake_member("near", [" the"])).serve() as url:
        client = Client("near", EndpointSource("endpoint", url, timeout=5, retries=0))
        assert client.run(client.get("/version")) == {"version": "0.0-stand-in"}


def test_a_proxy_is_named_where_a_connection_through_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(pools, "_pools", {})
    client = Client("far", EndpointSource("endpoint", "http://far.invalid", timeout=5, retries=0))
    with pytest.raises(MemberUnavailable, match="asked through a proxy of the environment"):
        client.run(client.get("/v1/member"))


def test_proxies_that_cannot_be_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("far", EndpointSource("endpoint", "http://far.invalid", timeout=5, retries=0))
    monkeypatch.setenv("ALL_PROXY", "gopher://secret@proxy.invalid:1")
    monkeypatch.setattr(pools, "_pools", {})
    with pytest.raises(MemberUnavailable, match="ALL_PROXY") as failed:
        client.run(client.get("/v1/member"))
    assert "secret" not in str(failed.value)


def test_no_part_of_a_key_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "key-" * 20)

    def ask(address: str) -> None:
        client = Client("far", EndpointSource("endpoint", address, api_key_env="FAR_KEY", timeout=5, retries=0))
        with pytest.raises(MemberUnavailable, match="answers 400") as failed:
            client.run(client.request("POST", "/", b"ab"))
        assert "key-" not in str(failed.value)

    body = b"x" * 150 + b"key-" * 20
    told([], ask, b"HTTP/1.1 400 Bad\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
