"""Lengths to which other servers cut a prompt: none is cut here, so a prompt that is longer is refused."""

from __future__ import annotations

from typing import NamedTuple

from unisono.server.fields import unsupported
from unisono.server.schemas import GenerationFields


class PromptCut(NamedTuple):
    """A length that a field gives."""

    field: str
    given: int
    written: int = 0
    """Pieces of the text that follows, which it counts, too."""

    def check(self, member: str, length: int) -> None:
        """Raise a `Refusal` where a member's prompt is longer."""
        if length + self.written > self.given:
            with_text = f" and {self.written} for the text" if self.written else ""
            words = f"the prompt has {length} tokens for member {member!r}{with_text}, and is read whole: shorten it"
            raise unsupported(self.field, self.given, words)


def read_cuts(request: GenerationFields) -> tuple[PromptCut, ...]:
    """The lengths that a request gives; 0 and -1 are what a context holds."""
    written = max(request.max_tokens or request.max_completion_tokens or 0, 0)
    cuts = (
        PromptCut("truncate_prompt_tokens", request.truncate_prompt_tokens or 0),
        PromptCut("truncation_length", request.truncation_length or 0, written),
    )
    return tuple(cut for cut in cuts if cut.given > 0)
