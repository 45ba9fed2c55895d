"""Choosing a piece: the voters' distributions are combined and reshaped, and one is taken or drawn."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from unisono.config.combine import Combine
from unisono.config.sampling import Sampling
from unisono.engine.member import Member
from unisono.engine.step_state import StepState
from unisono.errors import ModelError
from unisono.fusion.bounds import Reshaping, Voter, Whole
from unisono.fusion.completion import complete
from unisono.fusion.fold import Array, bring
from unisono.fusion.logits_processors import confine, has_mass, shape
from unisono.fusion.sampling import Purpose, accepts, draw_from, greedy, residual
from unisono.fusion.sharpen import Prefixes, plan_prefixes, sharpen
from unisono.fusion.unfolded import Joint, Unfolded, plan_joint
from unisono.vocab.union import UnionVocabulary

_HOST = np.empty(0, np.float32)
_Alike = tuple[tuple[Member, ...], Combine | None, tuple[float, ...] | None]
"""What texts that are combined together have in common: voters, rule, and weights where they are a request's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Distributions:
    """What some texts go on from at one position. The arrays last until a voter is run again."""

    voters: tuple[Member, ...]
    are_combined: bool
    """Whether the rule applied; a lone lead or a drawn member speaks for itself."""
    p_BU_K: list[Array]
    """The voters' own, reshaped where a draw reshapes each member's."""
    q_BU: Array
    """What they make together, or a lone voter's own."""
    shaped_BU: Array
    """What a piece is drawn from, or the likeliest taken of."""
    likeliest: list[int]
    """The column of the largest mass of each row of ``q_BU``."""

    @property
    def are_completed(self) -> bool:
        """Whether a voter told its likeliest ids only, and what it did not tell was filled up."""
        return any(voter.is_truncated for voter in self.voters)

    def of(self, row: int) -> dict[str, Array]:
        return {voter.name: p_BU[row] for voter, p_BU in zip(self.voters, self.p_BU_K, strict=True)}


class Sampler:
    """Chooses for texts of the same voters and the same rule together; each is drawn for in its own way."""

    def __init__(self, union: UnionVocabulary) -> None:
        self._union = union
        self._joints: dict[tuple[Member, ...], Joint] = {}

    def combine(self, states: Sequence[StepState], position: int) -> Iterator[tuple[list[StepState], Distributions]]:
        """Combine what the voters give at a position, and reshape it, for each set of voters and each rule in turn.

        Raises a `ModelError` where a member gave something else than numbers.
        """
        groups: defaultdict[_Alike, list[StepState]] = defaultdict(list)
        for state in states:
            rule = state.plan.combine if state.combines(position) else None
            groups[state.voters(position), rule, state.plan.own_weights].append(state)
        for (voters, rule, _), group in groups.items():
            p_BU_K = self._of_all(group, position, voters)
            q_BU = p_BU_K[0] if rule is None else self._combined(group, p_BU_K, voters, rule)
            shaped_BU = _shaped(q_BU, group, position)
            distributions = Distributions(voters, rule is not None, p_BU_K, q_BU, shaped_BU, greedy(q_BU))
            _check_numbers(distributions)
            yield group, distributions

    def choose(self, states: Sequence[StepState], position: int, distributions: Distributions) -> list[int]:
        shaped_BU = distributions.shaped_BU
        columns = list(distributions.likeliest) if shaped_BU is distributions.q_BU else greedy(shaped_BU)
        for row, state in enumerate(states):
            if not state.plan.is_greedy:
                p_U = self._drafter_distribution(state, position, distributions, row)
                columns[row] = _draw(shaped_BU[row], p_U, state, position)
        return columns

    def unfolded(self, states: Sequence[StepState], position: int) -> Unfolded | None:
        """The mean, where its likeliest piece is wanted: no distribution over the union is made.

        ``None`` where one is needed: on a device, or for texts that were read in different passes.
        """
        p_K, voters = [], states[0].voters(position)
        if any(voter.calibration for voter in voters) and any(state.begins(position) for state in states):
            return None
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
        if voters not in self._joints:
            self._joints[voters] = plan_joint([p.plan for p in p_K])
        return Unfolded(p_K, [voter.weight for voter in voters], self._joints[voters])

    def guess(self, states: Sequence[StepState], position: int, member: Member) -> list[tuple[int, float]]:
        """What each text would get from one member alone: the column, and its mass in what it is drawn from."""
        if member.is_truncated:
            return [
                _best_told(state, position, member) if state.plan.is_greedy else _drawn_alone(state, position, member)
                for state in states
            ]
        p_BU = _shaped(_of_member(states, position, member), states, position)
        columns = greedy(p_BU)
        for row, state in enumerate(states):
            if not state.plan.is_greedy:
                columns[row] = _draw(p_BU[row], None, state, position)
        return [(column, float(p_U[column])) for column, p_U in zip(columns, p_BU, strict=True)]

    def _drafter_distribution(
        self, state: StepState, position: int, distributions: Distributions, row: int
    ) -> Array | None:
        """What a text's drafting member would draw from, where it votes with others."""
        for voter, p_BU in zip(distributions.voters, distributions.p_BU_K, strict=True):
            if distributions.are_combined and voter.name == state.plan.drafter:
                return _shaped(p_BU[row : row + 1], [state], position)[0]
        return None

    def _of_all(self, states: Sequence[StepState], position: int, voters: Sequence[Member]) -> list[Array]:
        if any(voter.is_truncated for voter in voters):
            weights = states[0].weights(voters)
            rows = [complete([told_by(state, voter, position) for voter in voters], weights) for state in states]
            return [np.stack(p_BU) for p_BU in zip(*rows, strict=True)]
        lead = states[0].plan.lead if states[0].plan.lead in voters else voters[0]
        own_BU = _of_member(states, position, lead)
        return [own_BU if voter is lead else bring(_of_member(states, position, voter), own_BU) for voter in voters]

    def _combined(
        self, states: Sequence[StepState], p_BU_K: Sequence[Array], voters: Sequence[Member], rule: Combine
    ) -> Array:
        loss_KB = [[state.text.losses.get(voter.name, 0.0) for state in states] for voter in voters]
        q_BU = rule(p_BU_K, states[0].weights(voters), loss_KB)
        return q_BU if rule.sharpen is None else sharpen(q_BU, self._prefixes, rule.sharpen)

    @functools.cached_property
    def _prefixes(self) -> Prefixes:
        union = self._union
        return plan_prefixes([union.piece(column) or b"" for column in range(union.texts)], 1 + len(union.marks))


def is_blind(state: StepState, position: int, column: int, p_U_K: Sequence[Array]) -> bool:
    """Whether distributions give no mass to anything that a text's grammar allows, so that ``column`` means nothing."""
    if state.text.parse is None or any(float(p_U[column]) > 0 for p_U in p_U_K):
        return False
    allowed_U = state.allowed(position)
    return allowed_U is not None and not any(has_mass(p_U, allowed_U) for p_U in p_U_K)


def rows_at(states: Sequence[StepState], member: Member, position: int) -> Array:
    """A member's distributions ``p_BU`` at one position of several sequences, from whichever passes have them."""
    p_BU = _folded_at(states, member, position)
    if member.calibration is None:
        return p_BU
    return member.calibration(p_BU, [row for row, state in enumerate(states) if state.begins(position)])


def _folded_at(states: Sequence[StepState], member: Member, position: int) -> Array:
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


def told_by(state: StepState, voter: Member, position: int) -> Voter:
    """What is known of a voter's distribution at a position, reshaped by options of ``member_``."""
    if voter.is_truncated:
        output, row = state.where(voter, position)
        return output.top(row)
    told = Whole(np.array(bring(_of_member([state], position, voter)[0], _HOST)))  # the next fold overwrites it
    if not math.isfinite(float(told.p_U.max())):
        raise no_numbers([voter.name])
    return told


def _drawn_alone(state: StepState, position: int, member: Member) -> tuple[int, float]:
    """What a text would draw from a truncated member alone."""
    [p_U] = complete([told_by(state, member, position)], [1.0])
    p_U = _shaped(p_U[None], [state], position)[0]
    column = _draw(p_U, None, state, position)
    return column, float(p_U[column])


def _best_told(state: StepState, position: int, member: Member) -> tuple[int, float]:
    """A truncated member's likeliest column, as far as is known: good enough for a draft."""
    output, row = state.where(member, position)
    told, reshaping = output.top(row), reshaping_of(state, position)
    score_N = told.known * reshaping.factors(told.columns, told.known[None])
    if not score_N.any():
        return len(told.ids_U) - 1, 0.0  # END, which is never drafted
    best = int(score_N.argmax())
    return int(told.columns[best]), float(told.known[best] / told.most)


def reshaping_of(state: StepState, position: int) -> Reshaping:
    """What a text's grammar, biases and penalties make of combined masses at a position."""
    draw, bias = state.plan.draw, dict(state.bias(state.plan.bias, position))
    if draw.presence_penalty or draw.frequency_penalty:
        for column, count in state.counts(position).items():
            if count:
                bias[column] = bias.get(column, 0.0) - draw.presence_penalty - draw.frequency_penalty * count
    return Reshaping(state.allowed(position), bias)


def _of_member(states: Sequence[StepState], position: int, member: Member) -> Array:
    p_BU = rows_at(states, member, position)
    draws = [state.plan.member_draw for state in states]
    if not any(draws):
        return p_BU
    counts = [state.counts(position) for state in states]
    biases = [state.bias(state.plan.member_bias, position) for state in states]
    return shape(p_BU, [draw or _NOTHING for draw in draws], counts, biases)


_NOTHING = Sampling()


def _shaped(q_BU: Array, states: Sequence[StepState], position: int) -> Array:
    q_BU = confine(q_BU, [state.allowed(position) for state in states])
    draws = [state.plan.draw for state in states]
    if not any(draw.shapes for draw in draws):
        return q_BU
    counts = [state.counts(position) for state in states]
    return shape(q_BU, draws, counts, [state.bias(state.plan.bias, position) for state in states])


def _draw(q_U: Array, p_U: Array | None, state: StepState, position: int) -> int:
    """Draw a column from ``q_U``; beside it ``p_U``, what a drafting member would draw from.

    A draft is drawn with the numbers that would otherwise draw the piece. Where its member votes, speculative
    sampling's rule makes the text's piece of it, drafted or not: so the text depends on the seed and on who
    drafts, and not on how far drafts went. Look-up, or whichever member ``auto`` chooses, drafts what the
    text's own numbers draw from the drafter's distribution, and holds if that is what they draw from ``q_U``.
    """
    if p_U is None:
        return draw_from(q_U, state.numbers(position, Purpose.PIECE))
    guess = draw_from(p_U, state.numbers(position, Purpose.PIECE))
    if accepts(p_U, q_U, guess, state.numbers(position, Purpose.ACCEPTANCE)):
        return guess
    return draw_from(residual(p_U, q_U), state.numbers(position, Purpose.RESIDUAL))


def _check_numbers(distributions: Distributions) -> None:
    """Refuse to go on from distributions that are none: the largest of NaNs is NaN."""
    for row, column in enumerate(distributions.likeliest):
        if not math.isfinite(float(distributions.q_BU[row, column])):
            p_U_by_member = distributions.of(row)
            broken = [name for name, p_U in p_U_by_member.items() if not math.isfinite(float(p_U[column]))]
            raise no_numbers(broken or list(p_U_by_member))


def no_numbers(names: Sequence[str]) -> ModelError:
    return ModelError(
        f"member {', '.join(map(repr, names))} gave probabilities that are not numbers",
        hint="its weights are damaged, or its dtype overflows: try dtype: float32 or bfloat16",
    )
