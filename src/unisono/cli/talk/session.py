"""A conversation with a loaded ensemble: who reads it, how it is answered, and how it goes on. Knows no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unisono.chat.messages import Prompt
from unisono.cli.talk.answer import Answer
from unisono.cli.talk.conversation import Conversation, Turn
from unisono.cli.talk.transcript import Transcript
from unisono.config.method import Method
from unisono.config.sampling_options import SamplingOptions
from unisono.engine.request import GenerationRequest
from unisono.errors import PromptError, PromptTooLong, SpecError, shown
from unisono.records import Limits, is_unicode

if TYPE_CHECKING:
    from unisono.build import Prepared
    from unisono.engine.service import Service

PROBE = "Hello"
"""A question that only shows whether it could be answered."""
FINER: Mapping[str, tuple[str, ...]] = {
    "gate": ("boundary",),
    "speculate": ("max_pieces",),
    "sampling": (*SamplingOptions.__annotations__, "draw"),
}
"""Settings that replace a part of another one, or are its old name, and go with it when that is set anew."""


def with_changes(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings after some were set anew, or taken back (``None``): what was a part of those is gone, see `FINER`."""
    gone = {each for name in changes for each in (name, *FINER.get(name, ()))}
    kept = {name: value for name, value in settings.items() if name not in gone}
    return {**kept, **{name: value for name, value in changes.items() if value is not None}}


class Session:
    """A conversation, and the one service that answers it. Not thread-safe.

    A prompt that is too long, a setting that does not fit, a model that fails: whatever raises leaves the conversation
    as it was.
    """

    def __init__(self, prepared: Prepared, service: Service, begun: Transcript, limits: Limits) -> None:
        """Go on from what has ``begun``; the service has one engine, of what is prepared. Raises a `SpecError`."""
        self.prepared = prepared
        self.limits = limits
        self.conversation = begun.conversation
        self.unanswered = begun.unanswered
        """The last question, where it has no answer."""
        self.last: Answer | None = None
        """The answer that was kept last."""
        self.traced = False
        """Whether to keep what happened to each piece of an answer."""
        self._service = service
        (self._engine,) = service.engines.values()
        self.settings: dict[str, Any] = {}
        """What replaces keys of the ensemble file, as `Method.but` takes them; values of JSON."""
        self._adopt(dict(begun.settings))

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(member.name for member in self._engine.members)

    @property
    def contexts(self) -> dict[str, int]:
        """By member, the tokens that it can read."""
        return {member.name: member.backend.facts.context for member in self._engine.members}

    @property
    def method(self) -> Method:
        return self._method

    @property
    def lead(self) -> str:
        return self._method.lead_among(self.prepared.weights)

    @property
    def transcript(self) -> Transcript:
        return Transcript(self.conversation, self.members, self.settings, self.unanswered)

    def change(self, name: str, value: object) -> None:
        """Replace a key of the method for what follows; ``None`` stands for what the ensemble file says.

        Raises a `SpecError`, as the file would, where the value is wrong or does not fit the members.
        """
        self._adopt(with_changes(self.settings, {name: value}))

    def speak_as(self, system: str | None) -> None:
        """Put another system message before the conversation, or none.

        Raises a `PromptError` where a member's chat template cannot read it.
        """
        _check_text("the system message", system or "")
        self._check(system, self._method)
        self.conversation = replace(self.conversation, system=system)

    def ask(self, question: str) -> Answer:
        """Begin an answer. Raises a `PromptTooLong`, which tells what to do, or another `UnisonoError`."""
        self.unanswered = ""
        _check_text("the question", question)
        self.unanswered = question
        return self._begin(self.conversation, question)

    def retry(self) -> Answer:
        """Begin another answer to the last question. The one that there is stays until it is kept."""
        if self.unanswered:
            return self._begin(self.conversation, self.unanswered)
        last = self._last("to answer again")
        return self._begin(self.conversation.without_last(), last.question, last)

    def proceed(self) -> Answer:
        """Go on with the last answer, where it was cut off."""
        last = self._last("to go on with")
        if not last.can_continue:
            raise SpecError("the last answer is not cut off: its end was chosen", hint="/retry writes it again")
        if not last.answer:
            hint = "/retry, after /reasoning off or with a larger --max-new-tokens"
            raise SpecError("the last answer was cut off within its reasoning, which cannot be continued", hint=hint)
        return self._begin(self.conversation.without_last(), last.question, last, continues=True)

    def keep(self, answer: Answer) -> bool:
        """Add what was written to the conversation; false where there is nothing to keep, see `Answer`."""
        if not answer.is_to_be_kept:
            return False
        self.conversation = answer.before.with_turn(answer.turn)
        self.unanswered, self.last = "", answer
        return True

    def give_up(self) -> None:
        """End what is being written, whoever holds it; of no use but after Ctrl-C within a step."""
        self._service.close()

    def undo(self, count: int) -> list[Turn]:
        """Take the last turns back, this many at most, and a question without an answer."""
        taken = self.conversation.turns[-count:]
        self.conversation = self.conversation.without_last(count)
        self.unanswered, self.last = "", None
        return list(taken)

    def forget(self, count: int) -> list[Turn]:
        """Leave the first turns out, this many at most."""
        gone = self.conversation.turns[:count]
        self.conversation = self.conversation.without_first(count)
        return list(gone)

    def _adopt(self, settings: dict[str, Any]) -> None:
        """Take settings that make sense together and fit the members. Raises a `SpecError`."""
        method = self.prepared.spec.but(**settings).method
        self._check(self.conversation.system, method)
        self.settings, self._method = settings, method

    def _check(self, system: str | None, method: Method) -> None:
        """Raise a `UnisonoError` where a question could not be answered; no model runs."""
        prompt = Prompt(messages=Conversation(system).asked(PROBE))
        self._service.prepare(GenerationRequest("", prompt, self.limits, method=method))

    def _last(self, why: str) -> Turn:
        if not self.conversation.turns:
            raise SpecError(f"there is no answer {why}", hint="ask something first")
        return self.conversation.turns[-1]

    def _begin(
        self, before: Conversation, question: str, previous: Turn | None = None, *, continues: bool = False
    ) -> Answer:
        messages = before.with_turn(previous).messages() if previous and continues else before.asked(question)
        prompt = Prompt(messages=messages, continue_final_message=continues)
        request = GenerationRequest("", prompt, self.limits, self.traced, self._method)
        try:
            return Answer(self._service, request, before, question, previous)
        except PromptTooLong as error:
            raise PromptTooLong(error.message, hint=self._way_out(before)) from error

    def _way_out(self, before: Conversation) -> str:
        if not before.turns:
            return "ask something shorter, or raise the member's context in the ensemble file"
        return (
            "the conversation is as it was: /forget leaves the oldest turn out, and /forget N several; /undo takes the "
            "last one back; its file loses them too, so copy what /save FILE has written to keep all"
        )


def _check_text(what: str, text: str) -> None:
    if not is_unicode(text):
        raise PromptError(f"{what} {shown(text)} is not Unicode text", hint="repair its encoding")
