"""A member's pieces as a trie over bytes: sorted by their bytes, each node is a range of them (docs/adr/0028)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from unisono.vocab.union import ABSENT, Indices

BYTES = 256
Spell = Callable[[bytes], tuple[int, ...]]


class Node:
    """The pieces that begin alike: numbers ``low`` to ``high - 1`` of those that are sorted."""

    __slots__ = ("_children", "byte_K", "depth", "high", "is_piece", "low", "start_K")

    def __init__(self, low: int, high: int, depth: int, *, is_piece: bool, byte_K: Indices, start_K: Indices) -> None:
        self.low = low
        self.high = high
        self.depth = depth
        """How many bytes its pieces have in common; 0 for the root."""
        self.is_piece = is_piece
        """Whether these bytes are a piece themselves, the one numbered ``low``."""
        self.byte_K = byte_K
        """The bytes that may follow, ascending."""
        self.start_K = start_K
        """The first piece of each."""
        self._children: dict[int, Node | None] = {}

    @property
    def longer(self) -> slice:
        """The pieces that are longer than what they have in common."""
        return slice(self.low + self.is_piece, self.high)

    @property
    def is_root(self) -> bool:
        return self.depth == 0


class ByteTrie:
    """The pieces of one vocabulary in the order of their bytes, each once."""

    def __init__(self, piece_V: Sequence[bytes | None], spell: Spell) -> None:
        """Sort the pieces of ids; ``None`` stands for an id that is none. ``spell`` gives the ids to read one as."""
        self.pieces = tuple(sorted({piece for piece in piece_V if piece}))
        """By number."""
        number = {piece: place for place, piece in enumerate(self.pieces)}
        self.number_V = np.fromiter((number.get(piece or b"", ABSENT) for piece in piece_V), np.int32, len(piece_V))
        """The number of the piece of each id; `ABSENT` where it is none."""
        self.first_N = np.full(len(self.pieces), len(piece_V), np.int64)
        """The lowest id of each piece: of pieces that are as likely, the one of the lowest comes first."""
        ids = np.flatnonzero(self.number_V >= 0)
        np.minimum.at(self.first_N, self.number_V[ids], ids)
        self._spell = spell
        self._length_N = np.fromiter(map(len, self.pieces), np.int64, len(self.pieces))
        self._offset_N = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._length_N)])[:-1]
        self._data = np.frombuffer(b"".join(self.pieces), np.uint8)
        self.root = self._node(0, len(self.pieces), 0)

    def __len__(self) -> int:
        return len(self.pieces)

    def ids(self, number: int) -> tuple[int, ...]:
        """The ids as which the member reads a piece."""
        return self._spell(self.pieces[number])

    def child(self, node: Node, byte: int) -> Node | None:
        """The pieces of a node that go on with a byte; ``None`` where none does."""
        if byte not in node._children:
            place = int(np.searchsorted(node.byte_K, byte))
            found = None
            if place < len(node.byte_K) and node.byte_K[place] == byte:
                last = place + 1 == len(node.byte_K)
                high = node.high if last else int(node.start_K[place + 1])
                found = self._node(int(node.start_K[place]), high, node.depth + 1)
            node._children[byte] = found
        return node._children[byte]

    def descend(self, node: Node, data: bytes) -> Node | None:
        """The pieces of a node that go on with some bytes; ``None`` where none does."""
        reached: Node | None = node
        for byte in data:
            reached = None if reached is None else self.child(reached, byte)
        return reached

    def _node(self, low: int, high: int, depth: int) -> Node:
        is_piece = bool(depth and self._length_N[low] == depth)
        first = low + is_piece
        byte_N = self._data[self._offset_N[first:high] + depth]
        start_K = np.flatnonzero(np.diff(byte_N.astype(np.int32), prepend=-1))
        byte_K = byte_N[start_K].astype(np.int32)
        return Node(low, high, depth, is_piece=is_piece, byte_K=byte_K, start_K=(start_K + first).astype(np.int32))


def byte_masses(p_N: NDArray[np.floating], node: Node) -> NDArray[np.float64]:
    """The mass of the pieces of a node by the byte that they go on with: 256 sums, of positive numbers alone.

    ``p_N`` begins with the masses of all pieces, by number.
    """
    mass_256 = np.zeros(BYTES)
    if len(node.byte_K):
        inside_N = p_N[node.longer]
        mass_256[node.byte_K] = np.add.reduceat(inside_N, node.start_K - node.longer.start, dtype=np.float64)
    return mass_256
