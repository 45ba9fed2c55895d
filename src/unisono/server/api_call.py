"""What a client's call asks for, in whichever form it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unisono.engine.request import GenerationRequest
from unisono.server.call_reader import Calling
from unisono.server.completion_prompts import Echo
from unisono.server.constraint import OWN
from unisono.server.prompt_cut import PromptCut
from unisono.server.prompt_logprobs import PromptLogprobs


@dataclass(frozen=True, slots=True)
class ApiCall:
    """What a call asks for: requests for each prompt, and the form of the answer."""

    requests: tuple[GenerationRequest, ...]
    lead: str
    """The member whose count of the prompt is ``prompt_tokens``."""
    stream: bool
    include_usage: bool
    logprobs: int | None
    """How many of the most likely pieces to list for each; ``None`` for no log-probabilities."""
    counts_on: bool = False
    """Whether each chunk of a stream with usage reports that of its choice so far."""
    chunk_seconds: float = 0.0
    """The least time between chunks of a stream."""
    echo: tuple[Echo, ...] = ()
    """By prompt, how it is returned; empty where none is."""
    scored: tuple[GenerationRequest, ...] = ()
    """By prompt, the request that scores it; empty where none is scored. ``requests`` is empty where nothing else is
    asked for.
    """
    prompt_logprobs: PromptLogprobs | None = None
    """How the scored prompts are listed by themselves; ``None`` where they are not."""
    calling: Calling | None = None
    """The tools that the answer may call; ``None`` if there are none."""
    constraint_field: str = OWN
    """The field that the constraint comes from."""
    sampling_field: str = "unisono.sampling"
    """The field that says how pieces are chosen, by its old name where that is used."""
    clamped: str | None = None
    """The limit that was clamped, and to what."""
    left_out: Sequence[str] = ()
    """The types of tools that no member is offered."""
    cuts: tuple[PromptCut, ...] = ()
    """How long the prompt may be."""
    shows_reasoning: bool = True
    """Whether the answer tells what was reasoned."""

    @property
    def first(self) -> GenerationRequest:
        """One of the requests, which have model and trace in common."""
        return (self.requests or self.scored)[0]

    @property
    def begun(self) -> str:
        """The text that what is written follows."""
        return "" if self.first.begin is None else self.first.begin.shown

    @property
    def pending(self) -> bytes:
        """The bytes of a character that was begun there."""
        return b"" if self.first.begin is None else self.first.begin.pending

    @property
    def texts(self) -> int:
        """How many texts are written."""
        return sum(request.n for request in self.requests)
