"""Answers of chats and completions, in the format of the OpenAI API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from unisono.engine.request import Ended, Wrote
from unisono.records import Generation
from unisono.server.answer import REASONS, Answer, Written
from unisono.server.answer_schemas import ChatAnswer, ChatChunk, CompletionAnswer, CompletionChoice, TextReport
from unisono.server.call_reader import CallReader, NumberedCall, unended
from unisono.server.logprobs import CompletionLogprobs, Held, chat_logprobs
from unisono.server.openai_library import Logprobs, chat, chat_chunk, chat_completion
from unisono.server.tools import told_calls
from unisono.step_records import StepRecord

Reason = Literal["stop", "length", "tool_calls", "function_call"]


class ChatResponse(Answer):
    """Answers ``/v1/chat/completions``."""

    prefix, whole, part = "chatcmpl", ChatAnswer, ChatChunk

    def chunks(self, index: int, event: Wrote | Ended) -> Iterator[bytes]:
        """First the role, then reasoning, text with log-probabilities and complete calls, last the finish reason."""
        if index not in self.written:
            self.written[index] = Written(self.call)
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
        content, calls = reader.read("", ended=event.generation.finish_reason, thought=unended(event.generation))
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
        content, calls = reader.read(generation.text, ended=generation.finish_reason, thought=unended(generation))
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
            self.written[index] = Written(self.call)
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
