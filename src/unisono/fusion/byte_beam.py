"""A member's distribution over bytes, as the sum over the cuts of a text that a beam holds (docs/adr/0028).

Exact sums: Phan et al., arXiv 2410.09303. Beams over a trie of tokens: Vieira et al., arXiv 2412.03719.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.vocab.byte_trie import BYTES, ByteTrie, Node, byte_masses

Floats = NDArray[np.floating]
FAR = 256
"""Bytes that are looked ahead, at most: few pieces are longer."""


class Told(NamedTuple):
    """What follows the whole pieces of a hypothesis, and how far the bytes behind them lead."""

    p_C: Floats
    """The masses of pieces by number, of marks, and of END."""
    trie: ByteTrie
    """It numbers the pieces."""
    node: Node
    """Where the bytes behind the whole pieces lead."""
    own_C: Floats
    """The masses before anything reshaped them, which gates read; at a cut ``p_C`` itself where nothing does."""

    @property
    def longer(self) -> slice:
        """What can be completed: pieces that go on from the node; at the root also marks and END."""
        return slice(0, len(self.p_C)) if self.node.is_root else self.node.longer


Ahead = Callable[[Told], float]
"""How much of the mass behind a hypothesis within a piece a text may need, by what is known of what comes next."""


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """One way of cutting a text: whole pieces, and some bytes behind them that begin the next one."""

    weight: float
    """The probability of the whole pieces, on a scale that hypotheses of one text share."""
    heard: Told | None = None
    """``None`` until the model has been asked."""

    @property
    def told(self) -> Told:
        if self.heard is None:
            raise AssertionError("a hypothesis is asked what follows before the model was")
        return self.heard

    @property
    def is_at_cut(self) -> bool:
        """Whether no bytes stand behind the whole pieces."""
        return self.heard is None or self.heard.node.is_root

    @property
    def mass(self) -> float:
        """What it adds to the probability of the text."""
        if self.heard is None or self.heard.node.is_root:
            return self.weight
        return self.weight * float(np.sum(self.heard.p_C[self.heard.longer], dtype=np.float64))

    def scaled(self, factor: float) -> Hypothesis:
        return replace(self, weight=self.weight * factor)

    @property
    def rest(self) -> bytes:
        """The bytes behind the whole pieces."""
        if self.heard is None:
            return b""
        node = self.heard.node
        return self.heard.trie.pieces[node.low][: node.depth]


@dataclass(frozen=True, slots=True, eq=False)
class Successor:
    """A hypothesis of a text that is one byte longer."""

    parent: int
    hypothesis: Hypothesis
    completed: int | None
    """The piece that the byte completes; ``None`` where the cut is as it was."""


def next_symbols(hypotheses: Sequence[Hypothesis]) -> NDArray[np.float64]:
    """The distribution over 256 bytes, marks and END that follows."""
    first = hypotheses[0].told
    q_C = np.zeros(BYTES + len(first.p_C) - len(first.trie))
    for each in hypotheses:
        p_C, trie, node, _ = each.told
        q_C[:BYTES] += each.weight * byte_masses(p_C, node)
        if node.is_root:
            q_C[BYTES:] += each.weight * p_C[len(trie) :]
    total = float(q_C.sum())
    return q_C / total if total > 0 else q_C


def next_cut(hypothesis: Hypothesis, *, ends: bool = True) -> int | None:
    """The likeliest piece that a hypothesis can complete, or mark, or END (if it may end), by its place in ``p_C``.

    On a tie it is the piece of the lowest id, then marks, then END. ``None`` where none has any mass.
    """
    p_C, trie, node, _ = hypothesis.told
    inside = hypothesis.told.longer
    inside_C = p_C[inside] if ends or not node.is_root else p_C[:-1]
    highest = inside_C.max(initial=0)
    if not highest > 0:
        return None
    places = np.flatnonzero(inside_C == highest) + inside.start
    if len(places) == 1 or places[0] >= len(trie):
        return int(places[0])
    return int(min(places[places < len(trie)], key=trie.first_N.__getitem__))


def extended(hypotheses: Sequence[Hypothesis], byte: int) -> list[Successor]:
    """All hypotheses of the text with one byte more: those whose piece it completes, and those that go on."""
    found: list[Successor] = []
    for parent, each in enumerate(hypotheses):
        p_C, trie, before, own_C = each.told
        node = trie.child(before, byte)
        if node is None:
            continue
        if node.is_piece:
            found.append(Successor(parent, Hypothesis(each.weight * float(p_C[node.low])), node.low))
        if len(node.byte_K):
            found.append(Successor(parent, Hypothesis(each.weight, Told(p_C, trie, node, own_C)), None))
    return found


def pruned(
    successors: Sequence[Successor], beam: int, least: float, ahead: Ahead | None = None, *, on_top: bool = False
) -> list[Successor]:
    """The ``beam`` heaviest hypotheses, without those below the share ``least``, the heaviest first; scaled to sum 1.

    Of equal masses the earlier one is kept. None is left where all have mass 0. Where something is known of what comes
    next (``ahead``), lighter ones are kept without which that would lack its mass, in the places of those that give it
    least or, as many, ``on_top``: `` cover`` goes on with a space, however much likelier `` covers`` was.
    """
    mass_H = np.asarray([each.hypothesis.mass for each in successors])
    total = float(mass_H.sum()) if len(mass_H) else 0.0
    if not total > 0:
        return []
    order = np.argsort(-mass_H, kind="stable")[:beam]
    kept = [int(place) for place in order if mass_H[place] > 0 and mass_H[place] >= least * total]
    if ahead is not None and len(kept) < len(successors):
        may_H, known = _may_give(successors, kept, ahead)
        needed = [place for place in np.argsort(-may_H, kind="stable").tolist() if place not in kept]
        needed = [place for place in needed if may_H[place] > 0 and may_H[place] >= least * known][:beam]
        if on_top:
            kept += needed
        elif needed:
            best = sorted([*kept, *needed], key=lambda place: -may_H[place])[:beam]
            kept = sorted(best, key=lambda place: -mass_H[place])
    scale = 1 / float(mass_H[kept].sum())
    return [replace(successors[place], hypothesis=successors[place].hypothesis.scaled(scale)) for place in kept]


def ahead_of_text(rest: bytes) -> Ahead:
    """For a text that is given: the pieces that it goes on with, and longer ones where it ends in one."""

    def needed(told: Told) -> float:
        node, mass = told.node, 0.0
        for byte in rest[:FAR]:
            child = told.trie.child(node, byte)
            if child is None:
                return mass
            node = child
            mass += float(told.p_C[node.low]) if node.is_piece else 0.0
        return mass + float(np.sum(told.p_C[node.longer], dtype=np.float64))

    return needed


def ahead_of_bytes(allowed: Callable[[], NDArray[np.bool_]]) -> Ahead:
    """For a text whose next byte has to be one of some, which are asked for where that is needed."""
    once = functools.cache(allowed)
    return lambda told: float(byte_masses(told.p_C, told.node)[once()[:BYTES]].sum())


def _may_give(successors: Sequence[Successor], kept: Sequence[int], ahead: Ahead) -> tuple[NDArray[np.float64], float]:
    """How much each may give to what comes next, and what those within pieces give it together, which is known.

    One at a cut may give it all that it weighs, as it can go on with any byte. Of those that are not kept, only the
    heaviest counts, and only where no other is.
    """
    may_H = np.zeros(len(successors))
    cuts = [place for place, each in enumerate(successors) if each.hypothesis.is_at_cut]
    for place in set(range(len(successors))) - set(cuts):
        its = successors[place].hypothesis
        may_H[place] = its.weight * ahead(its.told)
    known = float(may_H.sum())
    weight = {place: successors[place].hypothesis.weight for place in cuts}
    for place in [place for place in cuts if place in kept] or sorted(cuts, key=lambda place: -weight[place])[:1]:
        may_H[place] = weight[place]
    return may_H, known
