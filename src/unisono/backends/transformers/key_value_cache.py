"""A key-value cache with one row per slot. Rows differ in length and rewind exactly.

Each layer stores ``[rows, heads, capacity, dim]``, which grows by copying and never shrinks. Open slots fill the rows
from 0 up, so a pass over all of them reads a plain slice. Positions beyond a row's length are never read, so rewinding
only lowers a number. Sliding-window layers keep every position and leave the window to the mask.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Tensor = Any
MIN_CAPACITY = 128


@dataclass(frozen=True, slots=True)
class Pass:
    """The rows and positions of one forward pass.

    Feeds of unequal length are right-aligned. A padded query writes beyond its row's new end, where later tokens
    overwrite it. Its output is ignored.
    """

    rows: tuple[int, ...]
    """B: the row of each sequence, ascending."""
    starts: tuple[int, ...]
    """B: tokens already in each row."""
    lengths: tuple[int, ...]
    """B: new tokens of each row."""

    @property
    def width(self) -> int:
        """T: queries per sequence, padding included."""
        return max(self.lengths)

    @property
    def end(self) -> int:
        """An exclusive upper bound of the positions that the pass touches."""
        return max(self.starts) + self.width

    @property
    def uniform(self) -> bool:
        """Whether all rows have equal lengths before and after, so nothing is padded or masked."""
        return len(set(self.starts)) == 1 and len(set(self.lengths)) == 1

    @property
    def first_row(self) -> int | None:
        """The first row if the rows are contiguous, else ``None``."""
        first = self.rows[0]
        return first if self.rows[-1] - first + 1 == len(self.rows) else None

    def positions(self) -> list[list[int]]:
        """BT: each query's position in its sequence. Padded queries get the row's first new position."""
        return [
            [start] * (self.width - length) + list(range(start, start + length))
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]

    def places(self) -> list[list[int]]:
        """BT: the row offset where each query's key and value are written."""
        return [
            list(range(start + length, start + self.width)) + list(range(start, start + length))
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]


class RowLayer:
    """One layer's keys and values. Implements what transformers uses of `CacheLayerMixin`."""

    is_compileable = False
    is_croppable = True
    supports_early_init = False

    def __init__(self, pool: RowPool, window: int | None) -> None:
        self.pool = pool
        self.window = window
        self.is_sliding = window is not None
        self.is_initialized = False
        self.keys: Tensor = None
        self.values: Tensor = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values ``[B, heads, T, dim]`` and return all that the queries may see."""
        self._make_room(keys, values)
        return self._write(self.keys, keys), self._write(self.values, values)

    def get_seq_length(self) -> int:
        """Cached tokens. Meaningful only in uniform passes."""
        return self.pool.now.starts[0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The number of positions that `update` returns, and the first of them."""
        return self.pool.now.starts[0] + query_length - self.first, self.first

    def get_max_length(self) -> int:
        return -1

    @property
    def first(self) -> int:
        """The first position visible to this pass."""
        return 0 if self.window is None else max(0, min(self.pool.now.starts) - self.window + 1)

    @property
    def batch_size(self) -> int:
        return len(self.pool.now.rows)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy a row's first ``length`` positions to another row, which is created if missing."""
        if not (self.is_initialized and length):
            return
        if target >= self.keys.shape[0]:
            self._make_room(self.keys, self.values)
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def swap_rows(self, first: int, second: int, lengths: tuple[int, int]) -> None:
        if not self.is_initialized:
            return
        self._make_room(self.keys, self.values)
        kept = [store[first, :, : lengths[0]].clone() for store in (self.keys, self.values)]  # first: this may fail
        for store, content in zip((self.keys, self.values), kept, strict=True):
            store[first, :, : lengths[1]] = store[second, :, : lengths[1]]
            store[second, :, : lengths[0]] = content

    def _write(self, store: Tensor, new: Tensor) -> Tensor:
        now = self.pool.now
        row, count, seen = now.first_row, len(now.rows), slice(self.first, now.end)
        if now.uniform and row is not None:
            store[row : row + count, :, now.starts[0] : now.end].copy_(new)
            return store[row : row + count, :, seen]
        rows_B1, places_BT = self.pool.index(new.device)
        store[rows_B1, :, places_BT] = new.transpose(1, 2)
        return store[:, :, seen].index_select(0, rows_B1.view(-1)) if row is None else store[row : row + count, :, seen]

    def _make_room(self, keys: Tensor, values: Tensor) -> None:
        """Grow to the pool's size. Keys and values supply heads, dimensions, dtype and device."""
        rows, capacity = self.pool.rows, self.pool.capacity
        if self.is_initialized and self.keys.shape[0] >= rows and self.keys.shape[2] >= capacity:
            return
        # Zeros, not uninitialised memory: a masked NaN would still spoil the sum.
        grown = [new.new_zeros((rows, new.shape[1], capacity, new.shape[3])) for new in (keys, values)]
        if self.is_initialized:
            for store, old in zip(grown, (self.keys, self.values), strict=True):
                store[: old.shape[0], :, : old.shape[2]] = old
        self.keys, self.values = grown
        self.is_initialized = True


class RowPool:
    def __init__(self, slots: int, context: int, integers: Callable[[Sequence[Sequence[int]], Any], Tensor]) -> None:
        self.layers: list[RowLayer] = []
        """The layers with keys and values; whoever makes the pool adds them."""
        self.slots = slots
        self.context = context
        self.rows = 0
        self.capacity = 0
        self.lengths: list[int] = []
        self.now = Pass((0,), (0,), (1,))
        self._integers = integers
        self._index: dict[Any, tuple[Tensor, Tensor]] = {}

    def begin(self, step: Pass) -> None:
        """Start a pass and plan its storage."""
        self.now = step
        self._index.clear()
        self._plan_rows(len(self.lengths))
        if step.end > self.capacity:
            # A padded query may write beyond the context, so the context is no upper limit.
            self.capacity = max(step.end, min(2 * self.capacity, self.context), MIN_CAPACITY)

    def index(self, device: Any) -> tuple[Tensor, Tensor]:
        """The pass's rows (B1) and places (BT) on a device, cached."""
        if device not in self._index:
            numbers = [[row] for row in self.now.rows], self.now.places()
            rows_B1, places_BT = (self._integers(each, device) for each in numbers)
            self._index[device] = rows_B1, places_BT
        return self._index[device]

    def add(self, copy_of: int | None = None) -> None:
        row, length = len(self.lengths), 0
        if copy_of is not None:
            length = self.lengths[copy_of]
            self._plan_rows(row + 1)
            for layer in self.layers:
                layer.copy_row(copy_of, row, length)
        self.lengths.append(length)

    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.layers:
                layer.copy_row(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def swap(self, first: int, second: int) -> None:
        self._plan_rows(len(self.lengths))
        lengths = self.lengths[first], self.lengths[second]
        with contextlib.ExitStack() as undo:  # where one layer fails
            for layer in self.layers:
                layer.swap_rows(first, second, lengths)
                undo.callback(layer.swap_rows, second, first, lengths)
            undo.pop_all()
        self.lengths[second], self.lengths[first] = lengths

    def _plan_rows(self, count: int) -> None:
        if count > self.rows:
            self.rows = min(self.slots, max(count, 2 * self.rows))


def plan_passes(lengths: Sequence[int], slack: int, share: float = 0.0) -> list[list[int]]:
    """Group feeds into passes so that padding costs less than another pass.

    Returns lists of indices into ``lengths``, longest first. Feeds of equal length share a list. A pass has at most
    ``slack`` padded tokens, or this ``share`` of the tokens that it is there for, if that is more.
    """
    groups: list[list[int]] = []
    waste = read = 0
    for length, alike in itertools.groupby(sorted(range(len(lengths)), key=lambda i: -lengths[i]), lengths.__getitem__):
        feeds = list(alike)
        padding = len(feeds) * (lengths[groups[-1][0]] - length) if groups else 0
        tokens = len(feeds) * length
        if groups and waste + padding <= max(slack, share * (read + tokens)):
            groups[-1] += feeds
            waste += padding
            read += tokens
        else:
            groups.append(feeds)
            waste, read = 0, tokens
    return groups
