"""Responses that are kept in memory for a while: the last ones, so many bytes of them at most.

A response has its own items, and the id of the one before it: a conversation is read along these. Who has another API
key sees none of it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from unisono.errors import shown
from unisono.server.errors import Refusal

BYTES = 2**26
"""Of all that are kept."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A response as it is kept."""

    owner: bytes
    """Whose it is: a digest of the API key."""
    previous: str | None
    """The response before it."""
    input: bytes
    """Its own input items, a JSON list."""
    output: bytes
    """Its output items, too."""
    body: bytes
    """The response itself."""

    @property
    def size(self) -> int:
        return len(self.input) + len(self.output) + len(self.body)


class ResponseStore:
    """Keeps the last responses. Used in one event loop."""

    def __init__(self, most: int, size: int = BYTES) -> None:
        """Keep at most so many responses, and bytes; 0 responses keeps none."""
        self.most = most
        self._most_bytes = size
        self._kept: OrderedDict[str, Stored] = OrderedDict()
        self._bytes = 0

    def put(self, identity: str, stored: Stored) -> None:
        """Keep a response; the oldest that nobody asked for since are given up for it."""
        if stored.size > self._most_bytes or self.most == 0:
            return
        self._kept[identity] = stored
        self._bytes += stored.size
        while len(self._kept) > self.most or self._bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size

    def get(self, identity: str, owner: bytes) -> Stored:
        """A response. Raises a `Refusal` where it is not kept, or somebody else's."""
        stored = self._kept.get(identity)
        if stored is None or stored.owner != owner:
            raise Refusal(404, f"there is no response {shown(identity)}: {self._why}", code="not_found")
        self._kept.move_to_end(identity)
        return stored

    def delete(self, identity: str, owner: bytes) -> None:
        """Forget a response. Raises a `Refusal` where it is not kept, or somebody else's."""
        self._bytes -= self.get(identity, owner).size
        del self._kept[identity]

    def conversation(self, identity: str, owner: bytes, most: int) -> list[Any]:
        """The items of a response and of those before it, in their order.

        Raises a `Refusal` where one of them is not kept, or they have more than ``most`` bytes.
        """
        chain: list[Stored] = []
        wanted: str | None = identity
        while wanted is not None:
            stored = self._kept.get(wanted)
            if stored is None or stored.owner != owner:
                which = "response" if wanted == identity else "response before that"
                words = f"previous_response_id is {shown(identity)}, and the {which} is not here: {self._why}"
                raise Refusal(400, words, param="previous_response_id", code="previous_response_not_found")
            self._kept.move_to_end(wanted)
            chain.append(stored)
            most -= len(stored.input) + len(stored.output)
            if most < 0:
                words = f"the conversation up to {shown(identity)} is longer than what this server takes as a request"
                raise Refusal(400, words, param="previous_response_id", code="context_length_exceeded")
            wanted = stored.previous
        return [item for each in reversed(chain) for item in (*json.loads(each.input), *json.loads(each.output))]

    @property
    def _why(self) -> str:
        if self.most == 0:
            return "this server stores none; send the conversation as input"
        return f"this server keeps the last {self.most} in memory; send the conversation as input"
