"""What the engine knows of grammars: a text that is bound to one carries how far it has come in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

from unisono.config.constraint import Constraint
from unisono.fusion.mask import Allowed


class Parse(Protocol):
    """How far one text has come in the grammar that it is bound to."""

    def allowed(self, ahead: Sequence[int]) -> Allowed:
        """The columns that may follow what is written and some pieces more; END where the text may end.

        Args:
            ahead: columns of drafted pieces, each of them allowed behind those before it.

        Raises:
            SpecError: nothing may follow that the members could write, or the grammar grew too complex.
        """
        ...

    def consume(self, column: int) -> None:
        """Go on behind a piece that was written, which was allowed."""
        ...

    def copy(self) -> Self:
        """The same for a text that is as this one is now and goes on by itself."""
        ...


Compile = Callable[[Constraint], Parse]
"""Makes a constraint a grammar over the columns of the union; gives its beginning. Raises a `SpecError`."""
