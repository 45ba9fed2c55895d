"""Combinations of choices among which any few choices meet, in place of a product that would take too long.

A fault that shows where two or three choices meet is found by these as by the product. ``UNISONO_TEST_ALL=1`` tries the
whole product.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

ALL = bool(os.environ.get("UNISONO_TEST_ALL"))


def some(items: Sequence[Any], each: int) -> Sequence[Any]:
    """One of so many items, for what real models take long over; all of them with ``UNISONO_TEST_ALL``."""
    return items if ALL else items[::each]


Meeting = tuple[tuple[int, int], ...]
"""Choices that stand in one combination: of each the axis and the place on it."""


def covering(*of: Iterable[Any], together: int = 2, whole: bool = ALL) -> list[tuple[Any, ...]]:
    """Combinations of one choice of each axis; any choices of ``together`` axes stand in one of them.

    Every combination begins with choices that have not met yet, and takes of each other axis what lets most meet that
    have not; where that is equal, what has been taken least. The same axes give the same combinations.
    """
    axes = [tuple(choices) for choices in of]
    if whole or together >= len(axes):
        return list(itertools.product(*axes))
    places = [[(axis, place) for place in range(len(choices))] for axis, choices in enumerate(axes)]
    missing: dict[Meeting, None] = {
        meeting: None for some in itertools.combinations(places, together) for meeting in itertools.product(*some)
    }
    taken: Counter[tuple[int, int]] = Counter()
    found = []
    while missing:
        row = dict(next(iter(missing)))
        for axis in sorted(range(len(axes)), key=lambda axis: -len(axes[axis])):
            if axis not in row:
                row[axis] = max(
                    range(len(axes[axis])),
                    key=lambda place: (_met(row, axis, place, together, missing), -taken[axis, place]),
                )
        for meeting in itertools.combinations(sorted(row.items()), together):
            missing.pop(meeting, None)
        taken.update(row.items())
        found.append(tuple(choices[row[axis]] for axis, choices in enumerate(axes)))
    return found


def _met(row: dict[int, int], axis: int, place: int, together: int, missing: dict[Meeting, None]) -> int:
    """How many choices meet for the first time where one more is added to a part of a combination."""
    beside = itertools.combinations(row.items(), together - 1)
    return sum(tuple(sorted((*some, (axis, place)))) in missing for some in beside)
