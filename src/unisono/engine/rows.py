"""Distributions of several texts at one position, wherever they were heard."""

from __future__ import annotations

from collections.abc import Sequence

from array_api_compat import array_namespace

from unisono.engine.member import Member
from unisono.engine.step_state import StepState
from unisono.fusion.fold import Array


def rows_at(windows: Sequence[StepState], member: Member, position: int) -> Array:
    """A member's distributions ``p_BU`` at one position of several windows."""
    found = [window.where(member, position) for window in windows]
    reading = found[0][0]
    if all(other is reading for other, _ in found):
        return reading.fold([row for _, row in found])
    folded: list[Array] = [None] * len(found)
    for reading in {id(reading): reading for reading, _ in found}.values():
        places = [place for place, (other, _) in enumerate(found) if other is reading]
        p_NU = reading.fold([found[place][1] for place in places])
        for place, p_U in zip(places, p_NU, strict=True):
            folded[place] = p_U
    return array_namespace(folded[0]).stack(folded)
