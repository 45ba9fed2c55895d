"""A request that can be served, and what it takes up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unisono.engine.engine import Engine
from unisono.engine.request import PreparedRequest
from unisono.engine.scheduler import Cost


@dataclass(frozen=True, eq=False)
class Examined:
    """One or several texts of one prompt, for one engine."""

    model: str
    """The name under which the engine is asked for."""
    engine: Engine
    submission: PreparedRequest
    n: int
    """How many texts."""

    @cached_property
    def cost(self) -> Cost:
        """What it takes up, at most."""
        members, submission = self.engine.members, self.submission
        prompts = {name: len(ids) for name, ids in submission.ids.items()}
        # no piece is spelled with more ids than bytes, and a first one may get a space
        longest = int(np.diff(self.engine.union.offset_U).max(initial=0)) + 1
        pieces = submission.limits.max_new_tokens * longest
        memory = Counter[int]()
        for member in members:
            memory[member.model] += min(member.backend.facts.context, prompts[member.name] + pieces)
        slots = Counter(member.model for member in members)
        return Cost(slots, max(self.n, submission.width), prompts, memory)
