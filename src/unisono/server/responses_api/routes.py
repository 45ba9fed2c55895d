"""The routes of stored responses: one is shown, its input is listed, it is deleted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from unisono.errors import shown
from unisono.records import is_unicode
from unisono.server.errors import invalid
from unisono.server.fields import unsupported
from unisono.server.middleware import key_of
from unisono.server.replies import json_answer
from unisono.server.responses_api.schemas import DeletedResponse, InputItems
from unisono.server.responses_api.store import ResponseStore
from unisono.server.web import Request, Response

LIMITS = ("20", *map(str, range(1, 101)))
"""How many items a listing has, first the default."""


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
        key = key_of(request.scope["headers"]) or b""
        return hashlib.sha256(key).digest() if self._has_keys else b""

    async def shown(self, request: Request) -> Response:
        stored = self.store.get(request.path_params["response"], self.owner(request))
        if request.query_params.get("stream") == "true":
            raise unsupported("stream", True, "a stored response is shown whole")
        return json_answer(stored.told)

    async def items(self, request: Request) -> Response:
        """List the items of its own input, without those of responses before it, the last first."""
        name = request.path_params["response"]
        data = _with_ids(json.loads(self.store.get(name, self.owner(request)).input), name)
        if _asked(request, "order", ("desc", "asc")) == "desc":
            data.reverse()
        if (after := request.query_params.get("after")) is not None:
            place = next((place for place, item in enumerate(data, 1) if item["id"] == after), None)
            if place is None:
                raise invalid("after", f"after is {shown(after)}, which is not an item of this response's input")
            data = data[place:]
        most = int(_asked(request, "limit", LIMITS))
        page = data[:most]
        ids = [item["id"] for item in page] or [None]
        listed = InputItems(data=page, first_id=ids[0], last_id=ids[-1], has_more=len(data) > most)
        return json_answer(json.dumps(listed.model_dump()))  # in ASCII: not all of an item may be Unicode

    async def delete(self, request: Request) -> Response:
        name = request.path_params["response"]
        self.store.delete(name, self.owner(request))
        return json_answer(DeletedResponse(id=name).model_dump_json())


def _asked(request: Request, name: str, known: Sequence[str]) -> str:
    """A parameter of a listing, by default the first that is known. Raises a `Refusal`."""
    given = request.query_params.get(name, known[0])
    if given not in known:
        choices = "a number from 1 to 100" if known is LIMITS else " or ".join(known)
        raise invalid(name, f"{name} is {shown(given)}: give {choices}")
    return given


def _with_ids(items: Sequence[Any], name: str) -> list[dict[str, Any]]:
    """Items with ids of their own, where they have none that is text and no other's."""
    known = set[str]()
    told = []
    for place, item in enumerate(items):
        own = item.get("id")
        its = own if isinstance(own, str) and is_unicode(own) and own not in known else f"{name}_{place}"
        known.add(its)
        kind = item.get("type")
        told.append({**item, "type": "message" if kind is None else kind, "id": its})
    return told
