"""The connection for the calls of steps, at a server that answers what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from unisono.backends.endpoint import client as pools
from unisono.backends.endpoint.client import Client
from unisono.backends.endpoint.direct import Direct, OtherForm, Refused, Unusual
from unisono.backends.endpoint.settings import EndpointSource
from unisono.errors import MemberUnavailable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"


def told(answers: Sequence[bytes], ask: Callable[[str], Coroutine[Any, Any, None]]) -> int:
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
                writer.write(answer)
                if not answer or b"close" in answer:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        server.close()

    asyncio.run(main())
    return connections


async def post(direct: Direct) -> bytes:
    return bytes(await direct.post("/", "a/b", [memoryview(b"ab")], 100))


def test_a_connection_is_kept_unless_the_other_side_closes_it() -> None:
    async def ask(address: str) -> None:
        direct = Direct(address, {})
        for expected in (b"12", b"34", b"56", b"78"):
            assert await post(direct) == expected
        assert direct.usable

    kept, closed = OK + b"connection: keep-alive\r\n\r\n", OK + b"connection: close\r\n\r\n"
    assert told([OK + b"\r\n12", kept + b"34", closed + b"56", kept + b"78"], ask) == 2


def test_a_refusal_is_an_answer_and_another_form_ends_it() -> None:
    async def ask(address: str) -> None:
        direct = Direct(address, {})
        with pytest.raises(Refused) as refused:
            await post(direct)
        assert (refused.value.status, refused.value.headers["retry-after"], refused.value.content) == (503, "7", b"no")
        with pytest.raises(Unusual):  # it is lost
            await post(direct)
        assert direct.usable
        with pytest.raises(OtherForm):
            await post(direct)
        assert not direct.usable

    busy = b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\nno"
    told([busy, b"", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"], ask)


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

    async def ask(address: str) -> None:
        client = Client("far", EndpointSource("endpoint", address, api_key_env="FAR_KEY", timeout=5, retries=0))
        with pytest.raises(MemberUnavailable, match="answers 400") as failed:
            await client.request("POST", "/", b"ab")
        assert "key-" not in str(failed.value)

    body = b"x" * 150 + b"key-" * 20
    told([b"HTTP/1.1 400 Bad\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body], ask)
