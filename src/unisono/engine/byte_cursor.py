"""One text as one member has it in bytes: a beam of its cuts, each with a slot of the model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Array
from unisono.config.sampling import Sampling
from unisono.engine.byte_lag import ByteLag
from unisono.engine.byte_member import ByteMember
from unisono.engine.cursor import Cursor
from unisono.engine.member import Member
from unisono.fusion.byte_beam import Ahead, Hypothesis, extended, next_cut, next_symbols, pruned
from unisono.vocab.byte_trie import BYTES

log = logging.getLogger(__name__)

REAL_MASS = 0.1  # of hypotheses that are dropped for want of room: from so much on it is said
Following = bytes | int
"""What a cut writes: bytes, or a mark or END by its place among the classes."""


@dataclass(slots=True, eq=False)
class BytePath:
    """A hypothesis, and the cursor of its whole pieces."""

    cursor: Cursor
    hypothesis: Hypothesis
    opening: bool = False
    """Whether an answer begins behind it, which the member writes in its own way."""

    @property
    def is_unread(self) -> bool:
        """Whether the model has still to be asked what follows."""
        return self.hypothesis.heard is None


class Cut(NamedTuple):
    """What a member would write next."""

    following: Following
    place: int
    """The piece, mark or END among what the member can write."""
    p: float
    """Its probability, of all hypotheses' mass."""

    @property
    def first_symbol(self) -> int:
        return self.following[0] if isinstance(self.following, bytes) else BYTES + self.following


class ByteCursor:
    """The hypotheses of one text, the heaviest first. Their masses sum to 1."""

    def __init__(
        self, its: ByteMember, cursor: Cursor, beam: int, least: float, *, opening: bool, draw: Sampling | None
    ) -> None:
        """Begin with one hypothesis: the prompt as the member's tokenizer cuts it. ``draw`` reshapes what it says."""
        self.its = its
        self.paths = [BytePath(cursor, Hypothesis(1.0), opening)]
        self.beam, self.least, self._draw = beam, least, draw
        self._lag: ByteLag | None = None
        """What was written without it."""
        self.behind = b""
        """Of what it missed, the bytes that begin a piece behind the whole ones, until the model has been asked."""

    @property
    def member(self) -> Member:
        return self.its.member

    @property
    def main(self) -> Cursor:
        """That of the heaviest hypothesis."""
        return self.paths[0].cursor

    @property
    def is_at_cut(self) -> bool:
        """Whether the heaviest hypothesis has no bytes behind its whole pieces."""
        return self.paths[0].hypothesis.is_at_cut

    def unread(self) -> list[BytePath]:
        return [path for path in self.paths if path.is_unread]

    def read(self, path: BytePath, logits_V: Array) -> None:
        """Note what follows a hypothesis."""
        self.hear(path, self.told(logits_V, opening=path.opening))

    def hear(self, path: BytePath, told: Hypothesis) -> None:
        """The same, from a hypothesis of the same ids."""
        path.hypothesis = Hypothesis(path.hypothesis.weight, told.heard)
        if self.behind:
            node = told.told.trie.descend(told.told.node, self.behind)
            assert node is not None, "the bytes were seen to begin a piece"
            self.behind = b""
            path.hypothesis = Hypothesis(1.0, told.told._replace(node=node))

    def told(self, logits_V: Array, *, opening: bool) -> Hypothesis:
        """A hypothesis at a cut, and what follows it."""
        return self.its.told(logits_V, opening=opening, draw=self._draw)

    def next_symbols(self) -> NDArray[np.float64]:
        """The member's distribution over 256 bytes, marks and END."""
        return next_symbols([path.hypothesis for path in self.paths])

    def own_next(self) -> NDArray[np.floating]:
        """What the heaviest hypothesis, at a cut, gives pieces, marks and END, before options reshape it."""
        return self.paths[0].hypothesis.told.own_C

    def next_cut(self, *, ends: bool = True) -> Cut | None:
        """What the heaviest hypothesis would write up to its next cut; ``None`` where it gives nothing any mass."""
        heaviest = self.paths[0].hypothesis
        place = next_cut(heaviest, ends=ends)
        if place is None:
            return None
        p_C, trie, node, _ = heaviest.told
        following = place - len(trie) if place >= len(trie) else trie.pieces[place][node.depth :]
        return Cut(following, place, heaviest.weight * float(p_C[place]))

    def cuts(self, count: int) -> list[tuple[Following, float]]:
        """The likeliest that the heaviest hypothesis would write up to its next cut, for a trace."""
        heaviest = self.paths[0].hypothesis
        p_C, trie, node, _ = heaviest.told
        inside = heaviest.told.longer
        inside_C = p_C[inside]
        some = np.argpartition(-inside_C, count)[:count] if len(inside_C) > count else np.arange(len(inside_C))
        ranked = [int(place) + inside.start for place in sorted(some, key=lambda place: -inside_C[place])]
        return [
            (place - len(trie) if place >= len(trie) else trie.pieces[place][node.depth :], heaviest.weight * p)
            for place in ranked
            if (p := float(p_C[place])) > 0
        ]

    def take_cut(self, cut: Cut) -> None:
        """Go on behind a cut that was chosen, which is a piece: no other hypothesis is left."""
        path = self._keep_heaviest()
        self._go_on(path, path.hypothesis.told.trie.ids(cut.place))

    def take_byte(self, byte: int, ahead: Ahead | None = None, *, on_top: bool = False) -> None:
        """Go on behind one more byte; for ``ahead`` and ``on_top`` see `pruned`."""
        found = extended([path.hypothesis for path in self.paths], byte)
        kept = pruned(found, self.beam, self.least, ahead, on_top=on_top)
        if not kept:
            self._go_on_without_mass(byte)
            return
        parents = {each.parent for each in kept}
        staying = {each.parent for each in kept if each.completed is None}
        before = self.paths
        self.paths = [path for number, path in enumerate(before) if number in parents]
        self._close([path for number, path in enumerate(before) if number not in parents])
        paths: list[BytePath] = []
        with contextlib.ExitStack() as undoing:
            for each in kept:
                parent = before[each.parent]
                if each.completed is None:
                    paths.append(BytePath(parent.cursor, each.hypothesis, parent.opening))
                    continue
                ids = parent.hypothesis.told.trie.ids(each.completed)
                cursor = parent.cursor
                if each.parent in staying:
                    cursor = self.member.copy(cursor)
                    undoing.callback(self.member.close, cursor, for_good=True)
                paths.append(BytePath(cursor, each.hypothesis))
                cursor.ids += ids
            undoing.pop_all()
        self.paths = paths

    def miss(self, data: bytes) -> None:
        """Note what was written without it: it reads that as its tokenizer cuts it, when it is next asked."""
        if self._lag is None:
            self.close_others()
            self._lag = self._behind_heaviest()
        self._lag.add(data)

    def catch_up(self) -> None:
        """Go on behind what it missed, with one hypothesis."""
        if self._lag is not None:
            path, missed = self._keep_heaviest(), self._lag.data
            ids, behind = self.its.cut(path.hypothesis.rest + missed, opening=path.opening)
            self._go_on(path, ids, opening=path.opening and not ids)
            self._lag, self.behind = None, behind

    def can_read(self, data: bytes) -> bool:
        """Whether it can spell some bytes that are written without it."""
        return (self._lag or self._behind_heaviest()).can_read(data)

    def feasible(self, *, later: bool = False) -> NDArray[np.bool_] | None:
        """The bytes that the member can read next; ``None`` for all. It may read them ``later``, when it is asked."""
        missing = self.its.missing
        if not missing or later:
            return (self._lag or self._behind_heaviest()).feasible() if missing else None
        feasible_C = np.zeros(BYTES, np.bool_)
        if self.its.can_cut_anew(self.paths[0].hypothesis.rest):
            feasible_C[:] = True
            feasible_C[list(missing)] = False
        for path in self.paths:
            feasible_C[path.hypothesis.told.node.byte_K] = True
        return feasible_C

    def _behind_heaviest(self) -> ByteLag:
        return ByteLag(self.its, self.paths[0].hypothesis, opening=self.paths[0].opening)

    def drop_full(self) -> None:
        """Drop hypotheses that the member's context cannot hold, as long as others are left."""
        left = [path for path in self.paths if not self._is_full(path)]
        if not left or len(left) == len(self.paths):
            return
        mass = sum(path.hypothesis.mass for path in left) / sum(path.hypothesis.mass for path in self.paths)
        if 1 - mass >= REAL_MASS:
            what = "ways of cutting the text that fill its context"
            log.warning("member %r: %.0f%% of its mass is dropped: %s", self.member.name, 100 * (1 - mass), what)
        self._close([path for path in self.paths if self._is_full(path)])
        self.paths = left
        for path in left:
            path.hypothesis = path.hypothesis.scaled(1 / mass)

    @property
    def is_full(self) -> bool:
        """Whether the member cannot be asked any more: its context holds none of its hypotheses."""
        return all(map(self._is_full, self.paths))

    def _is_full(self, path: BytePath) -> bool:
        return path.is_unread and self.member.is_full(path.cursor)

    def take_mark(self, place: int) -> None:
        """Go on behind a mark, by its place among the classes. No piece lies across it."""
        self.catch_up()
        mark = self.its.marks[place]
        at_cut = [path for path in self.paths if path.hypothesis.is_at_cut] or self.paths[:1]
        weights = [path.hypothesis.weight * self._p_of_class(path, place) for path in at_cut]
        if not sum(weights):
            weights = [path.hypothesis.weight for path in at_cut]
        self._close([path for path in self.paths if path not in at_cut])
        self.paths = at_cut
        for path, weight in zip(at_cut, weights, strict=True):
            rest = path.hypothesis.rest + self.behind
            spelled = self.its.spelled(rest, opening=path.opening) if rest else ()
            ids = (*spelled, *self.its.spelled_mark(mark, opening=path.opening))
            opening = self.member.opens_behind(mark, opening=path.opening and not rest)
            self._go_on(path, ids, weight / sum(weights), opening=opening)
            if not ids:  # a mark that it does not read: it is asked once more
                self.member.restore(path.cursor)
        self.behind = b""
        self.paths.sort(key=lambda path: -path.hypothesis.weight)

    def restore(self) -> None:
        """Forget what a failed pass has left."""
        for path in self.unread():
            self.member.restore(path.cursor)

    def close_others(self) -> None:
        """Give back all slots but that of the heaviest hypothesis."""
        others, self.paths = self.paths[1:], self.paths[:1]
        self._close(others)

    def _close(self, paths: Sequence[BytePath]) -> None:
        with contextlib.ExitStack() as closing:
            for path in paths:
                closing.callback(self.member.close, path.cursor, for_good=True)

    def _p_of_class(self, path: BytePath, place: int) -> float:
        if path.is_unread:
            return 1.0
        p_C, trie, _, _ = path.hypothesis.told
        return float(p_C[len(trie) + place])

    def _keep_heaviest(self) -> BytePath:
        self.close_others()
        return self.paths[0]

    def _go_on_without_mass(self, byte: int) -> None:
        """Cut the heaviest hypothesis anew, or keep one that goes on in a character that no shorter pieces spell."""
        rest = self.paths[0].hypothesis.rest + bytes([byte])
        for number, path in enumerate(() if self.its.can_cut_anew(rest) else self.paths):
            told = path.hypothesis.told
            if (node := told.trie.child(told.node, byte)) is not None and len(node.byte_K):
                self.paths.insert(0, self.paths.pop(number))
                self._keep_heaviest().hypothesis = Hypothesis(1.0, told._replace(node=node))
                return
        path = self._keep_heaviest()
        self._go_on(path, self.its.spelled(rest, opening=path.opening))

    def _go_on(self, path: BytePath, ids: Sequence[int], weight: float = 1.0, *, opening: bool = False) -> None:
        path.cursor.ids += ids
        path.hypothesis, path.opening = Hypothesis(weight), opening
