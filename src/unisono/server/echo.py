"""Prompts of completions: text, or one member's token ids; returned and scored where a call asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from unisono.chat.messages import Prompt
from unisono.engine.engine import Engine
from unisono.engine.request import GenerationRequest
from unisono.records import Generation, StepRecord
from unisono.server.errors import Refusal, invalid
from unisono.server.schemas import CompletionRequest


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is returned with what follows it."""

    text: str
    first: bytes | None = None
    """Of a prompt of token ids the bytes of the first, which cannot be scored: nothing precedes it."""

    def steps(self, scored: Generation | None) -> Iterator[StepRecord]:
        """The prompt's pieces; the first has no likelihood."""
        if self.first is not None:
            yield StepRecord(self.first, 0.0, (), {})
        yield from (scored.steps or ()) if scored is not None else ()


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
    known = [pieces[token] or b"" if 0 <= token < len(pieces) else b"" for token in prompt.ids]
    return Echo(b"".join(known).decode(errors="replace"), known[0])


def scored(request: GenerationRequest) -> GenerationRequest | None:
    """The request that scores the prompt of another one; ``None`` where a prompt is a single token."""
    prompt = request.prompt
    if prompt.ids is None:
        return replace(request, prompt=Prompt(text=""), given=prompt.text, n=1, trace=False, constraint=None)
    if len(prompt.ids) < 2:
        return None
    begins, given = replace(prompt, ids=prompt.ids[:1]), prompt.ids[1:]
    return replace(request, prompt=begins, given=given, n=1, trace=False, constraint=None)


def check_echo(request: CompletionRequest, requests: Sequence[GenerationRequest], scoring: Sequence[object]) -> None:
    """Refuse what cannot be scored. Raises a `Refusal`."""
    if None in scoring:
        raise Refusal(400, "a prompt of one token has nothing to score", param="prompt", code="invalid_prompt")
    if request.stream:
        raise invalid("echo", "echo is given with logprobs or max_tokens 0, and a scored prompt does not stream")
    if request.max_tokens == 0 and requests[0].n > 1:
        raise invalid("n", f"n is {requests[0].n}, but with max_tokens 0 nothing is written")
