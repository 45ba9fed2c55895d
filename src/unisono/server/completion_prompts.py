"""Prompts of completions: text, or one member's token ids; returned and scored where a call asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unisono.chat.messages import Prompt
from unisono.engine.engine import Engine
from unisono.engine.request import GenerationRequest
from unisono.server.alignment import align
from unisono.server.errors import invalid
from unisono.server.logprobs import CompletionLogprobs
from unisono.server.openai_library import Logprobs
from unisono.server.schemas import CompletionRequest
from unisono.step_records import StepRecord


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """The pieces of a prompt that was scored."""

    unscored: Sequence[bytes]
    """Those that nothing precedes; a special token's is empty."""
    steps: Sequence[StepRecord]
    """The others."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is returned with what follows it."""

    text: str
    is_ids: bool = False
    """Whether it is token ids, of which each is listed, also one that is no text."""

    def logprobs(self, scored: ScoredPrompt, count: int) -> Logprobs:
        """The lists of its pieces, with the ``count`` most likely ones of each."""
        unscored = [piece for piece in scored.unscored if piece or self.is_ids]
        found = CompletionLogprobs(count).of(scored.steps, unscored=unscored)
        read = b"".join([*unscored, *(step.piece or b"" for step in scored.steps)]).decode(errors="replace")
        places = align(read, self.text)
        found.text_offset = [places[offset] for offset in found.text_offset or ()]
        return found


def prompts_of(request: CompletionRequest, engine: Engine) -> list[Prompt]:
    """The prompts of a call. Raises a `Refusal` where ids are given that are no member's."""
    given = request.prompt
    several = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    if not isinstance(several[0], str) and len(engine.members) > 1:
        known = ", ".join(f"{request.model}/{member.name}" for member in engine.members)
        raise invalid("prompt", f"prompt holds token ids, and members have different ones: send text, or ask {known}")
    return [Prompt(text=each) if isinstance(each, str) else Prompt(ids=tuple(each)) for each in several]


def echo_of(prompt: Prompt, engine: Engine) -> Echo:
    """How a prompt is returned."""
    if prompt.ids is None:
        return Echo(prompt.text or "")
    pieces = engine.members[0].speller.vocabulary.pieces
    data = b"".join(pieces[token] or b"" for token in prompt.ids if 0 <= token < len(pieces))
    return Echo(data.decode(errors="replace"), is_ids=True)


def scoring(request: GenerationRequest, count: int) -> GenerationRequest:
    """The request that scores the prompt of another one and keeps so many of the most likely pieces."""
    return replace(request, score=True, n=1, trace=False, constraint=None, top_logprobs=count)


def check_scored(request: CompletionRequest, n: int, *, writes: bool) -> None:
    """Refuse what goes with no scored prompt. Raises a `Refusal`."""
    if request.stream and request.prompt_logprobs is not None:
        raise invalid("prompt_logprobs", "prompt_logprobs is given, and a scored prompt does not stream")
    if request.stream:
        raise invalid("echo", "echo is given with logprobs or max_tokens 0, and a scored prompt does not stream")
    if not writes and n > 1:
        raise invalid("n", f"n is {n}, but with max_tokens 0 nothing is written")
