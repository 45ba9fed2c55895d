"""A key-value cache in rows: one row a slot, each with its own length, exact to rewind.

Storage is ``[rows, heads, capacity, dim]`` a layer and grows by copying, never shrinks. Open slots fill the rows from 0
on, so that feeding all of them reads a plain slice. What lies beyond a row's length is never read: to rewind is to
lower a number, also for sliding-window layers, which keep everything and leave the window to the mask.
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
    """Where one forward pass reads and writes.

    Feeds of unequal length stand right-aligned. A padded query writes beyond its row's new end, where the next tokens
    overwrite it, and its output is not used.
    """

    rows: tuple[int, ...]
    """B: the row of each sequence in the batch, ascending."""
    starts: tuple[int, ...]
    """B: how many tokens each row holds already."""
    lengths: tuple[int, ...]
    """B: how many it reads now."""

    @property
    def width(self) -> int:
        """T: queries of each sequence, padding included."""
        return max(self.lengths)

    @property
    def end(self) -> int:
        """Positions that the pass reads or writes at most."""
        return max(self.starts) + self.width

    @property
    def uniform(self) -> bool:
        """Whether all rows hold equally much and read equally much: nothing is padded or masked."""
        return len(set(self.starts)) == 1 and len(set(self.lengths)) == 1

    @property
    def first_row(self) -> int | None:
        """The first row when they follow one another, so that a slice holds them."""
        first = self.rows[0]
        return first if self.rows[-1] - first + 1 == len(self.rows) else None

    def positions(self) -> list[list[int]]:
        """BT: the position in its text of each query; a padded one takes its row's first new one."""
        return [
            [start] * (self.width - length) + list(range(start, start + length))
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]

    def places(self) -> list[list[int]]:
        """BT: where in its row each query's key and value are written."""
        return [
            list(range(start + length, start + self.width)) + list(range(start, start + length))
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]


class RowLayer:
    """One layer's keys and values. It has what transformers asks of a cache layer (`CacheLayerMixin`)."""

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
        """Write the new keys and values ``[B, heads, T, dim]`` and return all that the queries may see."""
        self._make_room(keys, values)
        return self._write(self.keys, keys), self._write(self.values, values)

    def get_seq_length(self) -> int:
        """Tokens that are cached already. Meaningful in uniform passes only."""
        return self.pool.now.starts[0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many positions `update` returns, and which is the first."""
        return self.pool.now.starts[0] + query_length - self.first, self.first

    def get_max_length(self) -> int:
        return -1

    @property
    def first(self) -> int:
        """The first position that a query of this pass can see."""
        return 0 if self.window is None else max(0, min(self.pool.now.starts) - self.window + 1)

    @property
    def batch_size(self) -> int:
        return len(self.pool.now.rows)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy a row's first ``length`` positions to another row; make that row when it is not there yet."""
        if not (self.is_initialized and length):
            return
        if target >= self.keys.shape[0]:
            self._make_room(self.keys, self.values)
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def swap_rows(self, first: int, second: int, lengths: tuple[int, int]) -> None:
        """Let two rows change places; ``lengths`` are how many positions each holds."""
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
        """Grow to the pool's size; the arguments show the heads, the dimensions, the dtype and the device."""
        rows, capacity = self.pool.rows, self.pool.capacity
        if self.is_initialized and self.keys.shape[0] >= rows and self.keys.shape[2] >= capacity:
            return
        # Zeros, not just any memory: a masked NaN would still spoil the sum.
        grown = [new.new_zeros((rows, new.shape[1], capacity, new.shape[3])) for new in (keys, values)]
        if self.is_initialized:
            for store, old in zip(grown, (self.keys, self.values), strict=True):
                store[: old.shape[0], :, : old.shape[2]] = old
        self.keys, self.values = grown
        self.is_initialized = True


class RowPool:
    """Rows for slots, and the layers that hold them."""

    def __init__(
        self,
        windows: Sequence[int | None],
        slots: int,
        context: int,
        integers: Callable[[Sequence[Sequence[int]], Any], Tensor],
    ) -> None:
        """Make an empty pool of at most ``slots`` rows.

        ``windows`` has the length of each layer's sliding window, ``None`` for full attention; ``integers`` makes a
        tensor of integers on a device.
        """
        self.layers = [RowLayer(self, window) for window in windows]
        self.slots = slots
        self.context = context
        self.rows = 0
        self.capacity = 0
        self.lengths: list[int] = []
        """By row, of the rows in use."""
        self.now = Pass((0,), (0,), (1,))
        self._integers = integers
        self._index: dict[Any, tuple[Tensor, Tensor]] = {}

    def begin(self, step: Pass) -> None:
        """Say what the next forward pass reads, and plan room for it."""
        self.now = step
        self._index.clear()
        self._plan_rows(len(self.lengths))
        if step.end > self.capacity:
            # A padded query may write beyond the context, so the limit is not the context itself.
            self.capacity = max(step.end, min(2 * self.capacity, self.context), MIN_CAPACITY)

    def index(self, device: Any) -> tuple[Tensor, Tensor]:
        """The current pass's rows (B1) and places (BT) on a device, made once."""
        if device not in self._index:
            numbers = [[row] for row in self.now.rows], self.now.places()
            rows_B1, places_BT = (self._integers(each, device) for each in numbers)
            self._index[device] = rows_B1, places_BT
        return self._index[device]

    def add(self, copy_of: int | None = None) -> None:
        """Take the next row: an empty one, or a copy of another."""
        row, length = len(self.lengths), 0
        if copy_of is not None:
            length = self.lengths[copy_of]
            self._plan_rows(row + 1)
            for layer in self.layers:
                layer.copy_row(copy_of, row, length)
        self.lengths.append(length)

    def drop(self, row: int) -> None:
        """Give a row back. The last row moves into its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.layers:
                layer.copy_row(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def swap(self, first: int, second: int) -> None:
        """Let two rows in use change places."""
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


def plan_passes(lengths: Sequence[int], slack: int) -> list[list[int]]:
    """Group feeds of these lengths into passes, so that padding costs less than another pass would.

    Returns lists of indices into ``lengths``, the longest first. Feeds of one length are in one list, and a pass has at
    most ``slack`` padded tokens.
    """
    groups: list[list[int]] = []
    waste = 0
    for length, alike in itertools.groupby(sorted(range(len(lengths)), key=lambda i: -lengths[i]), lengths.__getitem__):
        feeds = list(alike)
        padding = len(feeds) * (lengths[groups[-1][0]] - length) if groups else 0
        if groups and waste + padding <= slack:
            groups[-1] += feeds
            waste += padding
        else:
            groups.append(feeds)
            waste = 0
    return groups
