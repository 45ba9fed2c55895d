"""The connection for the calls of steps, at a server that answers what a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from unisono.backends.endpoint import client as pools
from unisono.backends.endpoint.client import Client
from unisono.backends.endpoint.direct import HEAD, Direct, Late, OtherForm, Refused, Unusual
from unisono.backends.endpoint.settings import EndpointSource
from unisono.errors import MemberUnavailable

LATER = b"|later|"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"


def told(answers: Sequence[bytes], ask: Callable[[str], None]) -> int:
    """Ask a server that gives these answers, one a request; return how many connections it had."""
    left, connections = list(answers), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while left:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                answer = left.pop(0)
                for part in answer.split(LATER):
                    writer.write(part)
                    await asyncio.sleep(0.02 if LATER in answer else 0)
                if not answer or b"close" in answer:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        await asyncio.to_thread(ask, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        server.close()

    asyncio.run(main())
    return connections


def post(direct: Direct, seconds: float = 5) -> bytes:
    return bytes(direct.post("/", "a/b", [memoryview(b"ab")], 100, time.monotonic() + seconds))


def test_a_connection_is_kept_unless_the_other_side_closes_it() -> None:
    def ask(address: str) -> None:
        direct = Direct(address, {})
        for expected in (b"12", b"34", b"56", b"78"):
            assert post(direct) == expected
        assert direct.usable

    kept, closed = OK + b"connection: keep-alive\r\n\r\n", OK + b"connection: close\r\n\r\n"
    assert told([OK + b"\r\n12", kept + b"34", closed + b"56", kept + b"78"], ask) == 2


def test_what_comes_unasked_is_no_answer_to_the_next_call() -> None:
    def ask(address: str) -> None:
        direct = Direct(address, {})
        assert post(direct) == b"12"
        time.sleep(0.1)
        assert post(direct) == b"34"

    assert told([OK + b"\r\n12" + LATER + OK + b"\r\n!!", OK + b"\r\n34"], ask) == 2


def test_an_answer_has_its_time_and_none_is_read_later() -> None:
    def ask(address: str) -> None:
        direct = Direct(address, {})
        for seconds in (0.05, -1):
            with pytest.raises(Late):
                post(direct, seconds)
        assert direct.usable
        assert post(direct) == b"34"

    assert told([b"HTTP/1.1 200", OK + b"\r\n34"], ask) == 2


def test_a_refusal_is_an_answer_and_another_form_ends_it() -> None:
    def ask(address: str) -> None:
        direct = Direct(address, {})
        with pytest.raises(Refused) as refused:
            post(direct)
        assert (refused.value.status, refused.value.headers["retry-after"], refused.value.content) == (503, "7", b"no")
        with pytest.raises(Unusual):  # it is lost
            post(direct)
        assert direct.usable
        with pytest.raises(OtherForm):
            post(direct)
        assert not direct.usable

    busy = b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\nno"
    told([busy, b"", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"], ask)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n", b"x" * (HEAD + 1), b"x\r\n\r\n"])
def test_an_answer_of_another_form_is_not_read(answer: bytes) -> None:
    def ask(address: str) -> None:
        with pytest.raises(OtherForm):
            post(Direct(address, {}))

    told([answer], ask)


def test_what_goes_through_a_proxy_is_asked_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.invalid:1")
    assert not Direct("http://far.invalid", {}).usable
    monkeypatch.setenv("NO_PROXY", "far.invalid")
    assert Direct("http://far.invalid", {}).usable


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
    told([b"HTTP/1.1 400 Bad\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body], ask)
