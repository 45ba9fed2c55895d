"""Bytes as written down: the sum over all cuts of a text, in float64, with nothing kept. It is the oracle of beams."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Feed, dense
from unisono.chat.messages import Prompt
from unisono.engine.byte_member import ByteMember
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.fusion.fold import bring
from unisono.fusion.sampling import Purpose, RandomNumbers, draw_from
from unisono.vocab.union import without_space

Symbols = NDArray[np.float64]
Way = tuple[bytes | int, float, tuple[int, ...]]
"""A piece, mark or END by its place among the classes; its probability; and the ids as which the member reads it."""


class PlainHypothesis(NamedTuple):
    """One way of cutting a text."""

    mass: float
    ids: tuple[int, ...]
    rest: bytes
    """What stands behind the whole pieces."""


class PlainBytes:
    """One member, whose rows are kept: the same are asked for again and again."""

    def __init__(self, member: Member, prompt: Sequence[int], *, opening: bool = False) -> None:
        """It has a free slot. ``opening`` tells that an answer begins behind the prompt, in a way of its own."""
        self._member = member
        self._prompt = tuple(prompt)
        self._opening = opening
        self._known: dict[tuple[int, ...], list[Way]] = {}

    def prefix(self, text: bytes, ids: tuple[int, ...] = ()) -> float:
        """The probability that what follows begins with a text: of all sequences whose last piece reaches its end."""
        if not text:
            return 1.0
        total = 0.0
        for piece, p, own in self._ways(ids):
            if isinstance(piece, bytes) and piece.startswith(text):
                total += p
            elif isinstance(piece, bytes) and text.startswith(piece):
                total += p * self.prefix(text[len(piece) :], (*ids, *own))
        return total

    def whole(self, text: bytes, place: int, ids: tuple[int, ...] = ()) -> float:
        """The probability of a text, and a mark or END behind it, by its place among the classes."""
        total = 0.0
        for piece, p, own in self._ways(ids):
            if isinstance(piece, int):
                total += p if piece == place and not text else 0.0
            elif text.startswith(piece):
                total += p * self.whole(text[len(piece) :], place, (*ids, *own))
        return total

    def heaviest(self, text: bytes) -> PlainHypothesis:
        """The way of cutting a text that adds most to its probability."""
        return max(self._hypotheses(text, (), 1.0), key=lambda each: each.mass)

    def following(self, cut: PlainHypothesis) -> list[Way]:
        """What can stand behind the whole pieces of a cut, and goes on with the rest of it."""
        rest = cut.rest
        return [
            way
            for way in self._ways(cut.ids)
            if not rest or (isinstance(way[0], bytes) and way[0].startswith(rest) and way[0] != rest)
        ]

    def _hypotheses(self, text: bytes, ids: tuple[int, ...], weight: float) -> Iterator[PlainHypothesis]:
        mass = sum(p for _, p, _ in self.following(PlainHypothesis(1.0, ids, text)))
        yield PlainHypothesis(weight * mass, ids, text)
        for piece, p, own in self._ways(ids) if text else ():
            if isinstance(piece, bytes) and text.startswith(piece):
                yield from self._hypotheses(text[len(piece) :], (*ids, *own), weight * p)

    def can_read(self, text: bytes, ids: tuple[int, ...] = ()) -> bool:
        """Whether what follows can begin with a text, likely or not."""
        return not text or any(
            piece.startswith(text) or (text.startswith(piece) and self.can_read(text[len(piece) :], (*ids, *own)))
            for piece, _, own in self._ways(ids)
            if isinstance(piece, bytes)
        )

    def next_symbols(self, text: bytes) -> Symbols:
        """The distribution over 256 bytes, marks and END behind a text."""
        q_C = self._following(text, ())
        return q_C / float(q_C.sum())

    def _following(self, text: bytes, ids: tuple[int, ...]) -> Symbols:
        """The probability of a text and each byte, mark or END behind it."""
        q_C = np.zeros(256 + len(self._member.map.marks) + 1)
        for piece, p, own in self._ways(ids):
            if isinstance(piece, int):
                q_C[256 + piece] += p * (not text)
            elif piece.startswith(text) and len(piece) > len(text):
                q_C[piece[len(text)]] += p
            elif text.startswith(piece):
                q_C += p * self._following(text[len(piece) :], (*ids, *own))
        return q_C

    def _ways(self, ids: tuple[int, ...]) -> list[Way]:
        if ids not in self._known:
            self._known[ids] = list(self._read(ids))
        return self._known[ids]

    def _read(self, ids: tuple[int, ...]) -> Iterator[Way]:
        member = self._member
        slot = member.backend.open()
        try:
            told = dense(member.backend.advance([Feed(slot, [*self._prompt, *ids])]))
            logits_V = bring(told[0], np.empty(0)).astype(np.float64) / member.temperature
        finally:
            member.backend.close(slot)
        first = self._opening and not ids
        column_V = member.map.first_column_V if first else member.map.column_V
        assert column_V is not None, "an answer begins in a way of the member's own"
        pieces, texts = member.speller.vocabulary.pieces, len(member.map.id_U) - len(member.map.marks) - 1
        ways: dict[bytes | int, float] = {}
        for token, piece in enumerate(pieces):
            if piece is not None:
                key: bytes | int = without_space(piece) if first else piece
            elif column_V[token] >= texts:
                key = int(column_V[token]) - texts
            else:
                continue
            ways[key] = ways.get(key, 0.0) + float(np.exp(logits_V[token] - logits_V.max()))
        total = sum(ways.values())
        for key, mass in ways.items():
            yield key, mass / total, member.spell_text(key, first=first) if isinstance(key, bytes) else ()


class PlainStep(NamedTuple):
    piece: bytes | None
    voted: tuple[str, ...]
    score: float | None
    """What the gate measured; ``None`` where none was read."""


def plain_steps(members: Sequence[Member], plan: Plan, prompt: Prompt, steps: int) -> Iterator[PlainStep]:
    """Write one text piece by piece, greedily or drawn, of members without marks.

    Of what a member finds impossible, all its bytes can be spelled by it alone.
    """
    texts = {member.name: _PlainText(member, prompt) for member in members}
    lead, position, voters, score = texts[plan.lead.name], 0, texts, None
    for count in range(steps):
        if plan.is_gated and not (cut := lead.cut).rest:
            p_U = np.array([[p for _, p, _ in lead.bytes.following(cut)]])
            [score] = plan.gate.score(p_U, [count])
            voters = texts if plan.gate.opens(score) else {plan.lead.name: lead}
        for text in voters.values():
            text.catch_up()
        piece, ends = b"", False
        while not (piece and not lead.cut.rest):
            feasible_C = _feasible(texts.values())
            if len(voters) < len(texts) and not lead.next_symbols[feasible_C].any():
                voters = texts
                for text in voters.values():
                    text.catch_up()
            following, position = _next(list(voters.values()), texts.values(), plan, position)
            ends = not following
            if ends:
                break
            piece += following
            for name, text in texts.items():
                text.take(following, asked=name in voters)
        if piece:
            yield PlainStep(piece, tuple(voters), score)
        if ends:
            yield PlainStep(None, tuple(voters), score)
            return


def _feasible(texts: Collection[_PlainText]) -> NDArray[np.bool_]:
    """The bytes that all can spell next, and END."""
    return np.array([all(text.can_read(bytes([byte])) for text in texts) for byte in range(256)] + [True])


def _next(voters: Sequence[_PlainText], texts: Collection[_PlainText], plan: Plan, position: int) -> tuple[bytes, int]:
    """What is written next, nothing for END; and the number of bytes before what follows it."""
    cuts = [text.next_cut for text in voters] if plan.is_greedy else []
    if cuts and all(cut == cuts[0] for cut in cuts) and all(text.can_read(cuts[0]) for text in texts):
        for text in voters:
            text.agrees()
        return cuts[0], position + len(cuts[0])
    feasible_C = _feasible(texts)
    q_KC = [(text.next_symbols * feasible_C)[None] for text in voters]
    q_KC = [q_C / q_C.sum() if q_C.any() else q_C for q_C in q_KC] if not feasible_C.all() else q_KC
    weights = [plan.weights[text.name] for text in voters]
    q_C = plan.combine(q_KC, weights, [[0.0]] * len(voters))[0] if len(voters) > 1 else q_KC[0][0]
    q_C = q_C if feasible_C.all() else q_C / q_C.sum()
    symbol = int(np.argmax(q_C))
    if not plan.is_greedy:
        symbol = draw_from(q_C, RandomNumbers(plan.draw.seed or 0, position, Purpose.PIECE))
    return (bytes([symbol]) if symbol < 256 else b""), position + 1


class _PlainText:
    """A text as one member has it: ids that are settled, and bytes behind them that may be cut in any way."""

    def __init__(self, member: Member, prompt: Prompt) -> None:
        self.name = member.name
        self.since, self._missed = b"", b""
        self._member = member
        self._opening = prompt.begins_answer and member.opens()
        self._settle(tuple(member.encoder.encode(prompt)))

    @property
    def cut(self) -> PlainHypothesis:
        return self.bytes.heaviest(self.since)

    @property
    def next_cut(self) -> bytes:
        """What it would write up to its next cut; nothing for END."""
        piece = self._likeliest[0]
        return piece[len(self.cut.rest) :] if isinstance(piece, bytes) else b""

    @property
    def next_symbols(self) -> Symbols:
        return self.bytes.next_symbols(self.since)

    def can_read(self, data: bytes) -> bool:
        return self.bytes.can_read(self.since + self._missed + data)

    def agrees(self) -> None:
        """Let the next cut be the only one; it is taken next."""
        if isinstance(self._likeliest[0], bytes):
            self._settle((*self._ids, *self.cut.ids, *self._likeliest[2]), opening=False)
            self._is_settled = True

    def take(self, data: bytes, *, asked: bool) -> None:
        if not asked:
            self._missed += data
        elif not self._is_settled and len(data) == 1 and not self.next_symbols[data[0]] > 0:
            cut, opening = self.cut, self._opening and not self.cut.ids
            ids = ByteMember(self._member).spelled(cut.rest + data, opening=opening)
            self._settle((*self._ids, *cut.ids, *ids), opening=False)
        elif not self._is_settled:
            self.since += data
        self._is_settled = False

    def catch_up(self) -> None:
        if self._missed:
            cut, opening = self.cut, self._opening and not self.cut.ids
            ids, behind = ByteMember(self._member).cut(cut.rest + self._missed, opening=opening)
            self._settle((*self._ids, *cut.ids, *ids), opening=opening and not ids)
            self.since = behind

    @property
    def _likeliest(self) -> Way:
        return max(self.bytes.following(self.cut), key=lambda way: way[1])

    def _settle(self, ids: tuple[int, ...], *, opening: bool | None = None) -> None:
        self._opening = self._opening if opening is None else opening
        self._ids, self.since, self._missed, self._is_settled = ids, b"", b"", False
        self.bytes = PlainBytes(self._member, ids, opening=self._opening)
