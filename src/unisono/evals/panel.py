"""Loaded models, and the systems that ask them."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.errors import UnisonoError
from unisono.evals.records import System
from unisono.types import Generation, Limits, Prompt, Score


class Panel:
    """Members that are loaded once and answer for many systems. Not thread-safe."""

    members: tuple[str, ...]
    """The names of the members that vote, in order."""

    def member(self, name: str) -> System:
        """One member alone, greedy: it writes what it would write with no others."""
        raise NotImplementedError

    def generate(self, system: System, asked: Sequence[tuple[Prompt, Limits]]) -> list[Generation | UnisonoError]:
        """Let a system write one text for each prompt, several at once. Their steps are kept.

        What cannot be written comes back as its error; the others go on.
        """
        raise NotImplementedError

    def score(self, system: System, asked: Sequence[tuple[Prompt, str]]) -> list[Score | UnisonoError]:
        """Tell how likely a system finds texts that follow prompts; a prompt that several share is read once.

        What cannot be scored comes back as its error.
        """
        raise NotImplementedError
