"""How far to draft: what a longer block costs, how likely its pieces hold, and whether that pays.

Drafting one piece more is worth its time when the pieces that it is expected to give come at a better
rate than the ensemble writes at anyway: the rule of optimal stopping for a ratio of rewards to times
(renewal-reward theorem; Ross, Stochastic Processes, 1996, section 3.6). Nothing of it changes what is
written. Costs are learned from the passes that are run, and chances from every step at which a guess
can be held against the choice, drafted or not.
"""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

BLOCK_LIMIT = 128
"""Passes over more ids than this are prompts; they tell nothing of the cost of short blocks."""
SLOPE = 0.05
"""How much of a small pass one id more is thought to cost before such a pass was run: little, so that it is tried."""
RECENT = 5
"""Passes of one size that its cost is the median of."""
STALE = 300
"""After so many passes of a member, the cost of a size that did not come up is forgotten and tried anew."""
MEMORY = 60.0
"""How many guesses a chance is the share of, about; older ones fade."""
SMOOTHING = 0.1
"""The weight of the newest step in the rate."""


@dataclass(slots=True)
class PassTimes:
    """What a member's passes take, by how many ids they read."""

    recent: dict[int, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=RECENT)))
    seen: dict[int, int] = field(default_factory=dict)
    passes: int = 0
    _medians: dict[int, float] = field(default_factory=dict)

    def learn(self, tokens: int, seconds: float) -> None:
        """Note one pass."""
        self.passes += 1
        if tokens > BLOCK_LIMIT:
            return
        self.recent[tokens].append(seconds)
        self._medians[tokens] = statistics.median(self.recent[tokens])
        self.seen[tokens] = self.passes
        for size, last in list(self.seen.items()):
            if self.passes - last > STALE:
                del self.seen[size], self.recent[size], self._medians[size]

    def seconds(self, tokens: int) -> float:
        """The expected time of a pass over so many ids; 0 for no ids, and while nothing is known."""
        if not tokens or not self._medians:
            return 0.0
        if tokens in self._medians:
            return self._medians[tokens]
        below = max((size for size in self._medians if size < tokens), default=None)
        above = min((size for size in self._medians if size > tokens), default=None)
        if below is None:
            assert above is not None
            return self._medians[above] / (1 + SLOPE * (above - tokens))
        low = self._medians[below]
        guess = low * (1 + SLOPE * (tokens - below))
        if above is None:
            return guess
        return min(guess, max(low, self._medians[above]))


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
        self.share = 0.6
        """The share of all guesses that held, lately."""

    def learn(self, sureness: float, held: bool) -> None:
        """Note a guess and whether it was chosen."""
        place = self._bin(sureness)
        fade = 1 - 1 / MEMORY
        self._held[place] = self._held[place] * fade + held
        self._made[place] = self._made[place] * fade + 1
        self.share += (held - self.share) / MEMORY

    def chance(self, sureness: float) -> float:
        """The chance that a guess of this sureness holds."""
        place = self._bin(sureness)
        return self._held[place] / self._made[place]

    def _bin(self, sureness: float) -> int:
        return sum(sureness > edge for edge in self.EDGES)


@dataclass(frozen=True, slots=True)
class Outlook:
    """A text that could draft one piece more."""

    sure: float
    """The chance that all drafted so far holds."""
    chance: float
    """The chance that the next drafted piece holds too, if they do."""
    waits: bool
    """Whether something drafted waits for the others; where nothing does, a step may as well end."""


Cost = Callable[[int], float]
"""Seconds that drafting one piece more costs, if so many texts do it."""


class Pace(Protocol):
    """Decides how far drafts go."""

    def learn_pass(self, member: str, tokens: int, seconds: float) -> None:
        """Note what a pass took."""
        ...

    def learn_guess(self, drafter: str, sureness: float, held: bool) -> None:
        """Note whether a guess was chosen."""
        ...

    def learn_step(self, texts: int, pieces: int, seconds: float, plain: float) -> None:
        """Note what a step gave and took, and what one piece for every text would take if all were asked."""
        ...

    def seconds(self, member: str, tokens: int) -> float:
        """The expected time of a pass."""
        ...

    def chance(self, drafter: str, sureness: float) -> float:
        """The chance that a guess holds."""
        ...

    def share(self, drafter: str) -> float:
        """The share of a drafter's guesses that hold."""
        ...

    def go_on(self, outlooks: Sequence[Outlook], cost: Cost, texts: int) -> list[int]:
        """Which of the outlooks draft one piece more, in a step of so many texts; none ends the drafting."""
        ...


class AdaptivePace:
    """Drafts as long as it pays."""

    def __init__(self) -> None:
        """Begin without experience."""
        self._times: defaultdict[str, PassTimes] = defaultdict(PassTimes)
        self._chances: defaultdict[str, Chances] = defaultdict(Chances)
        self._rates: dict[int, float] = {}

    def learn_pass(self, member: str, tokens: int, seconds: float) -> None:
        """See `Pace`."""
        self._times[member].learn(tokens, seconds)

    def learn_guess(self, drafter: str, sureness: float, held: bool) -> None:
        """See `Pace`."""
        self._chances[drafter].learn(sureness, held)

    def learn_step(self, texts: int, pieces: int, seconds: float, plain: float) -> None:
        """See `Pace`."""
        rate = pieces / seconds
        known = self._rates.get(texts, rate)
        floor = texts / plain if plain else 0.0
        self._rates[texts] = max(known + SMOOTHING * (rate - known), floor)

    def seconds(self, member: str, tokens: int) -> float:
        """See `Pace`."""
        return self._times[member].seconds(tokens)

    def chance(self, drafter: str, sureness: float) -> float:
        """See `Pace`."""
        return self._chances[drafter].chance(sureness)

    def share(self, drafter: str) -> float:
        """See `Pace`."""
        return self._chances[drafter].share

    def go_on(self, outlooks: Sequence[Outlook], cost: Cost, texts: int) -> list[int]:
        """See `Pace`."""
        if not any(outlook.waits for outlook in outlooks):
            return []
        order = sorted(range(len(outlooks)), key=lambda i: -outlooks[i].sure * outlooks[i].chance)
        best: tuple[float, int] = (0.0, 0)
        gain = 0.0
        for count, index in enumerate(order, 1):
            gain += outlooks[index].sure * outlooks[index].chance
            best = max(best, (gain - self._rates.get(texts, 0.0) * cost(count), count))
        return sorted(order[: best[1]])


class SteadyPace:
    """Drafts as far as allowed, whatever it costs: for tests and comparisons."""

    def learn_pass(self, member: str, tokens: int, seconds: float) -> None:
        """Nothing to learn."""

    def learn_guess(self, drafter: str, sureness: float, held: bool) -> None:
        """Nothing to learn."""

    def learn_step(self, texts: int, pieces: int, seconds: float, plain: float) -> None:
        """Nothing to learn."""

    def seconds(self, member: str, tokens: int) -> float:
        """Nothing costs anything."""
        return 0.0

    def chance(self, drafter: str, sureness: float) -> float:
        """Everything is hoped to hold."""
        return 1.0

    def share(self, drafter: str) -> float:
        """Everything is hoped to hold."""
        return 1.0

    def go_on(self, outlooks: Sequence[Outlook], cost: Cost, texts: int) -> list[int]:
        """All texts, as long as one waits for the others."""
        return list(range(len(outlooks))) if any(outlook.waits for outlook in outlooks) else []
