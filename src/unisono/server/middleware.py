"""What every HTTP request passes: a request id, the API key, metrics and the request log. Plain ASGI, around the app.

API keys are read from a file, kept as digests, and compared in constant time.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unisono.errors import SpecError
from unisono.server.errors import Refusal
from unisono.server.logs import say
from unisono.server.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/health", "/ready")
"""Paths that need no key."""
ACCOUNT = "unisono.account"
"""Where in an ASGI scope the account of a request is."""
LEAST = 16
"""Characters of a key: shorter ones can be guessed."""
LEFT = 499
"""The status, in logs and metrics alone, of a request whose client left before it was answered."""


KEYLESS = Refusal(401, "give an API key of this server, as a Bearer token", code="invalid_api_key")
FOREIGN = Refusal(
    403,
    "this server is asked for by another name than those of its machine; it allows that with keys (--api-key-file), or "
    "with --no-keys",
    code="foreign_host",
)


@dataclass(slots=True)
class RequestLog:
    """What is known of one HTTP request: what its log line and its metrics are made of."""

    id: str
    path: str = "other"
    """The path of the route; one that nobody serves counts as other."""
    model: str = ""
    """Empty unless there is such a model."""
    status: int = LEFT
    facts: dict[str, Any] = field(default_factory=dict)
    """More for the log."""


class Middleware:
    """Numbers, admits, counts and logs requests."""

    def __init__(self, app: App, metrics: Metrics, keys: Keys | None, *, local: bool = False) -> None:
        """Stand before an app.

        Args:
            app: what is served.
            metrics: what is counted into.
            keys: that open it; ``None`` for everybody.
            local: whether it may only be asked for by the names of this machine. A page of another site, whose name
                has been pointed at this machine, is not let in then.
        """
        self._app = app
        self._metrics = metrics
        self._keys = keys
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account = RequestLog(f"req-{secrets.token_hex(8)}")
        scope[ACCOUNT] = account
        began = time.perf_counter()

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", account.id.encode())]
            await send(message)

        try:
            if self._local and not _is_local(scope):
                await self._refuse(sending, FOREIGN)
            elif not self._admits(scope):
                await self._refuse(sending, KEYLESS)
            else:
                await self._app(scope, receive, sending)
        finally:
            self._conclude(scope, account, time.perf_counter() - began)

    def _admits(self, scope: Scope) -> bool:
        if self._keys is None or scope["path"] in OPEN:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return self._keys.admit(given[0] if len(given) == 1 else None)

    async def _refuse(self, send: Send, refusal: Refusal) -> None:
        body = refusal.body()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),  # what it sends as its body is not read
            *([(b"www-authenticate", b"Bearer")] if refusal.status == 401 else []),
        ]
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _conclude(self, scope: Scope, account: RequestLog, seconds: float) -> None:
        self._metrics.requests.labels(account.path, account.model, str(account.status)).inc()
        if account.path.startswith("/v1/"):
            self._metrics.request_seconds.labels(account.path, account.model).observe(seconds)
        if account.path.startswith("/v1/") or account.status in (401, 403):
            client = scope.get("client")
            say(
                "request",
                id=account.id,
                client=client[0] if client else None,
                method=scope["method"],
                path=account.path,
                model=account.model or None,
                status=account.status,
                seconds=round(seconds, 4),
                **account.facts,
            )


def _is_local(scope: Scope) -> bool:
    """Whether a request asks for this machine by a name that no other can have."""
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return all(is_loopback(_host(value)) for value in given)


def _host(header: str) -> str:
    """The name in a ``Host`` header, without the port."""
    bracketed, closing, _ = header.removeprefix("[").partition("]")
    return bracketed if closing else header.partition(":")[0].lower().removesuffix(".")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


class Keys:
    """The keys that open a server."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def admit(self, authorization: bytes | None) -> bool:
        """Whether the value of an Authorization header is ``Bearer`` and one of the keys.

        It takes the same time whichever key it resembles, and however much.
        """
        scheme, _, key = (authorization or b"").partition(b" ")
        given = _digest(key.strip())
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found and scheme.lower() == b"bearer"


def read_keys(path: Path) -> Keys:
    """Read a file of keys: one a line; empty lines, and those that begin with ``#``, are left out.

    Raises:
        SpecError: it cannot be read, has no key, or one that is too short or has blanks; no key is shown.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not text"
        raise SpecError(
            f"cannot read the key file {str(path)!r}: {why}", hint="name a file with a key a line"
        ) from None
    keys = []
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < LEAST or not key.isascii() or not key.isprintable() or " " in key:
            raise SpecError(
                f"line {number} of the key file {str(path)!r} is no key",
                hint=f"a key has {LEAST} visible ASCII characters or more, such as `openssl rand -hex 24` prints",
            )
        keys.append(key)
    if not keys:
        raise SpecError(f"the key file {str(path)!r} has no key", hint="write one a line")
    return Keys(keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
