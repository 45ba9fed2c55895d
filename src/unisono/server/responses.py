"""Answers in the format of the OpenAI API, whole or streamed."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from unisono.engine.request import Ended, Wrote
from unisono.records import Finish, Generation, StepRecord
from unisono.server.async_engine import AsyncEngine
from unisono.server.echo import ScoredPrompt
from unisono.server.errors import Refusal
from unisono.server.logprobs import CompletionLogprobs, Held, chat_logprobs
from unisono.server.reasoning import REASONING
from unisono.server.request_handle import RequestHandle
from unisono.server.requests import ApiCall
from unisono.server.schemas import (
    ChatAnswer,
    ChatChunk,
    CompletionAnswer,
    CompletionChoice,
    CompletionUsage,
    Logprobs,
    Report,
    TextReport,
    chat,
    chat_chunk,
    chat_completion,
)
from unisono.server.tools import CallReader, NumberedCall, told_calls

Reason = Literal["stop", "length", "tool_calls", "function_call"]
REASONS: dict[Finish, Literal["stop", "length"]] = {
    "end": "stop",
    "stop": "stop",
    "length": "length",
    "context": "length",
}
AT_ONCE = 256
"""Steps with log-probabilities that are written while nobody else is answered: 1,800 take a tenth of a second."""


class _Written:
    """One choice of a stream so far: its steps that are not sent yet, its tool calls, and its log-probabilities."""

    def __init__(self, call: ApiCall) -> None:
        self.held = Held(call.pending)
        self.calls = CallReader(call.calling, call.begun)
        self.logprobs = CompletionLogprobs(call.logprobs or 0, pending=call.pending)


class Answer:
    """The answer to one call; a subclass per endpoint makes its choices."""

    prefix: ClassVar[str]
    whole: ClassVar[type[ChatAnswer | CompletionAnswer]]
    part: ClassVar[type[ChatChunk | CompletionAnswer]]
    end: ClassVar[bytes] = b"data: [DONE]\n\n"
    """What follows the last chunk of a stream."""

    is_apart: ClassVar[bool] = True
    """Whether a long answer can be written in another thread."""

    def __init__(self, call: ApiCall) -> None:
        self.call = call
        self.n, self.trace_wanted = call.first.n, call.first.trace
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.written: dict[int, _Written] = {}
        """By choice of a stream, what was written of it."""
        self._read: list[int] = []
        """By prompt, its tokens as the lead counts them."""
        self._pieces: dict[int, int] = {}
        """By choice of a stream, how many pieces it has."""
        self.scored: list[ScoredPrompt] = []
        """By prompt, how likely it was found, where that is asked for."""

    async def bodies(self, engine: AsyncEngine, handle: RequestHandle) -> AsyncIterator[bytes]:
        """Queue the call; yield the chunks of a stream, or the whole answer. Raises a `Refusal`."""
        call = self.call
        requests = (*call.requests, *call.scored)
        await engine.begin(handle, requests, call.constraint_field, call.sampling_field, call.cuts)
        if call.counts_on:
            read = [{name: len(ids) for name, ids in each.ids.items()} for each in handle.prepared]
            self._read = [*map(self._lead_s, read)]
        async for index, event in handle.events():
            if call.stream:
                self._pieces[index] = event.pieces if isinstance(event, Wrote) else event.generation.usage.pieces
                for chunk in self.chunks(index, event):
                    yield chunk
        steps = sum(len(generation.steps or ()) for generation in handle.ended.values())
        if self.is_apart and not call.stream and steps > AT_ONCE:
            yield b"".join(await asyncio.to_thread(list, self.last_bodies(handle)))
            return
        for body in self.last_bodies(handle):
            yield body

    def framed(self, body: bytes) -> bytes:
        """A chunk as a server-sent event."""
        return b"data: %b\n\n" % body

    def failed(self, refusal: Refusal) -> bytes:
        """The last event of a stream that breaks off."""
        return b"data: %b\n" % refusal.body()

    def last_bodies(self, handle: RequestHandle) -> Iterator[bytes]:
        """The whole answer, or what ends a stream."""
        call = self.call
        if not call.stream:
            ended = [generation for _, generation in sorted(handle.ended.items())]
            written, scored = ended[: call.texts], ended[call.texts :]
            self.scored = [
                ScoredPrompt(prepared.unscored, generation.steps or ())
                for prepared, generation in zip(handle.prepared[len(call.requests) :], scored, strict=True)
            ]
            choices = [self.choice(index, generation) for index, generation in enumerate(written or scored)]
            reports = [self.report(index, generation, generation.steps) for index, generation in enumerate(written)]
            yield self.record(self.whole, choices, reports, usage=self.usage(handle.ended))
        elif call.include_usage:
            yield self.record(self.part, [], usage=self.usage(handle.ended))

    def chunks(self, index: int, event: Wrote | Ended) -> Iterator[bytes]:
        """The chunks of an event of a choice."""
        raise NotImplementedError

    def choice(self, index: int, generation: Generation) -> Any:
        raise NotImplementedError

    def record(
        self,
        kind: type[ChatAnswer | ChatChunk | CompletionAnswer],
        choices: Sequence[Any],
        reports: Sequence[TextReport] = (),
        **more: Any,
    ) -> bytes:
        """An answer or a chunk as JSON. In a chunk, OpenAI's types do not expect a reason that is null."""
        if reports:
            more["unisono"] = Report(choices=list(reports))
        made = kind.model_construct(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.call.first.model,
            object=OBJECTS[kind],
            system_fingerprint=None,  # which some clients require
            **more,
        )
        return made.model_dump_json(exclude_unset=True, warnings=False).encode()

    def chunk(self, choice: Any, report: TextReport | None) -> bytes:
        """A chunk of one choice."""
        # Where it is not told yet, the key is left out: some clients read nothing else of a chunk that has it.
        more = {"usage": self._so_far(choice.index)} if self.call.include_usage and self.call.counts_on else {}
        return self.record(self.part, [choice], [] if report is None else [report], **more)

    def _so_far(self, index: int) -> CompletionUsage:
        read, written = self._read[index // self.n], self._pieces[index]
        return CompletionUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def usage(self, ended: Mapping[int, Generation]) -> CompletionUsage:
        """Tokens of each prompt as the lead counts them (where it was away, who has most), and pieces of all texts."""
        texts = {index: generation for index, generation in ended.items() if index < self.call.texts}
        prompts = [generation for index, generation in texts.items() if index % self.n == 0]
        read = sum(self._lead_s(generation.usage.prompt_tokens) for generation in prompts)
        if not self.call.requests:  # the prompts are all that was scored, and what precedes them
            read = sum(self._lead_s(each.usage.prompt_tokens) + each.usage.pieces for each in ended.values())
        written = sum(generation.usage.pieces for generation in texts.values())
        reasoned = sum(generation.usage.reasoning for generation in texts.values())
        details: dict[str, int] = {"reasoning_tokens": reasoned} if reasoned else {}
        if any(generation.usage.uncertain is not None for generation in texts.values()):
            details["uncertain"] = sum(generation.usage.uncertain or 0 for generation in texts.values())
        more = {"completion_tokens_details": details} if details else {}
        found = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return CompletionUsage.model_validate({**found, **more})

    def _lead_s(self, counts: Mapping[str, int]) -> int:
        """The lead's count of a prompt, or, where it was away, the greatest."""
        return counts[self.call.lead] if self.call.lead in counts else max(counts.values())

    def reasoning(self, text: str | None) -> dict[str, Any]:
        """The field with what was reasoned, where something was and the call does not leave it out."""
        return {REASONING: text} if text and self.call.shows_reasoning else {}

    def report(self, index: int, generation: Generation, steps: Sequence[StepRecord] | None = None) -> TextReport:
        """What a finished choice has beyond OpenAI's fields. In a stream, its steps were sent before."""
        return TextReport(
            index=index,
            finish=generation.finish_reason,
            **({} if generation.seed is None else {"seed": generation.seed}),
            usage=generation.usage.to_json(),
            seconds=generation.seconds.to_json(),
            trace=[step.to_json() for step in steps] if self.trace_wanted and steps is not None else None,
        )

    def progress(self, index: int, steps: Sequence[StepRecord]) -> TextReport | None:
        """The trace of new steps in a stream, if the call asks for one."""
        return TextReport(index=index, trace=[step.to_json() for step in steps]) if self.trace_wanted else None


class ChatResponse(Answer):
    """Answers ``/v1/chat/completions``."""

    prefix, whole, part = "chatcmpl", ChatAnswer, ChatChunk

    def chunks(self, index: int, event: Wrote | Ended) -> Iterator[bytes]:
        """First the role, then reasoning, text with log-probabilities and complete calls, last the finish reason."""
        if index not in self.written:
            self.written[index] = _Written(self.call)
            yield self._chunk(index, chat_chunk.ChoiceDelta(role="assistant", content=""))
        held, reader = self.written[index].held, self.written[index].calls
        if isinstance(event, Wrote):
            content, calls = reader.read(event.text)
            released, report = held.release(event.text, event.steps), self.progress(index, event.steps)
            if reasoning := self.reasoning(event.reasoning):
                alone = not (content or released)  # the trace of a step comes once
                delta = chat_chunk.ChoiceDelta.model_validate(reasoning)
                yield self._chunk(index, delta, report=report if alone else None)
                report = None if alone else report
            yield from self._parts(index, content, calls, released, report)
            return
        content, calls = reader.read("", ended=event.generation.finish_reason)
        yield from self._parts(index, content, calls, held.rest(event.generation), None)
        reason = self._reason(reader, event.generation)
        yield self._chunk(index, chat_chunk.ChoiceDelta(), reason=reason, report=self.report(index, event.generation))

    def _parts(
        self,
        index: int,
        content: str,
        calls: Sequence[NumberedCall],
        released: Sequence[StepRecord],
        report: TextReport | None,
    ) -> Iterator[bytes]:
        if content or report is not None or (released and self.call.logprobs is not None):
            yield self._chunk(index, chat_chunk.ChoiceDelta(content=content), released, report=report)
        for call in calls:
            told = told_calls([call], self.call.calling, part=True)
            yield self._chunk(index, chat_chunk.ChoiceDelta.model_validate(told))

    def _chunk(
        self,
        index: int,
        delta: chat_chunk.ChoiceDelta,
        steps: Sequence[StepRecord] = (),
        *,
        reason: Reason | None = None,
        report: TextReport | None = None,
    ) -> bytes:
        count = self.call.logprobs
        logprobs = (
            None if count is None or not steps else chat_chunk.ChoiceLogprobs(content=chat_logprobs(steps, count))
        )
        return self.chunk(chat_chunk.Choice(index=index, delta=delta, finish_reason=reason, logprobs=logprobs), report)

    def choice(self, index: int, generation: Generation) -> chat_completion.Choice:
        reader, count = CallReader(self.call.calling, self.call.begun), self.call.logprobs
        content, calls = reader.read(generation.text, ended=generation.finish_reason)
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else "")}
        message |= self.reasoning(generation.reasoning) | told_calls(calls, self.call.calling)
        logprobs = (
            None
            if count is None
            else chat_completion.ChoiceLogprobs(content=chat_logprobs(Held(self.call.pending).rest(generation), count))
        )
        return chat_completion.Choice(
            index=index,
            finish_reason=self._reason(reader, generation),
            logprobs=logprobs,
            message=chat.ChatCompletionMessage.model_validate(message),
        )

    def _reason(self, reader: CallReader, generation: Generation) -> Reason:
        reason = REASONS[generation.finish_reason]
        if not reader.count or reason != "stop":
            return reason
        return "function_call" if self.call.calling is not None and self.call.calling.as_function else "tool_calls"


class CompletionResponse(Answer):
    """Answers ``/v1/completions``."""

    prefix, whole, part = "cmpl", CompletionAnswer, CompletionAnswer

    def chunks(self, index: int, event: Wrote | Ended) -> Iterator[bytes]:
        """First the prompt if it is echoed, then text with its log-probabilities, last the finish reason."""
        if index not in self.written:
            self.written[index] = _Written(self.call)
            if self.call.echo:
                yield self._chunk(index, self._echo(index))
        held = self.written[index].held
        if isinstance(event, Ended):
            last = self.report(index, event.generation)
            reason = REASONS[event.generation.finish_reason]
            yield self._chunk(index, "", held.rest(event.generation), reason=reason, report=last)
            return
        released, report = held.release(event.text, event.steps), self.progress(index, event.steps)
        reasoning = self.reasoning(event.reasoning)
        if event.text or reasoning or report is not None or (released and self.call.logprobs is not None):
            yield self._chunk(index, event.text, released, report=report, **reasoning)

    def _echo(self, index: int) -> str:
        return self.call.echo[index // self.n].text if self.call.echo else ""

    def _chunk(
        self,
        index: int,
        text: str,
        steps: Sequence[StepRecord] = (),
        *,
        reason: Reason | None = None,
        report: TextReport | None = None,
        **more: Any,
    ) -> bytes:
        logprobs = None if self.call.logprobs is None or not steps else self.written[index].logprobs.of(steps)
        choice = CompletionChoice.model_construct(
            index=index, text=text, finish_reason=reason, logprobs=logprobs, **more
        )
        return self.chunk(choice, report)

    def choice(self, index: int, generation: Generation) -> CompletionChoice:
        call, written = self.call, generation.text if self.call.requests else ""
        more: dict[str, Any] = {}
        if call.prompt_logprobs is not None:
            more["prompt_logprobs"] = call.prompt_logprobs.of(self.scored[index // self.n])
        return CompletionChoice.model_construct(
            index=index,
            text=self._echo(index) + written,
            finish_reason=REASONS[generation.finish_reason],
            logprobs=None if call.logprobs is None else self._logprobs(index, generation, call.logprobs),
            **more,
            **self.reasoning(generation.reasoning if call.requests else None),
        )

    def _logprobs(self, index: int, generation: Generation, count: int) -> Logprobs:
        steps = Held(self.call.pending).rest(generation) if self.call.requests else []
        if not self.call.echo:
            return CompletionLogprobs(count, pending=self.call.pending).of(steps)
        if self.call.requests:
            # END is a token of the answer, too: who scores prompts leaves the last token out.
            steps += [step for step in (generation.steps or ())[-1:] if step.piece is None]
        echo = self.call.echo[index // self.n]
        prompt = echo.logprobs(self.scored[index // self.n], count)
        written = CompletionLogprobs(count, len(echo.text)).of(steps)
        return Logprobs.model_construct(**{name: value + getattr(written, name) for name, value in prompt})


OBJECTS = {ChatAnswer: "chat.completion", ChatChunk: "chat.completion.chunk", CompletionAnswer: "text_completion"}
