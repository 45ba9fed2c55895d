"""What is chosen for one text by bounds, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unisono.engine.member import Member
from unisono.fusion.bounds import Certificate, Voter


class Doubt(NamedTuple):
    """What could still decide: members that may know more, and columns of which they may."""

    members: Sequence[Member]
    columns: Sequence[int]


class Choice(NamedTuple):
    """What is chosen for one text, and why."""

    column: int
    """What is written: a grammar lets the largest column stand for another here and there."""
    is_certain: bool
    """Whether it is proved, and that these members voted."""
    certificate: Certificate
    asked: tuple[Member, ...]
    told: Mapping[str, Voter]
    """By member that was asked, what is known of its distribution."""
    doubt: Doubt | None = None
