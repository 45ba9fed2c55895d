"""From the service to the wire: events become OpenAI's answers, whole or chunk by chunk."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from unisono.engine.events import Ended, Event, Failed, Wrote
from unisono.server.likelihoods import ChatLikelihoods, CompletionLikelihoods, Held
from unisono.server.requests import Job
from unisono.server.wire import (
    ChatAnswer,
    ChatChunk,
    ChatCompletionMessage,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
    ChunkLogprobs,
    CompletionAnswer,
    CompletionChoice,
    CompletionUsage,
    Report,
    TextReport,
)
from unisono.types import Finish, Generation, StepRecord

REASONS: dict[Finish, Literal["stop", "length"]] = {
    "end": "stop",
    "stop": "stop",
    "length": "length",
    "context": "length",
}


class Answer:
    """The answer to one call, as it comes into being; a subclass knows the form of its kind."""

    prefix: str

    def __init__(self, job: Job) -> None:
        self.job = job
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.ended: dict[int, Generation] = {}
        """By choice."""

    def take(self, place: int, event: Event) -> list[bytes]:
        """Note an event of the order of some place; return the chunks that tell it."""
        if isinstance(event, Failed):
            return []
        index = place * self.job.n + event.index
        if isinstance(event, Ended):
            self.ended[index] = event.generation
        return list(self.chunks(index, place, event)) if self.job.stream else []

    def chunks(self, index: int, place: int, event: Wrote | Ended) -> Iterator[bytes]:
        """The chunks that tell an event of a choice."""
        raise NotImplementedError

    def last_chunk(self) -> bytes:
        """The usage, in a chunk without choices."""
        raise NotImplementedError

    def whole(self) -> bytes:
        """The answer, when all has ended."""
        raise NotImplementedError

    @property
    def usage(self) -> CompletionUsage:
        """Tokens of each prompt as the lead counts them, and pieces of all texts."""
        prompts = [self.ended[index] for index in sorted(self.ended) if index % self.job.n == 0]
        read = sum(generation.usage.prompt_tokens[self.job.lead] for generation in prompts)
        written = sum(generation.usage.pieces for generation in self.ended.values())
        return CompletionUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def report(self, index: int, generation: Generation, steps: Sequence[StepRecord] | None = None) -> TextReport:
        """What we tell of a choice beyond OpenAI's fields, at its end; in a stream, its steps were told before."""
        seconds = generation.seconds
        return TextReport(
            index=index,
            finish=generation.finish_reason,
            seed=generation.seed,
            usage=generation.usage.to_json(),
            seconds={
                "total": round(seconds.total, 6),
                "first_piece": round(seconds.first_piece, 6),
                "members": {name: round(value, 6) for name, value in seconds.members.items()},
            },
            trace=self.trace(steps),
        )

    def trace(self, steps: Iterable[StepRecord] | None) -> list[dict[str, Any]] | None:
        """Steps as they are told, where they are asked for."""
        return [step.to_json() for step in steps] if self.job.trace and steps is not None else None

    @property
    def in_order(self) -> list[tuple[int, Generation]]:
        """All choices."""
        return sorted(self.ended.items())


class ChatAnswering(Answer):
    """Answers ``/v1/chat/completions``."""

    prefix = "chatcmpl"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._held: dict[int, Held] = {}
        """What is not told yet of each choice that was begun."""
        self._likelihoods = ChatLikelihoods(job.likeliest)

    def chunks(self, index: int, place: int, event: Wrote | Ended) -> Iterator[bytes]:
        """The role first, then text and its probabilities, at last the reason."""
        if index not in self._held:
            self._held[index] = Held()
            yield self._chunk(index, ChoiceDelta(role="assistant", content=""))
        held = self._held[index]
        if isinstance(event, Ended):
            rest = held.rest(event.generation)
            if rest and self._likelihoods.wanted:
                yield self._chunk(index, ChoiceDelta(content=""), rest)
            report = self.report(index, event.generation)
            yield self._chunk(index, ChoiceDelta(), reason=REASONS[event.generation.finish_reason], report=report)
            return
        told = held.told(event.text, event.steps)
        traced = TextReport(index=index, trace=self.trace(event.steps)) if self.job.trace else None
        if event.text or traced is not None:
            yield self._chunk(index, ChoiceDelta(content=event.text), told, report=traced)

    def _chunk(
        self,
        index: int,
        delta: ChoiceDelta,
        steps: Sequence[StepRecord] = (),
        *,
        reason: Literal["stop", "length"] | None = None,
        report: TextReport | None = None,
    ) -> bytes:
        logprobs = ChunkLogprobs(content=self._likelihoods.of(steps)) if self._likelihoods.wanted and steps else None
        choice = ChunkChoice(index=index, delta=delta, finish_reason=reason, logprobs=logprobs)
        return self._record([choice], report)

    def last_chunk(self) -> bytes:
        """The usage, in a chunk without choices."""
        return self._record([], None, usage=self.usage)

    def _record(
        self, choices: list[ChunkChoice], report: TextReport | None, usage: CompletionUsage | None = None
    ) -> bytes:
        given: dict[str, Any] = {} if report is None else {"unisono": Report(choices=[report])}
        if self.job.include_usage:
            given["usage"] = usage
        chunk = ChatChunk(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.job.model,
            object="chat.completion.chunk",
            **given,
        )
        return chunk.model_dump_json(exclude_unset=True).encode()

    def whole(self) -> bytes:
        """A chat completion."""
        choices, reports = [], []
        for index, generation in self.in_order:
            wanted = self._likelihoods.wanted
            steps = Held().rest(generation) if wanted else ()
            choices.append(
                Choice(
                    index=index,
                    finish_reason=REASONS[generation.finish_reason],
                    logprobs=ChoiceLogprobs(content=self._likelihoods.of(steps)) if wanted else None,
                    message=ChatCompletionMessage(role="assistant", content=generation.text),
                )
            )
            reports.append(self.report(index, generation, generation.steps))
        answer = ChatAnswer(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.job.model,
            object="chat.completion",
            usage=self.usage,
            unisono=Report(choices=reports),
        )
        return answer.model_dump_json(exclude_none=False).encode()


class CompletionAnswering(Answer):
    """Answers ``/v1/completions``."""

    prefix = "cmpl"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._held: dict[int, Held] = {}
        self._likelihoods: dict[int, CompletionLikelihoods] = {}

    def chunks(self, index: int, place: int, event: Wrote | Ended) -> Iterator[bytes]:
        """The prompt first where it is echoed, then text and its probabilities, at last the reason."""
        if index not in self._held:
            self._held[index], self._likelihoods[index] = Held(), CompletionLikelihoods(self.job.likeliest)
            if self.job.echo:
                yield self._chunk(index, self._echo(place))
        held = self._held[index]
        if isinstance(event, Ended):
            report = self.report(index, event.generation)
            reason = REASONS[event.generation.finish_reason]
            yield self._chunk(index, "", held.rest(event.generation), reason=reason, report=report)
            return
        told = held.told(event.text, event.steps)
        traced = TextReport(index=index, trace=self.trace(event.steps)) if self.job.trace else None
        if event.text or traced is not None:
            yield self._chunk(index, event.text, told, report=traced)

    def _echo(self, place: int) -> str:
        return self.job.orders[place].prompt.text or ""

    def _chunk(
        self,
        index: int,
        text: str,
        steps: Sequence[StepRecord] = (),
        *,
        reason: Literal["stop", "length"] | None = None,
        report: TextReport | None = None,
    ) -> bytes:
        logprobs = self._likelihoods[index].of(steps) if self._likelihoods[index].wanted and steps else None
        # OpenAI's type has no choice that goes on; in its streams the reason is null until the end
        choice = CompletionChoice.model_construct(index=index, text=text, finish_reason=reason, logprobs=logprobs)
        return self._record([choice], report)

    def last_chunk(self) -> bytes:
        """The usage, in a chunk without choices."""
        return self._record([], None, usage=self.usage)

    def _record(
        self, choices: list[CompletionChoice], report: TextReport | None, usage: CompletionUsage | None = None
    ) -> bytes:
        given: dict[str, Any] = {} if report is None else {"unisono": Report(choices=[report])}
        if self.job.include_usage:
            given["usage"] = usage
        answer = CompletionAnswer.model_construct(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.job.model,
            object="text_completion",
            **given,
        )
        return answer.model_dump_json(exclude_unset=True, warnings=False).encode()

    def whole(self) -> bytes:
        """A completion."""
        choices, reports = [], []
        for index, generation in self.in_order:
            likelihoods = CompletionLikelihoods(self.job.likeliest)
            opening = self._echo(index // self.job.n) if self.job.echo else ""
            choices.append(
                CompletionChoice(
                    index=index,
                    text=opening + generation.text,
                    finish_reason=REASONS[generation.finish_reason],
                    logprobs=likelihoods.of(Held().rest(generation)) if likelihoods.wanted else None,
                )
            )
            reports.append(self.report(index, generation, generation.steps))
        answer = CompletionAnswer(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.job.model,
            object="text_completion",
            usage=self.usage,
            unisono=Report(choices=reports),
        )
        return answer.model_dump_json().encode()
