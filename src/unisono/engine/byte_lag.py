"""What was written in bytes without a member, and whether it will be able to read it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisono.engine.byte_member import ByteMember, Place
from unisono.fusion.byte_beam import Hypothesis
from unisono.vocab.byte_trie import BYTES


class ByteLag:
    """The bytes behind a hypothesis that its member has not cut yet.

    Of a member that cannot spell every byte, all ways of cutting them are followed: what it can spell is a character of
    which it has no bytes.
    """

    def __init__(self, its: ByteMember, hypothesis: Hypothesis, *, opening: bool) -> None:
        """Nothing is missed yet."""
        self.data = b""
        self._its = its
        self._places = self._places_behind(hypothesis, opening=opening) if its.missing else set[Place]()

    def add(self, data: bytes) -> None:
        self._places = self._onward(data)
        self.data += data

    def can_read(self, data: bytes) -> bool:
        """Whether the member can spell some more bytes."""
        return not self._its.missing or bool(self._onward(data))

    def feasible(self) -> NDArray[np.bool_]:
        """The bytes that it can read next; it is a member that cannot spell every one."""
        feasible_C = np.zeros(BYTES, np.bool_)
        for _, node in self._places:
            feasible_C[node.byte_K] = True
        return feasible_C

    def _onward(self, data: bytes) -> set[Place]:
        places = self._places
        for byte in data if self._its.missing else b"":
            places = self._its.onward(places, byte)
        return places

    def _places_behind(self, hypothesis: Hypothesis, *, opening: bool) -> set[Place]:
        if hypothesis.heard is None:
            return {self._its.root(opening=opening)}
        told, rest = hypothesis.told, hypothesis.rest
        anew = {self._its.root(opening=False)} if rest and self._its.can_cut_anew(rest) else set()
        return {(told.trie, told.node)} | anew
