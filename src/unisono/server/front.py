"""What every HTTP request passes: a number, the key, the count and the log. Plain ASGI, around the app."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from unisono.server.errors import Refusal
from unisono.server.keys import Keys
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
LEFT = 499
"""The status, in logs and metrics alone, of a request whose client left before it was answered."""


@dataclass(slots=True)
class Account:
    """What is known of one HTTP request: what its log line and its metrics are made of."""

    id: str
    path: str = "other"
    """The path of the route; one that nobody serves counts as other."""
    model: str = ""
    """Empty unless there is such a model."""
    status: int = LEFT
    facts: dict[str, Any] = field(default_factory=dict)
    """More for the log."""


class Front:
    """Numbers, admits, counts and logs requests."""

    def __init__(self, app: App, metrics: Metrics, keys: Keys | None) -> None:
        """Stand before an app; without keys everybody is admitted."""
        self._app = app
        self._metrics = metrics
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account = Account(f"req-{secrets.token_hex(8)}")
        scope[ACCOUNT] = account
        began = time.perf_counter()

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", account.id.encode())]
            await send(message)

        try:
            if self._admits(scope):
                await self._app(scope, receive, sending)
            else:
                await self._refuse(sending)
        finally:
            self._conclude(scope, account, time.perf_counter() - began)

    def _admits(self, scope: Scope) -> bool:
        if self._keys is None or scope["path"] in OPEN:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return self._keys.admit(given[0] if len(given) == 1 else None)

    async def _refuse(self, send: Send) -> None:
        refusal = Refusal(401, "give an API key of this server, as a Bearer token", code="invalid_api_key")
        body = refusal.body()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"www-authenticate", b"Bearer"),
            (b"connection", b"close"),  # what it sends as its body is not read
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _conclude(self, scope: Scope, account: Account, seconds: float) -> None:
        self._metrics.requests.labels(account.path, account.model, str(account.status)).inc()
        if account.path.startswith("/v1/"):
            self._metrics.request_seconds.labels(account.path, account.model).observe(seconds)
        if account.path.startswith("/v1/") or account.status == 401:
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
