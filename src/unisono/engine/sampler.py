"""Choosing a piece: the voters' distributions are combined and reshaped, and one is taken or drawn."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from unisono.config.sampling import Sampling
from unisono.engine.member import Member
from unisono.engine.step_state import StepState
from unisono.errors import ModelError
from unisono.fusion.fold import Array, argmax_of_mean, bring
from unisono.fusion.logits_processors import shape
from unisono.fusion.mask import confine
from unisono.fusion.sampling import Purpose, accepts, greedy, inverse_transform, residual
from unisono.fusion.sharpen import Prefixes, plan_prefixes, sharpen
from unisono.vocab.union import UnionVocabulary


@dataclass(frozen=True, slots=True, eq=False)
class Distributions:
    """What some texts go on from at one position. The arrays last until a voter is heard again."""

    voters: tuple[Member, ...]
    p_BU_K: list[Array]
    """The voters' own, reshaped where a draw reshapes each member's."""
    q_BU: Array
    """What they make together, or a lone voter's own."""
    shaped_BU: Array
    """What a piece is drawn from, or the likeliest taken of."""
    likeliest: list[int]
    """The column of the largest mass of each row of ``q_BU``."""

    def of(self, row: int) -> dict[str, Array]:
        """The voters' distributions of one text."""
        return {voter.name: p_BU[row] for voter, p_BU in zip(self.voters, self.p_BU_K, strict=True)}


class Sampler:
    """Chooses for texts of the same voters and the same combine rule; each is drawn for in its own way."""

    def __init__(self, union: UnionVocabulary) -> None:
        """Bind it to the vocabulary of the columns."""
        self._union = union

    def combine(
        self, windows: Sequence[StepState], position: int, voters: tuple[Member, ...], *, combines: bool
    ) -> Distributions:
        """Combine what voters say of a position, and reshape it.

        Args:
            windows: of texts whose voters and whose rule are the same there.
            position: in them.
            voters: who has been asked.
            combines: whether the rule applies; a lone lead or a drawn member speaks for itself.

        Raises:
            ModelError: a member gave something else than numbers.
        """
        p_BU_K = self._all_said(windows, position, voters)
        q_BU = self._combined(windows, p_BU_K, voters) if combines else p_BU_K[0]
        said = Distributions(voters, p_BU_K, q_BU, _shaped(q_BU, windows, position), greedy(q_BU))
        _check_numbers(said)
        return said

    def choose(self, windows: Sequence[StepState], position: int, said: Distributions, *, combines: bool) -> list[int]:
        """Choose the column of each text."""
        columns = list(said.likeliest) if said.shaped_BU is said.q_BU else greedy(said.shaped_BU)
        for row, window in enumerate(windows):
            if not window.plan.draw.is_greedy:
                p_U = self._drafter_said(window, position, said, row) if combines else None
                columns[row] = _draw(said.shaped_BU[row], p_U, window, position)
        return columns

    def choose_plainly(
        self, states: Sequence[StepState], position: int, voters: tuple[Member, ...]
    ) -> list[int] | None:
        """What `combine` and `choose` would choose where nothing but the most likely piece of the mean is wanted.

        No distribution over the union is made. ``None`` where one is needed: for a trace, a constraint, a method that
        is not plain, a device, or numbers that are none.
        """
        for state in states:
            if not state.plan.is_plain or state.text.parse is not None or state.text.steps is not None:
                return None
        p_K = []
        for voter in voters:
            output, rows = None, []
            for state in states:
                found = state.outputs[voter.name][position]
                if found is None or (output is not None and found[0] is not output):
                    return None
                output, row = found
                rows.append(row)
            if output is None or (p := output.softmax(rows)) is None:
                return None
            p_K.append(p)
        return argmax_of_mean(p_K, [voter.weight for voter in voters])

    def guess(self, windows: Sequence[StepState], position: int, member: Member) -> list[tuple[int, float]]:
        """What each text would get from one member alone: the column, and its mass in what it is drawn from."""
        p_BU = _shaped(_said(windows, position, member), windows, position)
        columns = greedy(p_BU)
        for row, window in enumerate(windows):
            if not window.plan.draw.is_greedy:
                columns[row] = _draw(p_BU[row], None, window, position)
        return [(column, float(p_U[column])) for column, p_U in zip(columns, p_BU, strict=True)]

    def _drafter_said(self, window: StepState, position: int, said: Distributions, row: int) -> Array | None:
        """What a text's drafting member would draw from, where it votes."""
        for voter, p_BU in zip(said.voters, said.p_BU_K, strict=True):
            if voter.name == window.plan.drafter:
                return _shaped(p_BU[row : row + 1], [window], position)[0]
        return None

    def _all_said(self, windows: Sequence[StepState], position: int, voters: Sequence[Member]) -> list[Array]:
        lead = windows[0].plan.lead if windows[0].plan.lead in voters else voters[0]
        own_BU = _said(windows, position, lead)
        return [own_BU if voter is lead else bring(_said(windows, position, voter), own_BU) for voter in voters]

    def _combined(self, windows: Sequence[StepState], p_BU_K: Sequence[Array], voters: Sequence[Member]) -> Array:
        combine = windows[0].plan.combine
        loss_KB = [[window.text.losses.get(voter.name, 0.0) for window in windows] for voter in voters]
        q_BU = combine(p_BU_K, [voter.weight for voter in voters], loss_KB)
        return q_BU if combine.sharpen is None else sharpen(q_BU, self._prefixes, combine.sharpen)

    @functools.cached_property
    def _prefixes(self) -> Prefixes:
        return plan_prefixes([self._union.piece(column) or b"" for column in range(self._union.end)])


def rows_at(states: Sequence[StepState], member: Member, position: int) -> Array:
    """A member's distributions ``p_BU`` at one position of several sequences, from whichever passes have them."""
    found = [state.where(member, position) for state in states]
    output = found[0][0]
    if all(other is output for other, _ in found):
        return output.fold([row for _, row in found])
    folded: list[Array] = [None] * len(found)
    for output in {id(output): output for output, _ in found}.values():
        places = [place for place, (other, _) in enumerate(found) if other is output]
        p_NU = output.fold([found[place][1] for place in places])
        for place, p_U in zip(places, p_NU, strict=True):
            folded[place] = p_U
    return array_namespace(folded[0]).stack(folded)


def _said(windows: Sequence[StepState], position: int, member: Member) -> Array:
    """A member's distributions, reshaped where the texts' draws reshape each member's."""
    p_BU = rows_at(windows, member, position)
    draws = [window.plan.member_draw for window in windows]
    if not any(draws):
        return p_BU
    counts = [window.counts(position) for window in windows]
    biases = [window.bias(window.plan.member_bias, position) for window in windows]
    return shape(p_BU, [draw or _NOTHING for draw in draws], counts, biases)


_NOTHING = Sampling()


def _shaped(q_BU: Array, windows: Sequence[StepState], position: int) -> Array:
    """What pieces are drawn from, or the likeliest taken of: what a grammar allows, in the way of a draw."""
    q_BU = confine(q_BU, [window.allowed(position) for window in windows])
    draws = [window.plan.draw for window in windows]
    if not any(draw.shapes for draw in draws):
        return q_BU
    counts = [window.counts(position) for window in windows]
    return shape(q_BU, draws, counts, [window.bias(window.plan.bias, position) for window in windows])


def _draw(q_U: Array, p_U: Array | None, window: StepState, position: int) -> int:
    """Draw a column from ``q_U``; beside it ``p_U``, what a drafting member would draw from.

    A draft is drawn with the number that would otherwise draw the piece. Where its member votes, speculative
    sampling's rule makes the text's piece of it, drafted or not: so the text depends on the seed and on who
    drafts, and not on how far drafts went. Look-up, or whichever member ``auto`` chooses, drafts what the
    text's own number draws from the drafter's distribution, and holds if that is what it draws from ``q_U``.
    """
    if p_U is None:
        return inverse_transform(q_U[None], [window.uniform(position, Purpose.PIECE)])[0]
    guess = inverse_transform(p_U[None], [window.uniform(position, Purpose.PIECE)])[0]
    if accepts(p_U, q_U, guess, window.uniform(position, Purpose.ACCEPTANCE)):
        return guess
    return inverse_transform(residual(p_U, q_U)[None], [window.uniform(position, Purpose.RESIDUAL)])[0]


def _check_numbers(said: Distributions) -> None:
    """Refuse to go on from distributions that are none: the largest of NaNs is NaN."""
    for row, column in enumerate(said.likeliest):
        if not math.isfinite(float(said.q_BU[row, column])):
            p_U_by_member = said.of(row)
            broken = [name for name, p_U in p_U_by_member.items() if not math.isfinite(float(p_U[column]))]
            raise ModelError(
                f"member {', '.join(map(repr, broken or p_U_by_member))} gave probabilities that are not numbers",
                hint="its weights are damaged, or its dtype overflows: try dtype: float32 or bfloat16",
            )
