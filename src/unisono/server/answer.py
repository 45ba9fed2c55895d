"""What the answers of all endpoints have in common: how they are written, whole or streamed, and their usage."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from unisono.engine.request import Ended, Wrote
from unisono.records import Finish, Generation
from unisono.server.answer_schemas import ChatAnswer, ChatChunk, CompletionAnswer, Report, TextReport
from unisono.server.api_call import ApiCall
from unisono.server.async_engine import AsyncEngine
from unisono.server.call_reader import CallReader
from unisono.server.completion_prompts import ScoredPrompt
from unisono.server.errors import Refusal
from unisono.server.logprobs import CompletionLogprobs, Held
from unisono.server.openai_library import CompletionUsage
from unisono.server.reasoning import REASONING
from unisono.server.request_handle import RequestHandle
from unisono.step_records import StepRecord

REASONS: dict[Finish, Literal["stop", "length"]] = {
    "end": "stop",
    "stop": "stop",
    "length": "length",
    "context": "length",
}
AT_ONCE = 256
"""Steps with log-probabilities that are written while nobody else is answered: 1,800 take a tenth of a second."""
OBJECTS = {ChatAnswer: "chat.completion", ChatChunk: "chat.completion.chunk", CompletionAnswer: "text_completion"}


class Written:
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
        self.written: dict[int, Written] = {}
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
        async for index, event in handle.events(call.chunk_seconds if call.stream else 0.0):
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
