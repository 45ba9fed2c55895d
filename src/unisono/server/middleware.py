"""What every HTTP request passes: host and API key, request id, metrics and log. Plain ASGI around the app.

API keys are read from a file, kept as digests, and compared in constant time.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from unisono.errors import SpecError, shown
from unisono.server.errors import Refusal
from unisono.server.hosts import is_local
from unisono.server.telemetry import Metrics, cut, say
from unisono.user_files import SETTINGS, read_text, why_unread

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/health", "/ready")
"""Paths that need no key, and are answered also where there are too many connections."""
PAGE = re.compile(r"/(?:page/[a-z_.]+)?")
"""Paths of the page, which need no key either: it asks for one itself."""
LOG = "unisono.log"
"""The key of a request's `RequestLog` in the ASGI scope."""
REFUSED = "unisono.refused"
"""The key, in the scope, of the refusal of a request that the connections refuse."""
LOGGED = ("/v1/", "/tokenize", "/detokenize")
"""What paths begin with of which requests are timed and logged."""
LEAST = 16
"""Characters of a key. Shorter ones can be guessed."""
KEY_HAS = f"has {LEAST} or more visible ASCII characters, such as `openssl rand -hex 24` prints"
LEFT = 499
"""The status, in logs and metrics only, of a request whose client left before the answer."""

USUAL = re.compile(
    r"/+(?:(?:v1|openai|api|models(?=/+chat/+completions/*$))/+)*"
    r"(?:deployments/(?:/+(?=(?:chat/+)?completions/*$)|/*(?P<model>[^/]+(?:/[^/]+)??)/+(?=chat/|completions)))?"
    r"(?P<name>chat/+completions|completions|responses|models|pieces)(?P<rest>/.*)?"
)
"""The API's paths, also where a client joins a base URL and a path with two slashes, a second ``/v1`` or none, or asks
where other servers have them: Azure (``/openai/deployments/MODEL``, ``/models``), Groq (``/openai/v1``), OpenRouter.
A deployment without a name (``/deployments//chat/completions``) is none.
"""
DEPLOYMENT = "unisono.deployment"
"""The key, in the scope, of the model that a path names."""
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
PORTS = {"http": ":80", "https": ":443"}
"""The ports that browsers leave out."""

KEYLESS = Refusal(401, "give an API key of this server, as a Bearer token", code="invalid_api_key")
FOREIGN = Refusal(
    403,
    "without API keys, this server answers only under a host name of its own machine; start it with --api-key-file or "
    "--no-keys to allow others",
    code="foreign_host",
)


@dataclass(slots=True)
class RequestLog:
    """What the log line and the metrics of one HTTP request are made of."""

    id: str
    model: str = ""
    """Empty unless there is such a model."""
    status: int = LEFT
    facts: dict[str, Any] = field(default_factory=dict)
    """More for the log line."""


class Middleware:
    """Checks host and API key, adds a request id, counts and logs."""

    def __init__(self, app: App, metrics: Metrics, keys: Keys | None, *, local: bool = False) -> None:
        """Serve an app to those who have one of the API keys, or, without ``keys``, to everybody.

        ``local`` serves only requests under a host name of this machine. It keeps out web pages whose own name was made
        to point at this machine.
        """
        self._app = app
        self._metrics = metrics
        self._keys = keys
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known = scope.get(LOG)  # of a request that the app has begun to read, refused meanwhile
        log = scope[LOG] = known or RequestLog(f"req-{secrets.token_hex(8)}")
        scope["path"], scope[DEPLOYMENT] = usual_path(scope["path"])
        began = time.perf_counter()

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                log.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", log.id.encode())]
            await send(message)

        try:
            if refusal := refusal_at_door(scope, self._keys, FOREIGN if self._local else None):
                await refuse(sending, refusal)
            else:
                await self._app(scope, receive, sending)
        finally:
            if known is None:
                self._conclude(scope, log, time.perf_counter() - began)

    def _conclude(self, scope: Scope, log: RequestLog, seconds: float) -> None:
        path = scope["route"].name if "route" in scope and log.status != 405 else "other"
        self._metrics.requests.labels(path, log.model, str(log.status)).inc()
        is_logged = path.startswith(LOGGED)
        if is_logged:
            self._metrics.request_seconds.labels(path, log.model).observe(seconds)
        if is_logged or log.status in (401, 403):
            client = scope.get("client")
            say(
                "request",
                id=log.id,
                client=cut(client[0]) if client else None,  # perhaps of a header: X-Forwarded-For
                method=cut(scope["method"]),
                path=path,
                model=log.model or None,
                status=log.status,
                seconds=round(seconds, 4),
                **log.facts,
            )


def refusal_at_door(scope: Scope, keys: Keys | None, foreign: Refusal | None) -> Refusal | None:
    """Why a request is not served: the connections' reason, a foreign host name, no key.

    ``foreign`` refuses what comes under a host name that is not this machine's; ``None`` takes all names.
    """
    if (refused := scope.get(REFUSED)) is not None:
        assert isinstance(refused, Refusal)
        return refused
    if foreign is not None and not is_local([value for name, value in scope["headers"] if name == b"host"]):
        return foreign
    if keys is None or scope["path"].removesuffix("/") in OPEN or PAGE.fullmatch(scope["path"]):
        return None
    return None if keys.admit(key_of(scope["headers"])) else KEYLESS


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The API key of a request's headers: ``Authorization: Bearer KEY``, or Azure's ``api-key: KEY``.

    ``None`` where there is none, or more than one.
    """
    given = [(name, value) for name, value in headers if name in (b"authorization", b"api-key")]
    if len(given) != len(dict(given)):
        return None
    found = set()
    for name, value in given:
        scheme, _, key = (b"bearer", b"", value) if name == b"api-key" else value.partition(b" ")
        if scheme.lower() == b"bearer":
            found.add(key.strip())
    return found.pop() if len(found) == 1 else None


def usual_path(path: str) -> tuple[str, str | None]:
    """A path of the API as it is served, and the model that it names; other paths as they are."""
    found = USUAL.fullmatch(path)
    if found is None:
        return path, None
    return "/v1/" + re.sub("/+", "/", found["name"]) + re.sub("^/+", "/", found["rest"] or ""), found["model"]


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer a request that is not read, and close the connection."""
    body = refusal.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the request's body is not read
        *([(b"www-authenticate", b"Bearer")] if refusal.status == 401 else []),
        *((name.encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def answer_to(app: App, scope: Scope, refusal: Refusal) -> bytes:
    """A refusal as it is sent in place of the app's answer: with a request id, and what browsers want to see.

    The app refuses without waiting for anything.
    """
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    with contextlib.suppress(StopIteration):
        app({**scope, REFUSED: refusal}, receive, send).__await__().__next__()
    start, body = sent
    status = HTTPStatus(start["status"])
    lines = [b"HTTP/1.1 %d %b" % (status, status.phrase.encode())]
    lines += [b"%b: %b" % header for header in start["headers"]]
    return b"\r\n".join([*lines, b"", b"" if scope["method"] == "HEAD" else body["body"]])


def read_origins(given: Iterable[str]) -> list[str]:
    """Origins of pages as browsers write them. Raises a `SpecError` for what no browser would send."""
    found = []
    for value in given:
        origin = value.lower().removesuffix("/")
        if origin not in ("*", "null"):
            if (parts := ORIGIN.fullmatch(origin)) is None:
                raise SpecError(
                    f"{shown(value)} is not an origin of pages",
                    hint="write it as SCHEME://HOST or SCHEME://HOST:PORT, such as https://app.example; * is any",
                )
            scheme, host, port = parts.groups(default="")
            origin = f"{scheme}://{host}{'' if port == PORTS.get(scheme) else port}"
        found.append(origin)
    return found


class Keys:
    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def admit(self, key: bytes | None) -> bool:
        """Whether this is one of the keys; always compares with all, in full."""
        given = _digest(key or b"")
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found


def is_key(text: str) -> bool:
    """Whether a text can be a key, or the token of a worker."""
    return len(text) >= LEAST and text.isascii() and text.isprintable() and " " not in text


def read_keys(path: Path) -> Keys:
    """Read a file of keys, one per line; empty lines and lines that begin with ``#`` are skipped.

    Raises:
        SpecError: the file cannot be read or has no key, or a key is too short or has blanks. No key is shown.
    """
    try:
        lines = read_text(path, SETTINGS, named=True).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        words = f"cannot read the key file {str(path)!r}: {why_unread(error)}"
        raise SpecError(words, hint="name a file with one key per line") from None
    keys = []
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not is_key(key):
            raise SpecError(f"line {number} of the key file {str(path)!r} is not a key", hint=f"a key {KEY_HAS}")
        keys.append(key)
    if not keys:
        raise SpecError(f"the key file {str(path)!r} has no key", hint="write one per line")
    return Keys(keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
