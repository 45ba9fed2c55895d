"""The routes of stored responses: one is shown, its input is listed, it is deleted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable

from unisono.server.fields import unsupported
from unisono.server.replies import json_answer
from unisono.server.responses_api.schemas import DeletedResponse, InputItems
from unisono.server.responses_api.store import ResponseStore
from unisono.server.web import Request, Response


class ResponseRoutes:
    def __init__(self, most: int, *, has_keys: bool) -> None:
        """Store at most so many responses, each for those who have its API key, where there are keys."""
        self.store = ResponseStore(most)
        self._has_keys = has_keys

    def table(self) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        return [
            ("GET", "/v1/responses/{response}/input_items", self.items),
            ("GET", "/v1/responses/{response}", self.shown),
            ("DELETE", "/v1/responses/{response}", self.delete),
        ]

    def owner(self, request: Request) -> bytes:
        """Whose request it is: a digest of its API key, which has been checked."""
        key = request.headers.get("authorization", "").partition(" ")[2].strip()
        return hashlib.sha256(key.encode()).digest() if self._has_keys else b""

    async def shown(self, request: Request) -> Response:
        stored = self.store.get(request.path_params["response"], self.owner(request))
        if request.query_params.get("stream") == "true":
            raise unsupported("stream", True, "a stored response is shown whole")
        return json_answer(stored.body)

    async def items(self, request: Request) -> Response:
        """List the items of its own input, without those of responses before it."""
        name = request.path_params["response"]
        stored = self.store.get(name, self.owner(request))
        data = [
            {"type": "message", "id": f"{name}_{place}", **item} for place, item in enumerate(json.loads(stored.input))
        ]
        ids = [item["id"] for item in data] or [None]
        return json_answer(InputItems(data=data, first_id=ids[0], last_id=ids[-1]).model_dump_json())

    async def delete(self, request: Request) -> Response:
        name = request.path_params["response"]
        self.store.delete(name, self.owner(request))
        return json_answer(DeletedResponse(id=name).model_dump_json())
