"""Which members have given distributions for which positions of a text, and of whom one is still wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unisono.engine.forward_output import ForwardOutput
from unisono.engine.member import Member
from unisono.engine.sequence import TextSequence
from unisono.engine.voting import Voting


class Asked(Voting):
    """The positions of one text in one step, and what was heard of its voters there."""

    def __init__(self, text: TextSequence, members: tuple[Member, ...]) -> None:
        super().__init__(text, members)
        self.drafted: list[int] = []  # columns
        self.outputs: dict[str, list[tuple[ForwardOutput, int] | None]] = {}
        """By member and position, the output of a pass that has its distribution, and the row there."""

    @property
    def last(self) -> int:
        return len(self.drafted)

    def where(self, member: Member, position: int) -> tuple[ForwardOutput, int]:
        """The output of a pass that has a member's distribution at a position, and its row there."""
        found = self.outputs[member.name][position]
        if found is None:
            raise AssertionError(f"member {member.name!r} was not run for position {position}")
        return found

    def span(self, member: Member) -> tuple[int, int] | None:
        """The first and the last position at which a member is still to be heard, as far as that is known."""
        known: Iterable[int] = range(len(self.gates)) if self.is_gated else self.pending()
        heard = self._heard(member)
        wanted = [position for position in known if position not in heard and member in self.voters(position)]
        return (wanted[0], wanted[-1]) if wanted else None

    def pending(self) -> Iterator[int]:
        """The positions that may turn out to be the text's and at which no choice was certain early.

        What becomes certain meanwhile counts.
        """
        for position in range(self.last + 1):
            if position not in self.early_choices:
                yield position
            choice = self.early_choices.get(position)
            if choice is not None and position < self.last and choice.column != self.drafted[position]:
                return

    def heard(self) -> list[Member]:
        """The members that were run for all pending positions."""
        pending = set(self.pending())
        return [member for member in self._members if pending <= self._heard(member)]

    def _heard(self, member: Member) -> set[int]:
        return {position for position, output in enumerate(self.outputs.get(member.name, ())) if output is not None}
