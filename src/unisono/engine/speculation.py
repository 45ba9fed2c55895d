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

from unisono.config.method import AUTO, NGRAM
from unisono.engine.draft_length import DraftLengthController, Outlook, Work
from unisono.engine.member import Member
from unisono.engine.ngram import LONGEST
from unisono.engine.prefill import Prefill
from unisono.engine.runner import MemberBatch, Runner, by_model
from unisono.engine.sampler import Sampler
from unisono.engine.step_state import StepState
from unisono.vocab.union import UnionVocabulary

SHARE_MEMORY = 60.0
"""Over how many pieces the share of asked ones is taken, about."""

SAMPLING = 4
"""At every so many pieces the members that do not draft are looked at, to know who could."""


class Speculator:
    """Extends windows by drafted pieces, and learns from what became of them."""

    def __init__(
        self,
        members: Sequence[Member],
        union: UnionVocabulary,
        hearing: Runner,
        chooser: Sampler,
        pace: DraftLengthController,
        backlog: Prefill,
    ) -> None:
        """Bind it to an engine's members."""
        self._members = {member.name: member for member in members}
        self._end = union.end
        self._chooser = chooser
        self._hearing = hearing
        self._pace = pace
        self._backlog = backlog
        self._asked_share = 1.0
        """The share of pieces at which all members were asked, lately."""

    @property
    def in_use(self) -> bool:
        """Whether anybody has drafted yet; until then nothing is learned."""
        return self._pace.in_use

    def extend(self, windows: Sequence[StepState]) -> None:
        """Draft for every text whose plan says so; never before its first piece, for which somebody waits."""
        drafting: defaultdict[str, list[StepState]] = defaultdict(list)
        for window in windows:
            if window.plan.drafter is None:
                continue
            self._pace.in_use = True
            if not window.text.pieces:
                continue
            if window.text.history is not None:
                window.found, window.matched = window.text.history.propose(window.plan.max_pieces)
            window.drafter = self._drafter(window, windows)
            if window.drafter == NGRAM:
                self._draft_found(window, len(windows))
            elif window.drafter is not None:
                drafting[window.drafter].append(window)
        for name, group in drafting.items():
            self._draft_by(self._members[name], group, len(windows))

    def learn(self, windows: Sequence[StepState], position: int, choices: Sequence[int]) -> None:
        """Hold what was guessed for a position, or would have been by its voters, against what was chosen."""
        for window, choice in zip(windows, choices, strict=True):
            if window.plan.drafter is None:
                continue
            asked = window.opens(position)
            self._asked_share += (asked - self._asked_share) / SHARE_MEMORY
            if position == 0 and window.found:
                self._pace.learn_guess(NGRAM, _sureness(window.matched), window.found[0] == choice)
            if position < len(window.guesses) and not window.settles(position):
                column, mass = window.guesses[position]
                self._pace.learn_guess(str(window.drafter), mass, column == choice)
            if window.combines(position) and window.text.pieces % SAMPLING == 0:
                self._learn_from_voters(window, position, choice)

    def _learn_from_voters(self, window: StepState, position: int, choice: int) -> None:
        """Learn what members would have guessed that did not draft."""
        for member in window.voters(position):
            if member.name != window.drafter and window.plan.drafter in (member.name, AUTO):
                [(column, mass)] = self._chooser.guess([window], position, member)
                self._pace.learn_guess(member.name, mass, column == choice)

    def learn_step(self, windows: Sequence[StepState], seconds: float) -> None:
        """Note what a step gave and took; one that read prompts tells nothing."""
        if not any(window.opening for window in windows):
            pieces = sum(window.settled for window in windows)
            self._pace.learn_step(len(windows), pieces, seconds, self._plain_seconds(windows))

    def _draft_found(self, window: StepState, texts: int) -> None:
        """Draft what look-up found, as long as that pays."""
        chance = self._pace.chance(NGRAM, _sureness(window.matched))
        members = list(self._members.values())
        for column in window.found:
            if not window.fits(column):
                return
            outlook = Outlook(window.sure, chance, waits=True)
            if not self._pace.go_on([outlook], lambda count: self._longer_blocks(members, [window], count), texts):
                return
            window.sure *= chance
            window.draft(column)

    def _draft_by(self, drafter: Member, windows: list[StepState], texts: int) -> None:
        """Let a member draft for some windows, a piece for each in one pass, as long as that pays."""
        others = [member for member in self._members.values() if member is not drafter]
        group, position = windows, 0
        while group:
            self._hearing.run([MemberBatch(drafter, [(window, position, position) for window in group], keep=True)])
            self._hearing.read_gates([window for window in group if window.reads_gate], position)
            for window, guess in zip(group, self._chooser.guess(group, position, drafter), strict=True):
                window.guesses.append(guess)
            able = [window for window in group if self._able(window)]
            outlooks = [Outlook(window.sure, self._chance(window), window.waits) for window in able]
            waiting = [window for window in windows if window.waits]

            def cost(count: int, waiting: Sequence[StepState] = waiting) -> float:
                drafting = self._pace.seconds(drafter.model, Work(count, count, count))
                return drafting + self._longer_blocks(others, waiting, count)

            group = [able[index] for index in self._pace.go_on(outlooks, cost, texts)]
            for window in group:
                window.sure *= self._chance(window)
                window.draft(window.guesses[position][0])
            position += 1

    def _able(self, window: StepState) -> bool:
        """Whether the drafter's choice at the last position can be drafted at all."""
        column = window.guesses[-1][0]
        return window.last < window.plan.max_pieces and column != self._end and window.fits(column)

    def _chance(self, window: StepState) -> float:
        """The chance that the drafter's choice at the last position holds."""
        if window.settles(window.last):
            return 1.0
        return self._pace.chance(str(window.drafter), window.guesses[-1][1])

    def _longer_blocks(self, members: Sequence[Member], windows: Sequence[StepState], count: int) -> float:
        """What it costs the members if the blocks that they will have to read are so many pieces longer."""
        extra, rows = 0.0, sum(window.rows_wanted for window in windows)
        for group in _passes(members, windows):
            readers, model = len(group), group[0].model
            tokens = sum(window.unread(member) for window in windows for member in group)
            longer = Work(readers * len(windows), tokens + readers * count, readers * (rows + count))
            more = self._pace.seconds(model, longer)
            more -= self._pace.seconds(model, Work(readers * len(windows), tokens, readers * rows))
            extra += more * _drawn_share(group, windows)
        return extra

    def _plain_seconds(self, windows: Sequence[StepState]) -> float:
        """What one piece for every text would take without drafts."""
        texts, total = len(windows), 0.0
        gated = all(window.plan.is_gated for window in windows)
        leads = {window.plan.lead for window in windows}
        share = max(self._asked_share, 1 / 8) if gated else 1.0
        for group in _passes(list(self._members.values()), windows if gated else ()):
            rows = texts * len(group)
            asked = _drawn_share(group, windows)
            if gated:
                asked = asked * share if leads.isdisjoint(group) else 1.0
            total += asked * self._pace.seconds(group[0].model, Work(rows, round(rows / asked), rows))
        return total

    def _drafter(self, window: StepState, windows: Sequence[StepState]) -> str | None:
        """Who drafts for a text: as its plan says, or who promises the best rate.

        Nobody does where drafting takes a pass of its own, which the lead's gate could have spared, or that another
        member is drawn, or which the drafter could have shared with its relatives, if what it promises is no better.
        """
        drafter, texts = window.plan.drafter, len(windows)
        if drafter == AUTO:
            names = [name for name in self._members if self._is_near(name, window)] if len(self._members) > 1 else []
            rates = {name: self._promise(name, window, texts) for name in (*names, *([NGRAM] * bool(window.found)))}
            drafter = max(rates, key=lambda name: rates[name], default=NGRAM)
        if drafter is None or drafter == NGRAM or not self._reads_apart(self._members[drafter], window):
            return drafter
        if not self._is_near(drafter, window):
            return None
        plain = self._plain_seconds(windows)
        if plain and self._promise(drafter, window, texts, shortest=1) * plain < texts:
            return None
        return drafter

    def _is_near(self, drafter: str, window: StepState) -> bool:
        """Whether a member can draft now, having no more to read before than a step may read."""
        return not self._backlog.is_far(window.cursor(self._members[drafter]))

    def _reads_apart(self, drafter: Member, window: StepState) -> bool:
        """Whether a drafter reads in a pass that a step without drafts may not have."""
        if window.plan.is_gated:
            return drafter is not window.plan.lead
        if window.plan.draw.one_member:
            return True
        return any(other.model == drafter.model for other in self._members.values() if other is not drafter)

    def _promise(self, drafter: str, window: StepState, texts: int, shortest: int = 0) -> float:
        """Pieces a second to expect of all texts, at the drafter's best length, if each guess holds as most did."""
        gated = window.plan.is_gated
        lead = window.plan.lead
        others = [member for member in self._members.values() if member.name != drafter]
        if drafter == NGRAM:
            share = self._pace.chance(NGRAM, _sureness(window.matched))
        else:
            share = self._pace.share(drafter)
            if gated and drafter == lead.name:
                share = 1 - self._asked_share * (1 - share)
        rates = []
        pieces, hold = 0.0, 1.0
        for length in range(window.plan.max_pieces + 1):
            pieces += texts * hold
            hold *= share
            seconds = 0.0
            if drafter != NGRAM:
                alone = Work(texts, texts, texts)
                seconds += (length + 1) * self._pace.seconds(self._members[drafter].model, alone)
            share_asked = self._asked_share if gated else 1.0
            for group in _passes(others, [window] if gated else ()):
                skipped = 1 - share_asked * _drawn_share(group, [window])
                needed = 1.0 if gated and lead in group else 1 - skipped ** (length + 1)
                rows = texts * (length + 1) * len(group)
                seconds += needed * self._pace.seconds(group[0].model, Work(rows, rows, rows))
            rates.append(pieces / seconds if seconds else math.inf)
        return max(rates[shortest:])


def _passes(members: Sequence[Member], gated: Sequence[StepState]) -> list[list[Member]]:
    """Members in groups that read in one pass: those that share a model, but for leads that gates wait for."""
    leads = {window.plan.lead for window in gated if window.plan.is_gated}
    return [
        *([member] for member in members if member in leads),
        *by_model(member for member in members if member not in leads),
    ]


def _drawn_share(group: Sequence[Member], windows: Sequence[StepState]) -> float:
    """How often members that share a model are asked where not all are: as often as one of them is drawn."""
    if not all(window.plan.draw.one_member for window in windows):
        return 1.0
    return max(1 / 8, sum(member.weight for member in group))


def _sureness(matched: int) -> float:
    """How sure look-up is, from how many pieces were the same."""
    return matched / (LONGEST + 1)
