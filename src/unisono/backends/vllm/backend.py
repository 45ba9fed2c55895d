"""An engine's sessions as slots. A slot is a list of ids here; its session is what the engine holds of them.

Sessions only read on. A slot that was rewound, copied, or whose session was ended to make room gets a new one with its
next feed: the engine finds what it has read of the ids in its cache of prefixes, in whole blocks, and reads the rest
again. That price is part of the pass in which it is paid, where `unisono.engine.draft_length` learns it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import BackendFacts, Feed, Slot
from unisono.backends.feed_checks import check_feeds, check_ids, check_rewind
from unisono.backends.vllm.core import Chunk, Core
from unisono.errors import ModelError

ATTEMPTS = 3
"""How often a chunk is read whose rows are not all computed."""
IDLE_STEPS = 16
"""Steps in a row without work after which the engine is taken to lack memory."""


@dataclass(eq=False, slots=True)
class _Text:
    """A slot."""

    ids: list[int] = field(default_factory=list)
    session: str | None = None
    """The session that has read just these ids."""
    used: int = 0
    """The last call that fed it."""


@dataclass(eq=False, slots=True)
class _Order:
    """A feed, as far as it has been read."""

    text: _Text
    ids: Sequence[int]
    wanted: int
    at: int
    """Its first row among those of the call."""
    read: int = 0
    told: int = 0
    attempts: int = 0

    @property
    def done(self) -> bool:
        return self.read == len(self.ids)


class VllmBackend:
    def __init__(self, name: str, core: Core, slots: int, warnings: tuple[str, ...] = ()) -> None:
        self.facts = BackendFacts(
            device=core.device,
            rows=core.board.width,
            context=core.context,
            slots=slots,
            warnings=warnings,
            keeps_prefixes=True,
        )
        self._name = name
        self._core: Core | None = core
        self._texts: dict[Slot, _Text] = {}
        self._calls = 0
        self._numbers = itertools.count(1)
        self._broken = False

    def open(self, copy_of: Slot | None = None) -> Slot:
        _ = self._engine
        ids = [] if copy_of is None else self._text(copy_of).ids
        for slot in map(Slot, range(self.facts.slots)):
            if slot not in self._texts:
                self._texts[slot] = _Text(list(ids))
                return slot
        raise RuntimeError(f"all {self.facts.slots} slots are taken")

    def advance(self, feeds: Sequence[Feed]) -> NDArray[np.float32]:
        core = self._engine
        check_feeds(feeds, lambda slot: len(self._text(slot).ids), self.facts)
        check_ids(feeds, self.facts.rows)
        self._calls += 1
        ends = list(itertools.accumulate((feed.wanted for feed in feeds), initial=0))
        orders = [
            _Order(self._texts[each.slot], each.ids, each.wanted, at) for each, at in zip(feeds, ends, strict=False)
        ]
        for order in orders:
            order.text.used = self._calls
        try:
            told_NV = self._answer(core, orders, ends[-1])
        except BaseException:  # nobody knows what these have read
            self._end(order.text for order in orders)
            raise
        for order in orders:
            order.text.ids += order.ids
        return told_NV

    def rewind(self, slot: Slot, length: int) -> None:
        _ = self._engine
        text = self._text(slot)
        check_rewind(slot, len(text.ids), length)
        if length < len(text.ids):
            self._end([text])
            del text.ids[length:]

    def close(self, slot: Slot) -> None:
        _ = self._engine
        self._end([self._text(slot)])
        del self._texts[slot]

    def unload(self) -> None:
        core, self._core = self._core, None
        self._texts.clear()
        if core is not None:
            core.shut_down()

    def _answer(self, core: Core, orders: Sequence[_Order], rows: int) -> NDArray[np.float32]:
        """The wanted rows of all orders: on the board where one pass gives them, which the next call overwrites."""
        told_NV: NDArray[np.float32] | None = None
        for at in range(0, len(orders), core.sessions):
            group = orders[at : at + core.sessions]
            while not all(order.done for order in group):
                chunks = self._chunks(core, group)
                self._read(core, [chunk for _, chunk in chunks])
                told = [(order, chunk) for order, chunk in chunks if self._is_told(core, order, chunk)]
                if told_NV is None and all(order.done for order in orders):
                    return core.board.logits_NV[:rows]
                told_NV = np.empty((rows, core.board.width), np.float32) if told_NV is None else told_NV
                for order, chunk in told:
                    end = order.at + order.told
                    told_NV[end - chunk.wanted : end] = core.board.logits_NV[chunk.row : chunk.row + chunk.wanted]
        return np.empty((0, core.board.width), np.float32) if told_NV is None else told_NV

    def _is_told(self, core: Core, order: _Order, chunk: Chunk) -> bool:
        """Whether the rows of a chunk are there; else it is to be read again, by a new session."""
        if core.board.has(chunk.row, chunk.wanted, chunk.ticket):
            order.read, order.told = order.read + chunk.new, order.told + chunk.wanted
            return True
        order.attempts += 1
        if order.attempts == ATTEMPTS:
            raise ModelError(
                f"the engine of member {self._name!r} did not hand out rows that it was asked for",
                hint="its options kv_cache_memory_bytes or gpu_memory_utilization may be too small, or this is a fault",
            )
        self._end([order.text])
        return False

    def _chunks(self, core: Core, group: Sequence[_Order]) -> list[tuple[_Order, Chunk]]:
        """What is read next of each order, in one pass. Rows lie on the board in the order of the feeds."""
        self._make_places(core, group)
        chunks, row = list[tuple[_Order, Chunk]](), 0
        for order in group:
            if not order.done and (order.wanted == order.told or row < core.board.rows):
                chunk = self._chunk(order, row, core.board.rows - row if core.blocks else 1)
                chunks.append((order, chunk))
                row += chunk.wanted
        return chunks

    def _chunk(self, order: _Order, row: int, room: int) -> Chunk:
        """The next chunk of an order, with as many rows as there is room for.

        An engine computes nothing for ids that it finds in its cache, so that a new session may lack rows before its
        last one. That is rare but for a text that is read whole, and is seen; such a text is then read in two parts.
        """
        text, fresh = order.text, order.text.session is None
        left, wanted = order.ids[order.read :], order.wanted - order.told
        plain = len(left) - wanted
        begun = bool(text.ids or order.read or plain)
        if fresh and wanted > 1 and begun and order.attempts:
            new, wanted = left[:plain], 0
        elif wanted > room:
            new, wanted = left[: plain + room], room
        else:
            new = left
        if fresh:
            text.session = f"unisono-{next(self._numbers)}"
        assert text.session is not None
        return Chunk(
            session=text.session,
            ids=[*text.ids, *order.ids[: order.read], *new] if fresh else list(new),
            new=len(new),
            row=row,
            wanted=wanted,
            ticket=next(self._numbers),
            fresh=fresh,
            uncached=fresh and wanted > 1 and not begun,
        )

    def _read(self, core: Core, chunks: Sequence[Chunk]) -> None:
        """Let the engine read chunks in one pass, or in several where it has too little memory for one."""
        waiting, idle = {chunk.session for chunk in chunks}, 0
        try:
            core.admit(chunks)
            while waiting:
                answered, moved = core.step()
                waiting.difference_update(answered)
                idle = 0 if moved or answered else idle + 1
                if waiting and idle >= IDLE_STEPS:
                    idle = 0
                    self._make_room(waiting)
        except ModelError:
            raise
        except Exception as error:
            self._broken = True
            raise ModelError(
                f"the engine of member {self._name!r} has failed: {error or type(error).__name__}",
                hint="start again; a smaller context, max_num_seqs or batch takes less memory",
            ) from error

    def _make_places(self, core: Core, group: Sequence[_Order]) -> None:
        """End sessions that wait, the longest unused first, so that each order may have one, and has room."""
        own = {id(order.text) for order in group}
        others = self._with_session(text for text in self._texts.values() if id(text) not in own)
        taken = sum(len(order.text.ids) + len(order.ids) for order in group) + sum(len(text.ids) for text in others)
        for number, text in enumerate(others):
            if len(others) - number + len(group) <= core.sessions and taken <= core.tokens:
                break
            self._end([text])
            taken -= len(text.ids)

    def _make_room(self, waiting: set[str]) -> None:
        """End the session that is the longest unused, of those from which no answer is awaited."""
        others = self._with_session(text for text in self._texts.values() if text.session not in waiting)
        if not others:
            raise self._too_little_memory()
        self._end(others[:1])

    def _with_session(self, texts: Iterator[_Text]) -> list[_Text]:
        """Those of some slots that have a session, the longest unused first."""
        return sorted((text for text in texts if text.session is not None), key=lambda text: text.used)

    def _end(self, texts: Iterable[_Text]) -> None:
        """End the sessions of slots; they keep their ids."""
        ended = list[str]()
        for text in texts:
            if text.session is not None:
                ended.append(text.session)
                text.session = None
        if ended and self._core is not None and not self._broken:
            self._core.end(ended)

    def _too_little_memory(self) -> ModelError:
        return ModelError(
            f"the engine of member {self._name!r} has too little memory for a text's keys and values",
            hint="raise its options gpu_memory_utilization or kv_cache_memory_bytes, or lower its context",
        )

    def _text(self, slot: Slot) -> _Text:
        if slot not in self._texts:
            raise ValueError(f"slot {slot} is not open")
        return self._texts[slot]

    @property
    def _engine(self) -> Core:
        if self._core is None:
            raise RuntimeError(f"the model of member {self._name!r} has been unloaded")
        if self._broken:
            raise ModelError(f"the engine of member {self._name!r} has failed", hint="load the ensemble again")
        return self._core
