"""Who is asked about a text in one step: what its plan says, its gate, and who is there; and who was asked where."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from unisono.engine.choice import Choice
from unisono.engine.cursor import Cursor
from unisono.engine.forward_output import ForwardOutput
from unisono.engine.member import Member
from unisono.engine.sequence import TextSequence
from unisono.errors import MemberUnavailable
from unisono.fusion.sampling import Purpose, RandomNumbers, draw_from
from unisono.fusion.weights import scaled
from unisono.step_records import GateReading


class Voting:
    """The voters of one text, by position."""

    def __init__(self, text: TextSequence, members: tuple[Member, ...]) -> None:
        self.text = text
        self.plan = text.plan
        self.is_plain = text.plan.is_plain and text.parse is None and not text.request.score
        """Whether the most likely piece of the mean of all is wanted, with its record or without."""
        self.is_given = False
        """Whether the text is scored, for which all have to be there."""
        self.gates: list[GateReading] = []
        """By position, as far as the lead has been heard and the pieces before hold."""
        self.early_choices: dict[int, Choice] = {}
        """By position, what is certain though not all were asked."""
        self.absent = frozenset[str]()
        """The members that are away from this text, for the whole step."""
        self.members = members
        self._before = text.pieces
        self._inside_reasoning = text.part == "reasoning"
        self._drawn: dict[int, Member] = {}

    def cursor(self, member: Member) -> Cursor:
        return self.text.cursors[member.name]

    @property
    def is_gated(self) -> bool:
        """Whether a gate decides who is asked: that of a lead that is away is open."""
        return self.plan.is_gated and self.plan.lead.name not in self.absent

    def opens(self, position: int) -> bool:
        return not self.is_gated or self.gates[position].asked

    def voters(self, position: int) -> tuple[Member, ...]:
        """Who is asked at a position: all that are there, the lead where the gate is shut, or one that is drawn.

        Where the choice was certain early, as many as made it so.
        """
        if position in self.early_choices:
            return self.early_choices[position].asked
        if not self.opens(position):
            return (self.plan.lead,)
        if self.plan.draw.mixture:
            return (self._draw_member(position),)
        return self._present

    @property
    def _present(self) -> tuple[Member, ...]:
        if not self.absent:
            return self.members
        return tuple(member for member in self.members if member.name not in self.absent)

    @property
    def missing(self) -> list[Member]:
        """The members that are away from this text."""
        return [member for member in self.members if member.name in self.absent]

    def weights(self, voters: Sequence[Member]) -> list[float]:
        """The voters' weights, which sum to 1 also where some are away."""
        weights = [self.plan.weights[voter.name] for voter in voters]
        return scaled(weights) if self.absent else weights

    def fixed_weights(self, voters: Sequence[Member]) -> list[float]:
        """The voters' weights where no distribution decides them: the file's, or by the losses of their prompts."""
        weights = self.weights(voters)
        if not self.plan.combine.reads_losses:
            return weights
        loss_KB = [[self.text.losses.get(voter.name, 0.0)] for voter in voters]
        return [float(its[0]) for its in self.plan.combine.weigh(weights, [np.ones((1, 1))] * len(voters), loss_KB)]

    def missed(self, position: int) -> tuple[str, ...]:
        """The members that would be asked at a position, and are away."""
        if not self.absent or not self.opens(position):
            return ()
        return tuple(member.name for member in self.members if member.name in self.absent)

    def left_out(self, position: int) -> tuple[str, ...]:
        """The members that are not asked at a position, though nothing keeps them from being."""
        voters, missed = self.voters(position), self.missed(position)
        return tuple(each.name for each in self.members if each not in voters and each.name not in missed)

    def lose(self, member: Member, error: MemberUnavailable) -> None:
        """Go on without a member that was lost in this step. Raises the error where the text cannot."""
        if not self.plan.spares(member) or self.is_given:
            raise error
        member.lose(self.cursor(member))
        self.go_without({*self.absent, member.name})
        if why := self.lacks():
            raise member.breaker.error(member.name, because=why) from error

    @property
    def asks_in_turn(self) -> bool:
        """Whether members are asked in turn: all are where one is away, or whole distributions are wanted."""
        wanted = self.is_given or self.text.request.top_logprobs
        return self.plan.asks_in_turn and not self.absent and not wanted

    def unasked(self, position: int) -> tuple[str, ...]:
        """The members that a position is certain without."""
        if position not in self.early_choices:
            return ()
        return tuple(member.name for member in self.members if member not in self.early_choices[position].asked)

    def go_without(self, names: Collection[str]) -> None:
        """Go through the step without some members."""
        self.absent, self.early_choices = frozenset(names), {}
        self.is_plain = False
        self._drawn = {}

    def lacks(self) -> str | None:
        """Why the text cannot go on without those that are away; ``None`` where it can."""
        if not any(member.weight > 0 for member in self._present):
            return "nobody else is there"
        able = {member.name for member in self.members if member.ends_reasoning}
        if self._inside_reasoning and able and able <= self.absent:
            return "nobody else can end the reasoning"
        if self.text.stuck:
            return "nobody else gives any mass to what the text has to be"
        return None

    def begins(self, position: int) -> bool:
        """Whether a position is that of the text's first piece, outside of reasoning."""
        return not self._before and not position and not self._inside_reasoning

    def combines(self, position: int) -> bool:
        """Whether all members vote at a position, and their distributions are combined."""
        return self.plan.asks_all or (not self.plan.draw.mixture and self.opens(position))

    def numbers(self, position: int, purpose: Purpose) -> RandomNumbers:
        return RandomNumbers(self.text.seed, self._before + position, purpose)

    def _draw_member(self, position: int) -> Member:
        if position not in self._drawn:
            blind = frozenset() if position else self.text.blind
            members = self._drawable(blind) or self._drawable(())  # who can is away: nobody else is waited for
            weights = np.asarray([self.plan.weights[member.name] for member in members])
            numbers = RandomNumbers(self.text.seed, self._before + position, Purpose.MEMBER, again=len(blind))
            self._drawn[position] = members[draw_from(weights, numbers)]
        return self._drawn[position]

    def _drawable(self, blind: Collection[str]) -> list[Member]:
        return [member for member in self._present if member.name not in blind and member.weight > 0]


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
        return [member for member in self.members if pending <= self._heard(member)]

    def _heard(self, member: Member) -> set[int]:
        return {position for position, output in enumerate(self.outputs.get(member.name, ())) if output is not None}
