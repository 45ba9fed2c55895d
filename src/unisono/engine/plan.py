"""A method whose names have become members: what the engine follows for one text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unisono.config.combine import Combine
from unisono.config.gate import Gate
from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.engine.member import Member
from unisono.errors import SpecError, shown
from unisono.vocab.union import UnionVocabulary


@dataclass(frozen=True, slots=True)
class Plan:
    """How one text is written."""

    method: Method
    lead: Member
    gate: Gate
    combine: Combine
    drafter: str | None
    """A member's name, ``ngram``, ``auto``, or ``None``."""
    max_pieces: int  # in a drafted block
    draw: Sampling
    bias: Bias
    member_draw: Sampling | None
    """Reshapes each member's distribution before they are combined; ``None`` for nothing."""
    member_bias: Bias
    asks_all: bool
    weighs_prompt: bool
    """Whether the voters' weights follow from how unlikely each member finds the prompt."""
    is_gated: bool
    is_greedy: bool
    is_plain: bool
    """Whether a step takes the most likely piece of the members' weighted mean, and nothing reshapes it."""


def make_plan(method: Method, members: Sequence[Member], union: UnionVocabulary) -> Plan:
    """Look the names of a method up. Raises a `SpecError` when they do not fit the members."""
    if not isinstance(method, Method):
        raise SpecError(
            f"the method is {shown(method)}, not a Method", hint='make one: ensemble.method.but(gate="first:8")'
        )
    method.check({member.name: member.weight for member in members})
    speculation, draw = method.speculate, method.draw
    return Plan(
        method,
        lead_of(method, members),
        method.gate,
        method.combine,
        None if speculation is None else speculation.drafter,
        0 if speculation is None else speculation.max_pieces,
        draw,
        Bias(draw.bias, union, draw.logit_bias),
        draw.of_members(),
        Bias(draw.member_bias, union),
        method.gate.always_open and not draw.mixture,
        method.combine.reads_losses,
        not method.gate.always_open,
        draw.is_greedy,
        (method.combine, method.gate, method.speculate, draw) == _PLAIN,
    )


def lead_of(method: Method, members: Sequence[Member]) -> Member:
    name = method.lead_among({member.name: member.weight for member in members})
    return next(member for member in members if member.name == name)


_PLAIN = (Combine(), Gate(), None, Sampling())


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
        """How many bytes before a piece matter, at most."""

    def at(self, written: bytes) -> dict[int, float]:
        """What is added to which columns after ``written``, of which the last `reach` bytes are enough."""
        added: defaultdict[int, float] = defaultdict(float, self._by_column)
        for beginning, column, more in self._cases:
            if written.endswith(beginning):
                added[column] += more
        return added

    def __bool__(self) -> bool:
        return bool(self._cases or self._by_column)
