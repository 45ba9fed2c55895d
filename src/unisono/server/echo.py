"""Prompts of completions: text, or one member's token ids; returned and scored where a call asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from unisono.chat.messages import Prompt
from unisono.engine.engine import Engine
from unisono.engine.request import GenerationRequest
from unisono.records import Generation, StepRecord
from unisono.server.errors import invalid
from unisono.server.schemas import CompletionRequest


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is returned with what follows it."""

    text: str
    data: bytes
    is_ids: bool = False
    """Whether it is token ids, of which each is listed."""

    def steps(self, scored: Generation) -> Iterator[StepRecord]:
        """The prompt's pieces; the first has no likelihood."""
        if self.is_ids or not scored.data.endswith(self.data):  # else a BOS is the first, or a space more was read
            yield StepRecord(self.data.removesuffix(scored.data), 0.0, (), {})
        yield from scored.steps or ()


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
        return Echo(prompt.text or "", (prompt.text or "").encode(errors="replace"))
    pieces = engine.members[0].speller.vocabulary.pieces
    data = b"".join(pieces[token] or b"" for token in prompt.ids if 0 <= token < len(pieces))
    return Echo(data.decode(errors="replace"), data, is_ids=True)


def scoring(request: GenerationRequest) -> GenerationRequest:
    """The request that scores the prompt of another one."""
    return replace(request, score=True, n=1, trace=False, constraint=None)


def check_echo(request: CompletionRequest, n: int, *, writes: bool) -> None:
    """Refuse what goes with no scored prompt. Raises a `Refusal`."""
    if request.stream:
        raise invalid("echo", "echo is given with logprobs or max_tokens 0, and a scored prompt does not stream")
    if not writes and n > 1:
        raise invalid("n", f"n is {n}, but with max_tokens 0 nothing is written")
