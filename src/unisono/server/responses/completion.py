"""The answers to completions, whole or chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from unisono.engine.request import Ended, Wrote
from unisono.records import StepRecord
from unisono.server.requests import ApiCall
from unisono.server.responses.answer import REASONS, Answer
from unisono.server.responses.logprobs import CompletionLogprobs, Held
from unisono.server.schemas import CompletionAnswer, CompletionChoice, CompletionUsage, Report, TextReport


class CompletionResponse(Answer):
    """Answers ``/v1/completions``."""

    prefix = "cmpl"

    def __init__(self, call: ApiCall) -> None:
        super().__init__(call)
        self._held: dict[int, Held] = {}
        self._logprobs: dict[int, CompletionLogprobs] = {}

    def chunks(self, index: int, place: int, event: Wrote | Ended) -> Iterator[bytes]:
        """The prompt first where it is echoed, then text and its probabilities, at last the reason."""
        if index not in self._held:
            self._held[index], self._logprobs[index] = Held(), CompletionLogprobs(self.call.logprobs)
            if self.call.echo:
                yield self._chunk(index, self._echo(place))
        held = self._held[index]
        if isinstance(event, Ended):
            report = self.report(index, event.generation)
            reason = REASONS[event.generation.finish_reason]
            yield self._chunk(index, "", held.rest(event.generation), reason=reason, report=report)
            return
        released = held.release(event.text, event.steps)
        traced = TextReport(index=index, trace=self.trace(event.steps)) if self.trace_wanted else None
        if event.text or traced is not None or (released and self._logprobs[index].wanted):
            yield self._chunk(index, event.text, released, report=traced)

    def _echo(self, place: int) -> str:
        return self.call.requests[place].prompt.text or ""

    def _chunk(
        self,
        index: int,
        text: str,
        steps: Sequence[StepRecord] = (),
        *,
        reason: Literal["stop", "length"] | None = None,
        report: TextReport | None = None,
    ) -> bytes:
        logprobs = self._logprobs[index].of(steps) if self._logprobs[index].wanted and steps else None
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
        if self.call.include_usage:
            given["usage"] = usage
        answer = CompletionAnswer.model_construct(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.call.model,
            object="text_completion",
            **given,
        )
        return answer.model_dump_json(exclude_unset=True, warnings=False).encode()

    def whole(self) -> bytes:
        """A completion."""
        choices, reports, wanted = [], [], self.call.logprobs
        for index, generation in self.in_order:
            opening = self._echo(index // self.n) if self.call.echo else ""
            choices.append(
                CompletionChoice(
                    index=index,
                    text=opening + generation.text,
                    finish_reason=REASONS[generation.finish_reason],
                    logprobs=None if wanted is None else CompletionLogprobs(wanted).of(Held().rest(generation)),
                )
            )
            reports.append(self.report(index, generation, generation.steps))
        answer = CompletionAnswer(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.call.model,
            object="text_completion",
            usage=self.usage,
            unisono=Report(choices=reports),
        )
        return answer.model_dump_json(exclude_unset=True).encode()
