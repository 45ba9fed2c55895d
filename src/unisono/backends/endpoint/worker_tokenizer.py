"""The tokenizer of a worker's member: its table is here, and what it encodes is asked for."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Literal

from unisono.backends.endpoint.caller import Caller
from unisono.backends.endpoint.worker_frames import read_ids
from unisono.backends.wire import FrameError, read_frame
from unisono.errors import MemberUnavailable
from unisono.vocab.tokenizer import TokenTable

log = logging.getLogger(__name__)

Way = Literal["encode", "encode_prompt", "encode_rendered"]
KEPT = 4096
"""The most texts whose ids are kept."""
KEPT_CHARACTERS = 1000
"""Longer texts are asked for each time."""
BATCH = 1024
"""Texts that are learned at once: others who ask meanwhile wait for so many."""
BATCH_SECONDS = 30.0
ATTEMPTS = 5
"""How often in a row learning may fail before the rest is asked for when it is met."""


class WorkerTokenizer:
    """May be used by several threads, but not by the endpoints' own."""

    def __init__(self, client: Caller, table: TokenTable, model: str) -> None:
        """``model`` is the fingerprint of the model whose table it is."""
        self.table = table
        self._client = client
        self._model = model
        self._kept: OrderedDict[tuple[Way, str], list[int]] = OrderedDict()
        self._lock = threading.Lock()
        self._learned: dict[str, tuple[int, ...]] = {}
        """What `encode` gives for texts that were expected."""

    def __reduce__(self) -> tuple[object, ...]:
        return WorkerTokenizer, (self._client, self.table, self._model)

    def encode(self, text: str) -> list[int]:
        return self._ids("encode", text)

    def encode_prompt(self, text: str) -> list[int]:
        return self._ids("encode_prompt", text)

    def encode_rendered(self, text: str) -> list[int]:
        return self._ids("encode_rendered", text)

    def expect(self, texts: Iterable[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._learned]
        if new:
            self._client.start(self._learn(new), ATTEMPTS * BATCH_SECONDS + len(new) / BATCH * BATCH_SECONDS)

    async def _learn(self, texts: Sequence[str]) -> None:
        failures = at = 0
        while at < len(texts):
            batch = texts[at : at + BATCH]
            try:
                async with asyncio.timeout(BATCH_SECONDS):
                    ids = await self._ask("encode", batch)
            except (MemberUnavailable, TimeoutError) as error:
                failures += 1
                if failures == ATTEMPTS:
                    log.info(
                        "%s: %d pieces are spelled when they are met: %s", self._client.address, len(texts) - at, error
                    )
                    return
                await asyncio.sleep(2.0**failures)
                continue
            self._learned.update(zip(batch, map(tuple, ids), strict=True))
            failures, at = 0, at + BATCH

    def _ids(self, way: Way, text: str) -> list[int]:
        if way == "encode" and (learned := self._learned.get(text)) is not None:
            return list(learned)
        with self._lock:
            if (kept := self._kept.get((way, text))) is not None:
                self._kept.move_to_end((way, text))
                return list(kept)
        self._client.check()
        (ids,) = self._client.run(self._ask(way, [text]))
        if len(text) <= KEPT_CHARACTERS:
            with self._lock:
                self._kept[way, text] = ids
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return list(ids)

    async def _ask(self, way: Way, texts: Sequence[str]) -> list[list[int]]:
        body = json.dumps({"model": self._model, "way": way, "texts": texts}).encode()
        answer = await self._client.request(
            "POST", "/v1/encode", body, {"content-type": "application/json"}, accepted=(200, 409)
        )
        if answer.status == 409:
            raise self._client.failed("it has another model now, whose tokenizer is another one", refused=True)
        try:
            ids = [each.tolist() for each in read_ids(read_frame(answer.content))]
        except FrameError as error:
            raise self._client.failed(f"its ids cannot be read: {error}") from None
        if len(ids) != len(texts) or max((max(each, default=0) for each in ids), default=0) >= len(self.table.texts):
            raise self._client.failed("it gives ids that its vocabulary does not have")
        return ids
