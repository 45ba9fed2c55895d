"""A method whose names have become members: what the engine follows for one text."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property

from unisono.config.combine import Combine
from unisono.config.gate import Gate
from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.config.whole_distributions import check_method
from unisono.config.without_union import check_bytes
from unisono.engine.byte_member import check_members
from unisono.engine.member import Member
from unisono.errors import SpecError, nearest, shown
from unisono.vocab.union import UnionVocabulary


class Plan:
    """How one text is written. Texts of one method share it, and nobody changes it."""

    def __init__(
        self,
        method: Method,
        members: Sequence[Member],
        union: UnionVocabulary,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Look the names of a method up; ``weights`` replace those of the members.

        Raises a `SpecError` when they do not fit the members.
        """
        if not isinstance(method, Method):
            raise SpecError(
                f"the method is {shown(method)}, not a Method", hint='make one: ensemble.method.but(gate="first:8")'
            )
        its = {member.name: member.weight for member in members}
        self.weights = its if weights is None else _replacing(weights, its)
        """By member; those above 0 sum to 1."""
        self.own_weights = None if weights is None else tuple(self.weights.values())
        """Those of a request, where it has some."""
        method.check(self.weights)
        self.lead = lead_of(method, members)
        check_method(method, [member.name for member in members if member.is_truncated], self.lead.name)
        self.method, self.gate, self.combine, self.draw = method, method.gate, method.combine, method.draw
        self.vocabulary, self.reasoning, self.slots = method.vocabulary, method.reasoning, method.slots
        self.is_bytes = method.vocabulary.is_bytes
        """Whether members vote on bytes: the text is no sequence of the union's columns."""
        if self.is_bytes:
            check_bytes(method)
            check_members(members)
        self.drafter = None if method.speculate is None else method.speculate.drafter
        """A member's name, ``ngram``, ``auto``, or ``None``."""
        self.max_pieces = 0 if method.speculate is None else method.speculate.max_pieces  # in a drafted block
        self.bias = Bias(self.draw.bias, union, self.draw.logit_bias)
        self.member_draw = self.draw.of_members()
        """Reshapes each member's distribution before they are combined; ``None`` for nothing."""
        self.member_bias = Bias(self.draw.member_bias, union)
        self.is_greedy = self.draw.is_greedy
        self.is_gated = self.gate.reads_lead

    @cached_property
    def subtracted(self) -> tuple[str, ...]:
        """The members with a negative weight."""
        return tuple(name for name, weight in self.weights.items() if weight < 0)

    @cached_property
    def asks_in_turn(self) -> bool:
        """Whether members are asked in turn, until those that are left cannot change the choice."""
        several = len(self.weights) > 1
        return self.gate.is_certain and several and _takes_the_largest(self.draw) and _is_bounded(self.combine)

    @cached_property
    def asks_all(self) -> bool:
        """Whether every step asks all members."""
        return not self.is_gated and not self.draw.mixture and not self.asks_in_turn

    @cached_property
    def weighs_prompt(self) -> bool:
        """Whether the voters' weights follow from how unlikely each member finds the prompt."""
        return self.combine.reads_losses

    @cached_property
    def is_plain(self) -> bool:
        """Whether a step takes the most likely piece of the members' weighted mean, and nothing reshapes it."""
        gate = Gate() if self.gate.is_certain else self.gate
        its_own = self.own_weights is None and not self.is_bytes
        return its_own and (self.combine, gate, self.method.speculate, self.draw) == _PLAIN

    def spares(self, member: Member) -> bool:
        """Whether a text goes on without a member while it is away. What an amateur would say decides too much, and so
        does whoever it is subtracted from.
        """
        if not member.degrades or self.is_bytes:
            return False
        return not (self.subtracted and (self.combine.rule == "logits" or member.weight < 0))


def _replacing(weights: Mapping[str, float], its: Mapping[str, float]) -> dict[str, float]:
    """Weights in place of those of members, scaled to sum 1. Raises a `SpecError` where a sign would change."""
    known = ", ".join(its)
    if any(weight < 0 for weight in its.values()):
        raise SpecError(
            "weights are given, and a member's is negative in the file: what it would be here is not clear",
            hint="leave weights out, or write another file",
        )
    if unknown := next((name for name in weights if name not in its), None):
        raise SpecError(
            f"weights are given for {shown(unknown)}, which is not a member that votes{nearest(unknown, list(its))}",
            hint=f"members that vote: {known}",
        )
    for name in its:
        weight = weights.get(name)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            what = "is missing" if name not in weights else f"is {shown(weight)}"
            raise SpecError(
                f"the weight of {name} {what}: each member that votes needs a number above 0",
                hint="to leave a member out, ask for the others alone, or write another file",
            )
    total = sum(weights.values())
    return {name: weights[name] / total for name in its}


def lead_of(method: Method, members: Sequence[Member]) -> Member:
    name = method.lead_among({member.name: member.weight for member in members})
    return next(member for member in members if member.name == name)


_PLAIN = (Combine(), Gate(), None, Sampling())


def _takes_the_largest(draw: Sampling) -> bool:
    """Whether the largest of the combined masses is taken, times what no member has a say in."""
    return draw.is_greedy and draw.beam_width == 1 and not draw.changes("repetition_penalty")


def _is_bounded(combine: Combine) -> bool:
    """Whether some members' masses bound what all make: not where weights, or what is kept, follow from all.

    A member that was not asked may give a piece nothing, of which `minimum` leaves nothing, and which `logits` counts
    in another way.
    """
    return (
        combine.rule not in ("minimum", "logits")
        and combine.weights in ("fixed", "perplexity")
        and combine.truncate is None
        and combine.sharpen is None
    )


class Bias:
    """Adds to the log-mass of the piece that completes a text, however the text is cut into pieces.

    Where what is written ends with the beginning of a biased text, the piece that is the rest of it is
    biased; the piece that is the whole text always is. So a text of several pieces can be banned, or
    asked for once it has begun (transformers' sequence bias, for bytes).
    """

    def __init__(
        self, bias: Mapping[bytes, float], union: UnionVocabulary, by_column: Mapping[int, float] | None = None
    ) -> None:
        """Look up the columns of all ends of the texts; ``by_column`` is always added.

        Raises a `SpecError` where the union has no such column.
        """
        self._by_column = dict(by_column or {})
        for column in self._by_column:
            if column > union.end:
                raise SpecError(
                    f"logit_bias is given for {column}, and the last column, END, is {union.end}",
                    hint="give the number of a piece in this union",
                )
        ends = {text[start:] for text in bias for start in range(len(text))}
        columns = union.columns(ends) if ends else {}
        self._cases = [
            (text[:start], columns[text[start:]], more)
            for text, more in bias.items()
            for start in range(len(text))
            if text[start:] in columns
        ]
        self.reach = max((len(beginning) for beginning, _, _ in self._cases), default=0)
        """Bytes before a piece that matter, at most."""

    def at(self, written: bytes) -> dict[int, float]:
        """What is added to which columns after ``written``, of which the last `reach` bytes are enough."""
        added: defaultdict[int, float] = defaultdict(float, self._by_column)
        for beginning, column, more in self._cases:
            if written.endswith(beginning):
                added[column] += more
        return added

    def __bool__(self) -> bool:
        return bool(self._cases or self._by_column)
