"""A member as it speaks of bytes: its pieces as a trie, and its rows folded in the trie's order."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Array
from unisono.config.sampling import Sampling
from unisono.config.without_union import refusal
from unisono.engine.member import Member
from unisono.engine.token_boundary import is_inside_character, unfinished
from unisono.errors import ModelError, PromptError
from unisono.fusion.byte_beam import Hypothesis, Told
from unisono.fusion.fold import FoldPlan, Scratch, bring, fold, plan_fold
from unisono.fusion.logits_processors import shape
from unisono.vocab.byte_trie import ByteTrie, Node, Spell
from unisono.vocab.marks import Mark
from unisono.vocab.union import Indices, without_space

_HOST = np.empty(0, np.float32)

Place = tuple[ByteTrie, Node]
"""Where the bytes behind some whole pieces lead."""


class ByteMember:
    """A member's pieces, marks and END in the order of bytes, also where an answer begins. Made once a member."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.marks = member.map.marks
        """The classes behind the pieces, before END."""
        self.missing = frozenset(
            byte for byte in member.speller.vocabulary.missing_bytes if member.speller.spell(bytes([byte])) is None
        )
        """The bytes that it cannot spell by themselves."""
        self._scratch = Scratch()
        self._plans: dict[bool, tuple[ByteTrie, FoldPlan]] = {}
        """Whether an answer begins, and what its rows are then folded by."""

    def spelled(self, piece: bytes, *, opening: bool) -> tuple[int, ...]:
        """The ids as which the member reads some bytes. Raises a `PromptError` where it cannot spell them."""
        if self.member.speller.spell(piece) is None:
            raise self._unspelled(piece)
        return self.member.spell_text(piece, first=opening)

    def spelled_mark(self, mark: Mark, *, opening: bool) -> tuple[int, ...]:
        """The ids as which the member reads a mark; none where it reads nothing."""
        column = len(self.member.map.id_U) - len(self.marks) - 1 + self.marks.index(mark)
        return self.member.spell(column, b"", first=opening)

    def told(self, logits_V: Array, *, opening: bool, draw: Sampling | None) -> Hypothesis:
        """A hypothesis at a cut, and what follows it; ``draw`` reshapes that.

        Raises a `ModelError` for what is no number.
        """
        trie, plan = self._placed(logits_V, opening=opening)
        p_C = np.array(bring(fold(logits_V[None], plan, self._scratch)[0], _HOST))
        self._scratch.reset()
        if not math.isfinite(float(p_C.max())):
            raise ModelError(
                f"member {self.member.name!r} gave probabilities that are not numbers",
                hint="its weights are damaged, or its dtype overflows: try dtype: float32 or bfloat16",
            )
        shaped_C = p_C if draw is None else shape(p_C[None], [draw], [{}], [{}])[0]
        return Hypothesis(1.0, Told(shaped_C, trie, trie.root, p_C))

    def root(self, *, opening: bool) -> Place:
        """Where nothing stands behind the whole pieces."""
        trie, _ = self._opening if opening else self._inside
        return trie, trie.root

    def onward(self, places: Iterable[Place], byte: int) -> set[Place]:
        """Where all the ways of cutting some bytes lead with one byte more."""
        found: set[Place] = set()
        for trie, before in places:
            node = trie.child(before, byte)
            if node is not None:
                found |= {(trie, node)} if len(node.byte_K) else set()
                found |= {self.root(opening=False)} if node.is_piece else set()
        return found

    def can_cut_anew(self, rest: bytes) -> bool:
        """Whether the bytes behind whole pieces can be spelled as they stand."""
        return not rest or self.member.speller.spell(rest) is not None

    def cut(self, data: bytes, *, opening: bool) -> tuple[tuple[int, ...], bytes]:
        """The ids into which its tokenizer cuts some bytes, and the bytes at their end that begin one more piece.

        There are such bytes only where the vocabulary cannot spell all. Raises a `PromptError` where it cannot go on.
        """
        for end in range(len(data), -1, -1):
            ids = self.own_cut(data[:end], opening=opening)
            trie, node = self.root(opening=opening and not end)
            if ids is not None and (end == len(data) or trie.descend(node, data[end:]) is not None):
                return ids, data[end:]
            if not self.missing:
                break
        raise self._unspelled(data)

    def own_cut(self, data: bytes, *, opening: bool = False) -> tuple[int, ...] | None:
        """The ids into which its tokenizer cuts some bytes; ``None`` where it cannot spell them as they stand."""
        if not data:
            return ()
        if opening and data != b" ":
            return self.own_cut(b" " + data, opening=False)
        speller = self.member.speller
        if (token := speller.vocabulary.canonical.get(data)) is not None:
            return (token,)
        start = next((place for place, byte in enumerate(data) if not is_inside_character(byte)), len(data))
        end = max(start, len(data) - unfinished(data))
        if start < end and (whole := speller.own_encoding(data[start:end])) is not None:
            sides = [speller.longest_match(side) for side in (data[:start], data[end:])]
            if sides[0] is not None and sides[1] is not None:
                return sides[0] + whole + sides[1]
        return speller.longest_match(data)

    def _unspelled(self, data: bytes) -> PromptError:
        return PromptError(
            f"member {self.member.name!r} cannot spell {data!r}",
            hint="`unisono doctor` lists the bytes that are missing; leave the member out, or the characters",
        )

    def _placed(self, logits_V: Array, *, opening: bool) -> tuple[ByteTrie, FoldPlan]:
        """The plan with its indices where the member's logits lie: these never change their place."""
        if (found := self._plans.get(opening)) is None:
            trie, plan = self._opening if opening else self._inside
            found = self._plans[opening] = trie, plan.to_device_of(logits_V)
        return found

    @functools.cached_property
    def _inside(self) -> tuple[ByteTrie, FoldPlan]:
        its = self.member
        return self._planned(its.speller.vocabulary.pieces, its.map.column_V, lambda piece: its.spell_text(piece))

    @functools.cached_property
    def _opening(self) -> tuple[ByteTrie, FoldPlan]:
        """The same where an answer begins: a space that its first piece carries is no part of the text."""
        its = self.member
        column_V = its.map.first_column_V
        if column_V is None:
            return self._inside
        pieces = [None if piece is None else without_space(piece) for piece in its.speller.vocabulary.pieces]
        return self._planned(pieces, column_V, lambda piece: its.spell_text(piece, first=True))

    def _planned(self, piece_V: Sequence[bytes | None], column_V: Indices, spell: Spell) -> tuple[ByteTrie, FoldPlan]:
        trie = ByteTrie(piece_V, spell)
        own_V: NDArray[np.int32] = trie.number_V.copy()
        classes = len(self.marks) + 1
        texts = len(self.member.map.id_U) - classes
        others = column_V >= texts
        own_V[others] = len(trie) + column_V[others] - texts
        return trie, plan_fold(own_V, len(trie) + classes, classes, self.member.temperature)


def check_members(members: Sequence[Member]) -> None:
    """Raise a `SpecError` for a member that has something which is said of a union's pieces alone."""
    for member in members:
        if member.calibration is not None:
            raise refusal(
                f"the calibration of member {member.name!r}",
                "it is one of a union's pieces",
                "leave the calibration out",
            )
        if member.has_own_openings or member.ends_reasoning:
            raise refusal(
                f"member {member.name!r}, whose answers begin or reason in a form of its own,",
                "what its tokens mean there is told for a union alone",
                "leave the member out",
            )
