"""An answer while it is being written: it can be stopped between two steps, and what was written stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from unisono.cli.talk.conversation import Conversation, Ending, Turn
from unisono.engine.request import Failed, GenerationRequest, Wrote
from unisono.records import Generation
from unisono.step_records import Part, StepRecord

if TYPE_CHECKING:
    from unisono.engine.service import Service

PARTS: tuple[Part, ...] = ("reasoning", "answer")


class Answer:
    """Iterate over it to have it written. Nothing of the conversation is changed: `turn` is what there is to add.

    The service is stepped by nobody else. What iterating raises, Ctrl-C too, ends the answer as `stop` does.
    """

    def __init__(
        self,
        service: Service,
        request: GenerationRequest,
        before: Conversation,
        question: str,
        previous: Turn | None = None,
    ) -> None:
        """Begin it at once, after a conversation. ``previous`` is a turn that is answered again or, where the request
        says so, continued. Raises what `Service.start` raises.
        """
        prepared = service.prepare(request)
        self.before = before
        """The conversation up to the question."""
        self.question = question
        self.previous = previous
        """The turn that it takes the place of, where it answers again or goes on."""
        self.failed = False
        """Whether a model failed at it."""
        self.prompt_tokens: Mapping[str, int] = {name: len(ids) for name, ids in prepared.ids.items()}
        """By member, what is read before the answer."""
        self.method = prepared.plan.method
        """How it is written."""
        self.generation: Generation | None = None
        """The finished record; ``None`` where it was stopped."""
        self.steps: list[StepRecord] = []
        """What happened to each piece, where the request asks for a trace."""
        self._service = service
        self._continues = request.prompt.continue_final_message
        self._written: dict[Part, str] = {"answer": "", "reasoning": ""}
        self._stops = False
        self._id = service.start(prepared)

    def __iter__(self) -> Iterator[Wrote]:
        try:
            while not self._stops and self._service.has(self._id):
                for event in self._service.step():
                    if isinstance(event, Failed):
                        self.failed = True
                        raise event.error
                    if not isinstance(event, Wrote):
                        self.generation = event.generation
                        continue
                    self.steps += event.steps
                    for part, text in event.parts:
                        self._written[part] += text
                    yield event
        finally:
            self.close()

    def stop(self) -> None:
        """Let it end after the step that is being done. May be called by the handler of a signal."""
        self._stops = True

    def close(self) -> None:
        """End it and free its slots. Idempotent."""
        self._service.cancel(self._id)

    @property
    def is_to_be_kept(self) -> bool:
        """Whether it is an answer: not where it was ended before any text came, reasoning being none, nor where it
        failed and would take the place of a whole one.
        """
        if self.generation is not None:
            return True
        return bool(self._written["answer"]) and not (self.failed and self.previous and not self._continues)

    @property
    def parts(self) -> list[tuple[Part, str]]:
        """What was written of it so far, without what it continues."""
        return [(part, self._written[part]) for part in PARTS if self._written[part]]

    @property
    def turn(self) -> Turn:
        """The question and the answer as far as it was written."""
        generation = self.generation
        answer = self._written["answer"] if generation is None else generation.text
        reasoning = self._written["reasoning"].strip() if generation is None else generation.reasoning
        ending: Ending = "stopped" if generation is None else generation.finish_reason
        if self._continues and self.previous is not None:
            return Turn(self.question, self.previous.answer + answer, self.previous.reasoning, ending)
        return Turn(self.question, answer, reasoning or None, ending)
