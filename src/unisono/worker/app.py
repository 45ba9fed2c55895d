"""What a worker answers, as a plain ASGI app: steps are asked for here thousands of times."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from unisono.backends.endpoint.worker_frames import STEPS, TYPE, Call, ids_frame, read_call
from unisono.backends.wire import FrameError, read_frame
from unisono.server.errors import Refusal, refusal_of_status
from unisono.server.http.protocol import SWITCH
from unisono.server.middleware import Keys, Receive, Scope, Send, refusal_at_door, refuse
from unisono.server.telemetry import CONTENT_TYPE, say, where
from unisono.worker.served_member import WAYS
from unisono.worker.service import MemberService
from unisono.worker.steps import Steps, Tell

SESSION = re.compile(r"[0-9A-Za-z_-]{16,64}")
TEXTS = 4096
"""The most texts of a request."""
CHARACTERS = 2**20
"""The most characters of a text: what a tokenizer's stack is enough for."""
PLACED = ("/v1/member/table", "/v1/encode", "/v1/advance", "/v1/leave")
"""Paths whose requests or answers are large, or wait for a thread."""
JSON = "application/json"
CHUNK = 1 << 18
"""Bytes that are given to the connection at once: what it has no room for, it copies."""

FOREIGN = Refusal(
    403,
    "without a token, this worker answers only under a host name of its own machine; start it with --token-env",
    code="foreign_host",
)

Content = bytes | Sequence[memoryview]
Answer = tuple[str, Content]
"""The type of a body, and its parts."""
Route = Callable[[bytes], Coroutine[Any, Any, Answer]]


class WorkerApp:
    def __init__(self, service: MemberService, token: str | Sequence[str] | None) -> None:
        """Serve those who have the token, or one of several; without any, who calls by a host name of this machine."""
        self._service = service
        self._keys = None if token is None else Keys([token] if isinstance(token, str) else token)
        self._foreign = FOREIGN if token is None else None
        self._routes: dict[str, tuple[str, str, Route]] = {
            "/health": ("GET", "", self._health),
            "/ready": ("GET", "", self._ready),
            "/metrics": ("GET", "", self._metrics),
            "/v1/member": ("GET", "", self._describe),
            "/v1/member/table": ("GET", "", self._table),
            "/v1/encode": ("POST", JSON, self._encode),
            "/v1/advance": ("POST", TYPE, self._advance),
            "/v1/leave": ("POST", JSON, self._leave),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await self._guarded(scope, send, partial(self._admitted, scope, receive))

    async def _guarded(
        self, scope: Scope, send: Send, work: Callable[[contextlib.ExitStack], Coroutine[Any, Any, Answer | None]]
    ) -> None:
        """Send the answer that some work gives, if any, or a refusal. What the work holds is held until then."""
        with contextlib.ExitStack() as held:
            try:
                answer = await work(held)
            except Refusal as refusal:
                if refusal.status in (401, 403, 500):
                    client = scope.get("client")
                    say("refused", client=client[0] if client else None, status=refusal.status, code=refusal.code)
                await refuse(send, refusal)
            except Exception as error:
                say("internal", level=logging.ERROR, error=where(error))
                await refuse(send, refusal_of_status(500, scope["method"]))
            else:
                if answer is not None:
                    await _send(send, *answer)

    async def _admitted(self, scope: Scope, receive: Receive, held: contextlib.ExitStack) -> Answer | None:
        if (refused := refusal_at_door(scope, self._keys, self._foreign)) is not None:
            raise refused
        if scope["path"] in PLACED:
            held.enter_context(self._service.place())
        if scope["path"] == "/v1/steps":
            self._switch(scope)
            return None
        return await self._route(scope, receive)

    def _switch(self, scope: Scope) -> None:
        """Read calls from this connection from now on. Raises a `Refusal`."""
        stream = scope.get("extensions", {}).get(SWITCH, {}).get("connection")
        if stream is None or (b"upgrade", STEPS.encode()) not in scope["headers"] or scope["method"] != "GET":
            raise Refusal(426, f"ask with GET for an upgrade to {STEPS}", code="upgrade_required")

        async def answer(body: bytes, send: Send, tell: Tell) -> None:
            await self._guarded(scope, send, partial(self._placed, body, tell))

        stream.switch(STEPS.encode(), Steps(stream, self._service.limits.body, answer).take)

    async def _placed(self, body: bytes, tell: Tell, held: contextlib.ExitStack) -> Answer | None:
        held.enter_context(self._service.place())
        parts = await self._service.answer(_call(body), tell)
        return (TYPE, parts) if parts else None

    async def answer(self, path: str, body: bytes) -> Answer:
        """The answer at a path to a body that is all there, for whoever calls without HTTP. Raises a `Refusal`."""
        _, _, route = self._find(path)
        if path not in PLACED:
            return await route(body)
        with self._service.place():
            return await route(body)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._service.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _route(self, scope: Scope, receive: Receive) -> Answer:
        method, kind, route = self._find(scope["path"])
        if scope["method"] != method:
            raise refusal_of_status(405, scope["method"], taken=[method])
        return await route(await self._read(scope, receive, kind) if kind else b"")

    def _find(self, path: str) -> tuple[str, str, Route]:
        if path not in self._routes:
            words = (
                "a worker has nothing at this path: it serves a member to ensembles, and not the OpenAI API; give its "
                "address as the url of a member, and ask the ensemble's server (`unisono serve`)"
            )
            raise Refusal(404, words, code="not_found")
        return self._routes[path]

    async def _read(self, scope: Scope, receive: Receive, kind: str) -> bytes:
        """The body of a request of a type that browsers send to another site only with permission."""
        headers = dict(scope["headers"])
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != kind.encode():
            raise Refusal(415, f"send {kind}, and declare it as that", code="unsupported_media_type")
        most = self._service.limits.body
        chunks, size, more = [], int(headers.get(b"content-length", 0)), True
        try:
            async with asyncio.timeout(self._service.limits.reading):
                while more and size <= most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise refusal_of_status(499, scope["method"])
                    chunks.append(message.get("body", b""))
                    more, size = message.get("more_body", False), max(size, sum(map(len, chunks)))
        except TimeoutError:
            raise Refusal(408, "the request did not arrive in time", code="request_timeout") from None
        if size > most:
            raise Refusal(413, f"the request has more than {most} bytes, which is what this worker takes")
        return b"".join(chunks)

    async def _health(self, body: bytes) -> Answer:
        return JSON, b'{"status": "ok"}\n'

    async def _ready(self, body: bytes) -> Answer:
        _ = self._service.member  # which refuses while the member cannot be used
        return JSON, b'{"status": "ready"}\n'

    async def _metrics(self, body: bytes) -> Answer:
        return CONTENT_TYPE, self._service.metrics.page()

    async def _describe(self, body: bytes) -> Answer:
        told = {**self._service.member.description, "idle_seconds": self._service.idle}
        return JSON, json.dumps(told).encode() + b"\n"

    async def _table(self, body: bytes) -> Answer:
        return TYPE, await self._service.table()

    async def _encode(self, body: bytes) -> Answer:
        match _parse(body):
            case {"model": str(model), "way": str(way), "texts": list(texts)} if way in WAYS:
                self._service.expect(model)
            case _:
                raise _wrong(f"send model, way, one of {', '.join(WAYS)}, and texts, a list")
        if len(texts) > TEXTS or not all(isinstance(text, str) and len(text) <= CHARACTERS for text in texts):
            raise _wrong(f"texts are not {TEXTS} or fewer of {CHARACTERS} characters at most")
        return TYPE, ids_frame({}, await self._service.encode(way, texts))

    async def _advance(self, body: bytes) -> Answer:
        return TYPE, await self._service.answer(_call(body))

    async def _leave(self, body: bytes) -> Answer:
        match _parse(body):
            case {"session": str(session), "number": int(number), "slots": slots}:
                pass
            case _:
                raise _wrong("send session, number and slots")
        if slots is not None and not (isinstance(slots, list) and all(type(slot) is int for slot in slots)):
            raise _wrong("slots are not null or a list of numbers")
        await self._service.leave(session, number, slots)
        return JSON, b"{}\n"


def _call(body: bytes) -> Call:
    try:
        call = read_call(read_frame(body))
    except FrameError as error:
        raise _wrong(f"this is no call: {error}") from None
    if not SESSION.fullmatch(call.session):
        raise _wrong("a session is named by 16 to 64 letters and digits")
    return call


def _parse(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _wrong("the body is not JSON") from None


def _wrong(words: str) -> Refusal:
    return Refusal(400, words, code="invalid_request")


async def _send(send: Send, kind: str, content: Content) -> None:
    parts = [content] if isinstance(content, bytes) else content
    length = sum(map(len, parts))
    headers = [(b"content-type", kind.encode()), (b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    small = b""
    for part in parts:
        if len(part) <= CHUNK - len(small):
            small += part
            continue
        at = CHUNK - len(small)
        await send({"type": "http.response.body", "body": small + bytes(part[:at]), "more_body": True})
        while len(part) - at > CHUNK:
            await send({"type": "http.response.body", "body": part[at : at + CHUNK], "more_body": True})
            at += CHUNK
        small = bytes(part[at:])
    await send({"type": "http.response.body", "body": small})
