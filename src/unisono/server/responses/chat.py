"""The answers to chats, whole or chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from unisono.chat.messages import new_call_id
from unisono.chat.tool_parser import FoundCall
from unisono.engine.request import Ended, Wrote
from unisono.records import Finish, StepRecord
from unisono.server.requests import ApiCall
from unisono.server.responses.answer import REASONS, Answer
from unisono.server.responses.logprobs import ChatLogprobs, Held
from unisono.server.schemas import (
    ChatAnswer,
    ChatChunk,
    ChatCompletionMessage,
    ChatCompletionMessageFunctionToolCall,
    Choice,
    ChoiceDelta,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
    ChoiceLogprobs,
    ChunkChoice,
    ChunkLogprobs,
    CompletionUsage,
    Function,
    Report,
    TextReport,
)
from unisono.server.tools import Calling

Reason = Literal["stop", "length", "tool_calls"]
NumberedCall = tuple[int, str, FoundCall]
"""Which of an answer's calls it is, its id, and the call."""


class ChatResponse(Answer):
    """Answers ``/v1/chat/completions``."""

    prefix = "chatcmpl"

    def __init__(self, call: ApiCall) -> None:
        super().__init__(call)
        self._held: dict[int, Held] = {}
        """What is not told yet of each choice that was begun."""
        self._written: dict[int, _Parted] = {}
        self._logprobs = ChatLogprobs(call.logprobs)

    def chunks(self, index: int, place: int, event: Wrote | Ended) -> Iterator[bytes]:
        """The role first, then text and its probabilities and whole calls, at last the reason."""
        if index not in self._held:
            self._held[index] = Held()
            self._written[index] = _Parted(self.call.calling)
            yield self._chunk(index, ChoiceDelta(role="assistant", content=""))
        held, parted = self._held[index], self._written[index]
        if isinstance(event, Wrote):
            content, calls = parted.read(event.text)
            released = held.release(event.text, event.steps)
            report = TextReport(index=index, trace=self.trace(event.steps)) if self.trace_wanted else None
            yield from self._parts(index, content, calls, released, report)
            return
        content, calls = parted.read("", last=True)
        yield from self._parts(index, content, calls, held.rest(event.generation), None)
        reason = parted.reason(event.generation.finish_reason)
        yield self._chunk(index, ChoiceDelta(), reason=reason, report=self.report(index, event.generation))

    def _parts(
        self,
        index: int,
        content: str,
        calls: Sequence[NumberedCall],
        released: Sequence[StepRecord],
        report: TextReport | None,
    ) -> Iterator[bytes]:
        """The chunks of some content, with what goes with it, and of some calls."""
        if content or report is not None or (released and self._logprobs.wanted):
            yield self._chunk(index, ChoiceDelta(content=content), released, report=report)
        for number, identity, call in calls:
            function = ChoiceDeltaToolCallFunction(name=call.name, arguments=call.arguments)
            one = ChoiceDeltaToolCall(index=number, id=identity, type="function", function=function)
            yield self._chunk(index, ChoiceDelta(tool_calls=[one]))

    def _chunk(
        self,
        index: int,
        delta: ChoiceDelta,
        steps: Sequence[StepRecord] = (),
        *,
        reason: Reason | None = None,
        report: TextReport | None = None,
    ) -> bytes:
        logprobs = ChunkLogprobs(content=self._logprobs.of(steps)) if self._logprobs.wanted and steps else None
        choice = ChunkChoice(index=index, delta=delta, finish_reason=reason, logprobs=logprobs)
        return self._record([choice], report)

    def last_chunk(self) -> bytes:
        """The usage, in a chunk without choices."""
        return self._record([], None, usage=self.usage)

    def _record(
        self, choices: list[ChunkChoice], report: TextReport | None, usage: CompletionUsage | None = None
    ) -> bytes:
        given: dict[str, Any] = {} if report is None else {"unisono": Report(choices=[report])}
        if self.call.include_usage:
            given["usage"] = usage
        chunk = ChatChunk(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.call.model,
            object="chat.completion.chunk",
            **given,
        )
        return chunk.model_dump_json(exclude_unset=True).encode()

    def whole(self) -> bytes:
        """A chat completion."""
        choices, reports = [], []
        for index, generation in self.in_order:
            wanted, parted = self._logprobs.wanted, _Parted(self.call.calling)
            steps = Held().rest(generation) if wanted else ()
            content, calls = parted.read(generation.text, last=True)
            called = [
                ChatCompletionMessageFunctionToolCall(
                    id=identity, type="function", function=Function(name=call.name, arguments=call.arguments)
                )
                for _, identity, call in calls
            ]
            message = ChatCompletionMessage(role="assistant", content=content or (None if called else ""))
            if called:
                message.tool_calls = [*called]
            choices.append(
                Choice(
                    index=index,
                    finish_reason=parted.reason(generation.finish_reason),
                    logprobs=ChoiceLogprobs(content=self._logprobs.of(steps)) if wanted else None,
                    message=message,
                )
            )
            reports.append(self.report(index, generation, generation.steps))
        answer = ChatAnswer(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.call.model,
            object="chat.completion",
            usage=self.usage,
            unisono=Report(choices=reports),
        )
        return answer.model_dump_json(exclude_unset=True).encode()


class _Parted:
    """What is written of one choice, parted into content and calls."""

    def __init__(self, calling: Calling | None) -> None:
        self._reader = None if calling is None else calling.reader()
        self._calls = 0

    def read(self, text: str, *, last: bool = False) -> tuple[str, list[NumberedCall]]:
        """Read on; return content, and calls with their numbers and ids."""
        if self._reader is None:
            return text, []
        content, found = self._reader.read(text, last=last)
        calls = [(self._calls + number, new_call_id(), call) for number, call in enumerate(found)]
        self._calls += len(calls)
        return content, calls

    def reason(self, finish: Finish) -> Reason:
        """Why it ended: to have its calls answered, if it has some and was not cut off."""
        reason = REASONS[finish]
        return "tool_calls" if self._calls and reason == "stop" else reason
