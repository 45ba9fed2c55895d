"""What the engine knows of grammars: a constrained sequence carries the state of its parse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

from unisono.config.constraint import Constraint
from unisono.fusion.mask import Allowed


class Parse(Protocol):
    """The state of one sequence in its grammar."""

    def allowed(self, ahead: Sequence[int]) -> Allowed:
        """The columns that may follow what is written and some pieces more; END where the text may end.

        Args:
            ahead: columns of drafted pieces, each allowed after those before it.

        Raises:
            SpecError: nothing may follow that the members could write, or the grammar grew too complex.
        """
        ...

    def consume(self, column: int) -> None:
        """Advance by a chosen piece, which was allowed."""
        ...

    def copy(self) -> Self:
        """An independent copy, for a sequence that branches off."""
        ...


Compile = Callable[[Constraint], Parse]
"""Compiles a constraint over the columns of the union and returns its initial state. Raises a `SpecError`."""
