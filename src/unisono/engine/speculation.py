"""Drafting: a member, or look-up in the text so far, proposes pieces that the others read in one block.

The engine then decides position by position, as without drafts, and keeps what it would have chosen
anyway, so that the text stays the same (Speculative Ensemble, arXiv 2502.01662, for one vocabulary;
here every member reads its own spelling of the draft). A lead that drafts past the positions at which
its gate asks gives the generate-verify-ensemble loop of SAFE (arXiv 2510.15346).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from unisono.config.speculation import AUTO, NGRAM
from unisono.engine.certifier import Certifier
from unisono.engine.draft_length import DraftLengthController, Outlook, Work
from unisono.engine.gating import read_gates
from unisono.engine.member import Member
from unisono.engine.ngram import LONGEST
from unisono.engine.passes import MemberBatch
from unisono.engine.prefill import Prefill
from unisono.engine.runner import Runner, by_model
from unisono.engine.sampler import Sampler
from unisono.engine.step_state import StepState
from unisono.vocab.union import UnionVocabulary

SHARE_MEMORY = 60.0  # pieces over which the share of asked ones is taken, about

SAMPLING = 4
"""Pieces between two looks at the members that do not draft, to know who could."""


class Speculator:
    """Extends states by drafted pieces, and learns from what became of them."""

    def __init__(
        self,
        members: Sequence[Member],
        union: UnionVocabulary,
        runner: Runner,
        sampler: Sampler,
        draft_length: DraftLengthController,
        prefill: Prefill,
        certifier: Certifier | None = None,
    ) -> None:
        self._members = {member.name: member for member in members}
        self._texts = union.texts
        self._sampler = sampler
        self._runner = runner
        self.draft_length = draft_length
        self._prefill = prefill
        self._certifier = certifier
        self._asked_share = 1.0  # of pieces at which all members were asked, lately

    def extend(self, states: Sequence[StepState]) -> None:
        """Draft for every text whose plan says so; never before its first piece, for which somebody waits."""
        drafting: defaultdict[str, list[StepState]] = defaultdict(list)
        for state in states:
            if state.plan.drafter is None:
                continue
            self.draft_length.in_use = True
            if not state.text.written:
                continue
            if state.text.history is not None:
                state.found, state.matched = state.text.history.propose(state.plan.max_pieces)
            state.drafter = self._drafter(state, states)
            if state.drafter == NGRAM:
                self._draft_found(state, len(states))
            elif state.drafter is not None:
                drafting[state.drafter].append(state)
        for name, group in drafting.items():
            self._draft_by(self._members[name], group, len(states))

    def learn(self, states: Sequence[StepState], position: int, choices: Sequence[int]) -> None:
        """Hold what was guessed for a position, or would have been by its voters, against what was chosen."""
        for state, choice in zip(states, choices, strict=True):
            if state.plan.drafter is None:
                continue
            asked = state.opens(position)
            self._asked_share += (asked - self._asked_share) / SHARE_MEMORY
            if position == 0 and state.found:
                self.draft_length.chances[NGRAM].learn(_sureness(state.matched), state.found[0] == choice)
            if position < len(state.guesses) and not state.settles(position):
                column, mass = state.guesses[position]
                self.draft_length.chances[str(state.drafter)].learn(mass, column == choice)
            if state.combines(position) and state.text.pieces % SAMPLING == 0:
                self._learn_from_voters(state, position, choice)

    def _learn_from_voters(self, state: StepState, position: int, choice: int) -> None:
        for member in state.voters(position):
            if member.name != state.drafter and state.plan.drafter in (member.name, AUTO):
                [(column, mass)] = self._sampler.guess([state], position, member)
                self.draft_length.chances[member.name].learn(mass, column == choice)

    def learn_step(self, states: Sequence[StepState], seconds: float) -> None:
        """Note what a step gave and took; one that read prompts tells nothing, and so does one that asked nobody."""
        if any(state.outputs for state in states) and not any(state.opening for state in states):
            pieces = sum(state.settled for state in states)
            self.draft_length.learn_step(len(states), pieces, seconds, self._plain_seconds(states))

    def _draft_found(self, state: StepState, texts: int) -> None:
        chance = self.draft_length.chances[NGRAM].chance(_sureness(state.matched))
        members = self._readers([state])

        def cost(count: int) -> float:
            return self._longer_blocks(members, [state], count)

        for column in state.found:
            outlook = Outlook(state.sure, chance, waits=True)
            if column >= self._texts or not state.fits(column) or not self.draft_length.go_on([outlook], cost, texts):
                return
            state.sure *= chance
            state.draft(column)

    def _draft_by(self, drafter: Member, states: list[StepState], texts: int) -> None:
        """Let a member draft for some states, a piece for each in one pass, as long as that pays."""
        others = self._readers(states, drafter.name)
        group, position = states, 0
        while group:
            self._runner.run([MemberBatch(drafter, [(state, position, position) for state in group], keep=True)])
            if drafter.name in group[0].absent:  # it was lost, and so for all who were in the pass
                for state in group:
                    state.drop_draft()
                return
            read_gates([state for state in group if state.reads_gate], position, self._sampler, self._certifier)
            for state, guess in zip(group, self._sampler.guess(group, position, drafter), strict=True):
                state.guesses.append(guess)
            able = [state for state in group if self._able(state)]
            outlooks = [Outlook(state.sure, self._chance(state), state.waits) for state in able]
            waiting = [state for state in states if state.waits]

            def cost(count: int, waiting: Sequence[StepState] = waiting) -> float:
                drafting = self.draft_length.seconds(drafter.model, Work(count, count, count))
                return drafting + self._longer_blocks(others, waiting, count)

            group = [able[index] for index in self.draft_length.go_on(outlooks, cost, texts)]
            for state in group:
                state.sure *= self._chance(state)
                state.draft(state.guesses[position][0])
            position += 1

    def _able(self, state: StepState) -> bool:
        column = state.guesses[-1][0]
        return state.last < state.plan.max_pieces and column < self._texts and state.fits(column)

    def _chance(self, state: StepState) -> float:
        if state.settles(state.last):
            return 1.0
        return self.draft_length.chances[str(state.drafter)].chance(state.guesses[-1][1])

    def _longer_blocks(self, members: Sequence[Member], states: Sequence[StepState], count: int) -> float:
        """What it costs the members if the blocks that they will have to read are this many pieces longer."""
        now, longer, rows = list[_Pass](), list[_Pass](), sum(state.rows_wanted for state in states)
        for group in _passes(members, states):
            readers, model, share = len(group), group[0].model, _drawn_share(group, states)
            tokens = sum(state.unread(member) for state in states for member in group)
            for passes, more in ((now, 0), (longer, readers * count)):
                work = Work(readers * len(states), tokens + more, readers * rows + more)
                passes.append((group, share * self.draft_length.seconds(model, work)))
        return _together(longer, states) - _together(now, states)

    def _plain_seconds(self, states: Sequence[StepState]) -> float:
        """What one piece for every text would take without drafts."""
        texts, passes = len(states), list[_Pass]()
        gated = all(state.plan.is_gated for state in states)
        leads = {state.plan.lead for state in states}
        share = max(self._asked_share, 1 / 8) if gated else 1.0
        for group in _passes(self._readers(states), states if gated else ()):
            rows = texts * len(group)
            asked = _drawn_share(group, states)
            if gated:
                asked = asked * share if leads.isdisjoint(group) else 1.0
            work = Work(rows, round(rows / asked), rows)
            passes.append((group, asked * self.draft_length.seconds(group[0].model, work)))
        return _together(passes, states)

    def _drafter(self, state: StepState, states: Sequence[StepState]) -> str | None:
        """Who drafts for a text: as its plan says, or who promises the best rate.

        Nobody does where drafting takes a pass of its own, which the lead's gate could have spared, or that another
        member is drawn, or which the drafter could have shared with its relatives, or run beside members on other
        devices, if what it promises is no better.
        """
        drafter, texts = state.plan.drafter, len(states)
        if drafter == AUTO:
            names = [name for name in self._members if self._is_near(name, state)] if len(self._members) > 1 else []
            rates = {name: self._promise(name, state, texts) for name in (*names, *([NGRAM] * bool(state.found)))}
            drafter = max(rates, key=lambda name: rates[name], default=NGRAM)
        if drafter in state.absent:
            return None
        if drafter is None or drafter == NGRAM or not self._reads_apart(self._members[drafter], state):
            return drafter
        if not self._is_near(drafter, state):
            return None
        plain = self._plain_seconds(states)
        if plain and self._promise(drafter, state, texts, shortest=1) * plain < texts:
            return None
        return drafter

    def _is_near(self, drafter: str, state: StepState) -> bool:
        return drafter not in state.absent and not self._prefill.is_far(state.cursor(self._members[drafter]))

    def _reads_apart(self, drafter: Member, state: StepState) -> bool:
        """Whether a drafter reads in a pass that a step without drafts may not have."""
        if state.plan.is_gated:
            return drafter is not state.plan.lead
        if state.plan.draw.mixture:
            return True
        others, device = self._readers([state], drafter.name), _device(drafter)
        beside = not state.plan.asks_in_turn and any(_device(other) != device for other in others)
        return beside or any(other.model == drafter.model for other in others)

    def _readers(self, states: Sequence[StepState], drafter: str | None = None) -> list[Member]:
        """The members beside a drafter, but for those that all of these texts have lost."""
        lost = frozenset.intersection(*(state.absent for state in states)) if states else frozenset()
        return [member for name, member in self._members.items() if name != drafter and name not in lost]

    def _promise(self, drafter: str, state: StepState, texts: int, shortest: int = 0) -> float:
        """Pieces a second to expect of all texts, at the drafter's best length, if each guess holds as most did."""
        share = self._share_that_holds(drafter, state)
        rates = []
        pieces, hold = 0.0, 1.0
        for length in range(state.plan.max_pieces + 1):
            pieces += texts * hold
            hold *= share
            seconds = self._block_seconds(drafter, length, state, texts)
            rates.append(pieces / seconds if seconds else math.inf)
        return max(rates[shortest:])

    def _share_that_holds(self, drafter: str, state: StepState) -> float:
        """Of a drafter's guesses."""
        if drafter == NGRAM:
            return self.draft_length.chances[NGRAM].chance(_sureness(state.matched))
        share = self.draft_length.chances[drafter].share
        if state.plan.is_gated and drafter == state.plan.lead.name:
            return 1 - self._asked_share * (1 - share)
        return share

    def _block_seconds(self, drafter: str, length: int, state: StepState, texts: int) -> float:
        """To draft so many pieces of each text and to verify them; a gate's others are asked at their usual share."""
        gated, lead = state.plan.is_gated, state.plan.lead
        asked = self._asked_share if gated else 1.0
        passes = list[_Pass]()
        for group in _passes(self._readers([state], drafter), [state] if gated else ()):
            skipped = 1 - asked * _drawn_share(group, [state])
            needed = 1.0 if gated and lead in group else 1 - skipped ** (length + 1)
            rows = texts * (length + 1) * len(group)
            passes.append((group, needed * self.draft_length.seconds(group[0].model, Work(rows, rows, rows))))
        seconds = _together(passes, [state])
        if drafter != NGRAM:
            alone = Work(texts, texts, texts)
            seconds += (length + 1) * self.draft_length.seconds(self._members[drafter].model, alone)
        return seconds


_Pass = tuple[Sequence[Member], float]
"""Members that read in one pass, and the seconds it takes."""


def _together(passes: Sequence[_Pass], states: Sequence[StepState]) -> float:
    """What passes of a step take: those of one device one after the other, and devices side by side.

    The lead of a gate is first, and where one member is drawn, or they are asked in turn, all are one after the other.
    """
    leads = {state.plan.lead for state in states if state.plan.is_gated}
    in_turn = any(state.plan.draw.mixture or state.plan.asks_in_turn for state in states)
    before, beside = 0.0, defaultdict[str, float](float)
    for group, seconds in passes:
        if in_turn or not leads.isdisjoint(group):
            before += seconds
        else:
            beside[_device(group[0])] += seconds
    return before + max(beside.values(), default=0.0)


def _device(member: Member) -> str:
    return member.backend.facts.device


def _passes(members: Sequence[Member], gated: Sequence[StepState]) -> list[list[Member]]:
    """Members in groups that read in one pass: those that share a model, but for leads that gates wait for."""
    leads = {state.plan.lead for state in gated if state.plan.is_gated}
    return [
        *([member] for member in members if member in leads),
        *by_model(member for member in members if member not in leads),
    ]


def _drawn_share(group: Sequence[Member], states: Sequence[StepState]) -> float:
    """How often members that share a model are asked where not all are: as often as one of them is drawn."""
    if not all(state.plan.draw.mixture for state in states):
        return 1.0
    return max(1 / 8, sum(member.weight for member in group))


def _sureness(matched: int) -> float:
    return matched / (LONGEST + 1)
