"""Responses that are kept in memory for a while: the last ones, so many bytes of them at most.

A response has its own items, and the id of the one before it: a conversation is read along these. Who has another API
key sees none of it, and loses none for it while theirs are fewer.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unisono.errors import shown
from unisono.server.errors import Refusal

BYTES = 2**26
"""Of all that are kept."""
NO_OUTPUT = b'"output":[]'
"""What stands in a body that is kept for its output, which is kept once."""
REFERENCE = "item_reference"
"""The type of an item that names one of a stored response's output."""
Json = dict[str, Any]


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
    """The rest of the response, with `NO_OUTPUT`."""
    begun: str = ""
    """The text that its answer goes on from."""
    reasoned: str = ""
    """What its reasoning goes on from."""
    continues: bool = False
    """Whether the last item before its output is the beginning of that, which ``begun`` has."""
    ids: tuple[str, ...] = ()
    """Of its output items."""

    @property
    def size(self) -> int:
        kept = len(self.input) + len(self.output) + len(self.body) + sum(map(len, self.ids))
        return kept + len(self.begun.encode(errors="surrogatepass")) + len(self.reasoned.encode(errors="surrogatepass"))

    @property
    def told(self) -> bytes:
        """The whole response."""
        told = self.body.replace(NO_OUTPUT, b'"output":' + self.output, 1)
        try:
            told.decode()
        except UnicodeDecodeError:  # as a client's metadata may be
            return json.dumps(json.loads(told)).encode()
        return told

    def extend(self, items: list[Any]) -> None:
        """Put its items behind those of the responses before it, and in front of its answer what that goes on from."""
        items += json.loads(self.input)
        while self.continues and items and items.pop().get("type") == "reasoning":
            pass  # what is reasoned behind the last message belongs to none
        items += self.answered

    @property
    def answered(self) -> list[Json]:
        """Its output items, with what they go on from."""
        output: list[Json] = json.loads(self.output)
        _join(output, "message", {"role": "assistant"}, "output_text", self.begun)
        _join(output, "reasoning", {"summary": []}, "reasoning_text", self.reasoned)
        return output


def _join(output: list[Json], kind: str, more: Json, part: str, begun: str) -> None:
    """Put text in front of the first item of a kind, which is made where there is none."""
    if not begun:
        return
    item = next((each for each in output if each["type"] == kind), None)
    if item is None:
        place = 0 if kind == "reasoning" or not output or output[0]["type"] != "reasoning" else 1
        output.insert(place, {"type": kind, **more, "content": [{"type": part, "text": begun}]})
    else:
        first = item["content"][0]
        item["content"][0] = {**first, "text": begun + first["text"]}


class ResponseStore:
    """Keeps the last responses. Used in one event loop."""

    def __init__(self, most: int, size: int = BYTES) -> None:
        """Keep at most so many responses, and bytes; 0 responses keeps none."""
        self.most = most
        self._most_bytes = size
        self._kept: OrderedDict[str, Stored] = OrderedDict()
        self._response_of: dict[str, str] = {}
        """By the id of an output item, the response that has it."""
        self._counts: Counter[bytes] = Counter()
        """By owner, how many are kept."""
        self._bytes: Counter[bytes] = Counter()

    def put(self, identity: str, stored: Stored) -> bool:
        """Keep a response, and return whether there was room for it.

        Those that nobody asked for since are given up for it, of the owner who has most.
        """
        if stored.size > self._most_bytes or self.most == 0:
            return False
        self._kept[identity] = stored
        self._response_of |= dict.fromkeys(stored.ids, identity)
        self._counts[stored.owner] += 1
        self._bytes[stored.owner] += stored.size
        while (many := len(self._kept) > self.most) or self._bytes.total() > self._most_bytes:
            [(owner, _)] = (self._counts if many else self._bytes).most_common(1)
            self._forget(next(name for name, each in self._kept.items() if each.owner == owner))
        return identity in self._kept

    def _forget(self, identity: str) -> None:
        stored = self._kept.pop(identity)
        for item in stored.ids:
            del self._response_of[item]
        for counter, count in ((self._counts, 1), (self._bytes, stored.size)):
            counter[stored.owner] -= count
            if not counter[stored.owner]:
                del counter[stored.owner]

    def get(self, identity: str, owner: bytes) -> Stored:
        """A response. Raises a `Refusal` where it is not kept, or somebody else's."""
        stored = self._kept.get(identity)
        if stored is None or stored.owner != owner:
            raise Refusal(404, f"there is no response {shown(identity)}: {self._why}", code="not_found")
        self._kept.move_to_end(identity)
        return stored

    def delete(self, identity: str, owner: bytes) -> None:
        """Forget a response. Raises a `Refusal` where it is not kept, or somebody else's."""
        self.get(identity, owner)
        self._forget(identity)

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
            most -= stored.size - len(stored.body)
            if most < 0:
                words = f"the conversation up to {shown(identity)} is longer than what this server takes as a request"
                raise Refusal(400, words, param="previous_response_id", code="context_length_exceeded")
            wanted = stored.previous
        items: list[Any] = []
        for stored in reversed(chain):
            stored.extend(items)
        return items

    def resolve(self, items: Sequence[Any], owner: bytes, most: int) -> list[Any]:
        """Items of an input, with what they refer to (``item_reference``) in its place.

        Raises a `Refusal` where that is not kept, or what is read for it has more than ``most`` bytes.
        """
        found: list[Any] = []
        known: dict[str, Json] = {}
        for place, item in enumerate(items):
            if not _refers(item):
                found.append(item)
                continue
            given, param = item.get("id"), f"input[{place}].id"
            wanted = given if isinstance(given, str) else ""
            response = self._response_of.get(wanted)
            if response is None or self._kept[response].owner != owner:
                words = f"{param} is {shown(given)}, which is no item of a response's output here: {self._why}"
                raise Refusal(400, words, param=param, code="invalid_value")
            if wanted in known:
                most -= len(packed(known[wanted]))
            else:
                self._kept.move_to_end(response)
                most -= len(self._kept[response].output)
            if most < 0:
                words = f"what input refers to, up to {param}, is longer than what this server takes as a request"
                raise Refusal(400, words, param=param, code="context_length_exceeded")
            if wanted not in known:
                known |= {each["id"]: each for each in self._kept[response].answered if "id" in each}
            found.append(known[wanted])
        return found

    @property
    def _why(self) -> str:
        if self.most == 0:
            return "this server stores none; send the conversation as input"
        return f"this server keeps the last {self.most} in memory; send the conversation as input"


def _refers(item: Any) -> bool:
    """Whether an item stands for another one: OpenAI's types let it have nothing but the id of that."""
    kind = item.get("type") if isinstance(item, dict) else ""
    return kind == REFERENCE or (kind is None and {*item} - {"type"} == {"id"})


def packed(value: Any) -> bytes:
    """A value as JSON in as few bytes as it has; what is no Unicode is kept as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
