"""How far to draft: what a longer block costs, how likely its pieces hold, and whether that pays.

Drafting one piece more is worth its time when the pieces that it is expected to give come at a better rate than the
ensemble writes at anyway: the rule of optimal stopping for a ratio of rewards to times (renewal-reward theorem; Ross,
Stochastic Processes, 1996, section 3.6). Nothing of it changes what is written. Costs are learned from the passes that
are run, and chances from every step at which a guess can be held against the choice, drafted or not.
"""

from __future__ import annotations

import bisect
import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

BLOCK_LIMIT = 128
"""Passes over more ids than this are prompts; they tell nothing of the cost of short blocks."""
SLOPE = 0.05
"""How much of the largest pass so far one id more is thought to cost: little, so that it is tried."""
RECENT = 5  # passes of one size that its cost is the median of
STALE = 300
"""After this many passes of a model, the cost of a size that did not come up is forgotten and tried anew."""
MEMORY = 60.0  # guesses that a chance is the share of, about; older ones fade
SMOOTHING = 0.1  # the weight of the newest step in the rate


@dataclass(frozen=True, slots=True)
class Work:
    """What is read in one pass, over all texts and all members that share it."""

    texts: int
    """Texts, each as often as members read it."""
    tokens: int
    rows: int
    """Distributions that are wanted: one a text, more where drafts are verified."""


class SizeTimes:
    """What passes of some sizes take: the median of the latest of each size."""

    def __init__(self) -> None:
        self._recent: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._medians: dict[int, float] = {}
        self._seen: dict[int, int] = {}
        self._passes = 0

    def learn(self, size: int, seconds: float) -> None:
        self._passes += 1
        self._recent[size].append(seconds)
        self._medians[size] = statistics.median(self._recent[size])
        self._seen[size] = self._passes
        for old in [old for old, last in self._seen.items() if self._passes - last >= STALE]:
            del self._seen[old], self._recent[old], self._medians[old]

    def seconds(self, size: int) -> float | None:
        """The expected time of a pass of this size; ``None`` while nothing is known."""
        if size in self._medians or not self._medians:
            return self._medians.get(size)
        sizes = sorted(self._medians)
        place = bisect.bisect(sizes, size)
        if place == 0:
            return self._medians[sizes[0]] / (1 + SLOPE * (sizes[0] - size))
        below = self._medians[sizes[place - 1]]
        if place == len(sizes):
            return below * (1 + SLOPE * (size - sizes[-1]))
        part = (size - sizes[place - 1]) / (sizes[place] - sizes[place - 1])
        return below + part * (self._medians[sizes[place]] - below)


class PassTimes:
    """What a model's passes take, by how many ids they read and how many distributions are wanted.

    The output layer is much of a small model, so that reading a block to catch up, for one distribution,
    is cheaper than verifying one, for all. Both are learned apart, and added for what is both at once.
    """

    def __init__(self) -> None:
        self._reading, self._verifying = SizeTimes(), SizeTimes()

    def learn(self, work: Work, seconds: float) -> None:
        if work.tokens > BLOCK_LIMIT:
            return
        if work.rows <= work.texts:
            self._reading.learn(work.tokens, seconds)
        if work.rows == work.tokens:
            self._verifying.learn(work.rows, seconds)
        elif work.rows > work.texts:
            more = self._read(work.tokens) - self._read(work.rows)
            self._verifying.learn(work.rows, max(0.0, seconds - more))

    def seconds(self, work: Work) -> float:
        """The expected time of a pass; 0 for no ids, and while nothing is known."""
        if not work.tokens:
            return 0.0
        if work.rows <= work.texts:
            return self._read(work.tokens)
        verifying = self._verifying.seconds(work.rows)
        if verifying is None:
            return self._read(work.tokens)
        return verifying + max(0.0, self._read(work.tokens) - self._read(work.rows))

    def _read(self, tokens: int) -> float:
        return self._reading.seconds(tokens) or 0.0


class Chances:
    """How often a drafter's guesses hold, by how sure it was of them."""

    EDGES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.85, 0.92, 0.97, 0.99)
    PRIOR = 3.0
    """How many guesses the prior is worth; it takes a drafter at its word."""

    def __init__(self) -> None:
        self._held = [
            self.PRIOR * (low + high) / 2 for low, high in zip((0, *self.EDGES), (*self.EDGES, 1), strict=True)
        ]
        self._made = [self.PRIOR] * len(self._held)
        self.share = 0.6  # of all guesses that held, lately

    def learn(self, sureness: float, held: bool) -> None:
        place = self._bin(sureness)
        fade = 1 - 1 / MEMORY
        self._held[place] = self._held[place] * fade + held
        self._made[place] = self._made[place] * fade + 1
        self.share += (held - self.share) / MEMORY

    def chance(self, sureness: float) -> float:
        place = self._bin(sureness)
        return self._held[place] / self._made[place]

    def _bin(self, sureness: float) -> int:
        return sum(sureness > edge for edge in self.EDGES)


@dataclass(frozen=True, slots=True)
class Outlook:
    """A text that could draft one piece more."""

    sure: float  # the chance that all drafted so far holds
    chance: float  # the chance that the next drafted piece holds too, if they do
    waits: bool
    """Whether something drafted waits for the others; where nothing does, a step may as well end."""


Cost = Callable[[int], float]
"""Seconds that drafting one piece more costs, if this many texts do it."""


class DraftLengthController:
    """Decides how far drafts go: as long as it pays. Chances are of members, costs of models."""

    in_use = False
    """Whether anybody has drafted yet; until then nothing is learned but what passes take, where that is asked for."""
    is_timing = False
    """Whether what passes take is learned though nobody drafts."""

    def __init__(self) -> None:
        self.chances: defaultdict[str, Chances] = defaultdict(Chances)
        self._times: defaultdict[Hashable, PassTimes] = defaultdict(PassTimes)
        self._rates: dict[int, float] = {}

    def learn_pass(self, model: Hashable, work: Work, seconds: float) -> None:
        self._times[model].learn(work, seconds)

    def learn_step(self, texts: int, pieces: int, seconds: float, plain: float) -> None:
        """Note what a step gave and took, and what one piece for every text would take without drafts."""
        rate = pieces / seconds
        known = self._rates.get(texts, rate)
        floor = texts / plain if plain else 0.0
        self._rates[texts] = max(known + SMOOTHING * (rate - known), floor)

    def seconds(self, model: Hashable, work: Work) -> float:
        return self._times[model].seconds(work)

    def go_on(self, outlooks: Sequence[Outlook], cost: Cost, texts: int) -> list[int]:
        """Which of the outlooks draft one piece more, in a step of this many texts; none ends the drafting.

        Nothing is drafted before a step without drafts has shown what that takes.
        """
        rate = self._rates.get(texts)
        if rate is None or not any(outlook.waits for outlook in outlooks):
            return []
        order = sorted(range(len(outlooks)), key=lambda i: -outlooks[i].sure * outlooks[i].chance)
        best: tuple[float, int] = (0.0, 0)
        gain = 0.0
        for count, index in enumerate(order, 1):
            gain += outlooks[index].sure * outlooks[index].chance
            best = max(best, (gain - rate * cost(count), count))
        return sorted(order[: best[1]])
