"""A request, what it takes to serve it (its prompt in every member's ids, its method looked up), and its events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Unpack

from unisono.chat.messages import Prompt
from unisono.chat.tools import Tool
from unisono.config.constraint import Constraint
from unisono.config.method import Method, MethodOptions
from unisono.constraints.grammar import Parse
from unisono.engine.beginning import Beginning, GivenPiece
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.engine.scheduler import Cost, RequestId
from unisono.errors import SpecError, shown
from unisono.records import Generation, Limits
from unisono.step_records import Part, StepRecord

DEFAULT_LIMITS = Limits()


class GenerationOptions(MethodOptions, total=False):
    """Keywords of `Ensemble.generate`, `Ensemble.stream` and their asynchronous forms, beside the prompt."""

    tools: Sequence[Tool] | None
    """The tools that the answer may call; `Ensemble.call_form` says in which form."""
    continue_final_message: bool
    """Whether the last message, an assistant's, is continued and not answered."""
    begin: Beginning | str | bytes | Sequence[GivenPiece] | None
    """What the text begins with: the answer's first words, or a list of all pieces so far, such as steps of a trace.
    The generation is what follows."""
    max_new_tokens: int
    """The most pieces to choose."""
    stop: str | Sequence[str]
    """The text ends before the first of these strings that is completed."""
    trace: bool
    """Whether to keep a `StepRecord` of every step."""
    constraint: Constraint | str | Mapping[str, Any] | None
    """The form of the text, as `Constraint.parse` reads it: ``"json_object"``, ``{"json_schema": {…}}``,
    ``{"regex": "…"}``, ``{"lark": "…"}``."""


@dataclass(frozen=True, slots=True, init=False)
class GenerationRequest:
    """One text, or several, to generate after a prompt. `unisono.Request` is its public name.

    The library, the command line, the server and evaluation all make this record, and `Preparer` turns it into a
    `PreparedRequest`.
    """

    id: str
    """Comes back with the result."""
    prompt: Prompt
    limits: Limits
    """When each text stops."""
    trace: bool
    """Whether to keep a record of every step."""
    method: Method | None
    """The method, such as ``ensemble.method.but(gate="first:8")``; ``None`` for the ensemble's own."""
    constraint: Constraint | str | Mapping[str, Any] | None
    """The form of each text, as `Constraint.parse` reads it; ``None`` for any text."""
    n: int
    """How many texts. Their seeds are the seed of the sampling, then that plus 1, and so on."""
    top_logprobs: int
    """How many of the most likely pieces of the combined distribution to keep at every step."""
    model: str
    """The ensemble, if a service has several."""
    options: Mapping[str, Any] = field(hash=False)
    """Options of the method to replace, as `Method.but` takes them."""
    score: bool
    """Whether the prompt is scored piece by piece, and nothing is generated. The generation is then the prompt without
    its first piece, which nothing precedes, and its steps have the probabilities. The weights are those after an empty
    prompt.
    """
    begin: Beginning | None
    """What each text begins with. Limits, generation and steps are those of the text that follows."""
    weights: Mapping[str, float] | None = field(hash=False)
    """By member, weights that replace those of the ensemble's file: positive, and scaled to sum to 1."""
    first_choices: bool
    """Whether to keep a record of every step with each voter's most likely piece, without the rest of a trace."""

    def __init__(
        self,
        id: str,  # noqa: A002
        prompt: Prompt,
        limits: Limits = DEFAULT_LIMITS,
        trace: bool = False,
        method: Method | None = None,
        constraint: Constraint | str | Mapping[str, Any] | None = None,
        n: int = 1,
        top_logprobs: int = 0,
        model: str = "",
        options: Mapping[str, Any] | None = None,
        *,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        score: bool = False,
        begin: Beginning | str | bytes | Sequence[GivenPiece] | None = None,
        weights: Mapping[str, float] | None = None,
        first_choices: bool = False,
        **keywords: Unpack[MethodOptions],
    ) -> None:
        """Make a request: ``max_new_tokens`` and ``stop`` replace those of the limits, other keywords are options.

        Raises:
            SpecError: ``max_new_tokens``, ``stop`` or ``begin`` is wrong.
        """
        if max_new_tokens is not None or stop is not None:
            most = limits.max_new_tokens if max_new_tokens is None else max_new_tokens
            limits = replace(limits, max_new_tokens=most, stop=limits.stop if stop is None else stop)
        given = {**(options or {}), **keywords}
        begun = Beginning.parse(begin)
        values = (id, prompt, limits, trace, method, constraint, n, top_logprobs, model, given, score, begun, weights)
        for key, value in zip(fields(self), (*values, first_choices), strict=True):
            object.__setattr__(self, key.name, value)

    @property
    def records(self) -> bool:
        """Whether a record of every step is kept, in whatever form."""
        return self.trace or self.first_choices or bool(self.top_logprobs)

    def check(self) -> None:
        """Raise a `SpecError` where the prompt, the limits or ``n`` are no such things."""
        if not isinstance(self.prompt, Prompt):
            words = f"the prompt of a request is {shown(self.prompt)}, not a Prompt"
            raise SpecError(words, hint='write Prompt(text="…")')
        if not isinstance(self.limits, Limits):
            words = f"the limits of a request are {shown(self.limits)}, not Limits"
            raise SpecError(words, hint="write Limits(max_new_tokens=64)")
        if not isinstance(self.n, int) or isinstance(self.n, bool) or self.n < 1:
            raise SpecError(f"n is {shown(self.n)}: it must be a whole number, 1 or more", hint="it counts the texts")


Request = GenerationRequest
"""The public name of `GenerationRequest`."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request that can be served: its method looked up, its prompt in every member's ids. It holds no slots."""

    request: GenerationRequest
    plan: Plan
    ids: Mapping[str, Sequence[int]]
    """By member, the ids of the prompt and of what the text begins with. Members are left out that were away with their
    tokenizers; see ``late``."""
    cost: Cost
    """What it takes up, at most."""
    parse: Parse | None = None
    """The beginning of the grammar that the text is bound to; ``None`` where it is free."""
    given: Sequence[int] = ()
    """The columns of what is scored after the prompt."""
    unscored: Sequence[bytes] = ()
    """The pieces of a scored prompt before these; see `Given`."""
    begun: Sequence[int] = ()
    """The columns that the text begins with. ``ids`` end with them, and ``parse`` stands behind them."""
    begins_inside: bool = False
    """Whether the prompt ends inside reasoning, so that the text begins there."""
    asked: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By member, the ids by which it weighs the prompt; empty where nobody asks for that."""
    late: Callable[[Member], list[int]] | None = None
    """Gives the ids of a member that was left out, once it is back; see `encode_late`."""


@dataclass(frozen=True, slots=True)
class Wrote:
    """A text of a request goes on."""

    request_id: RequestId
    index: int
    """Which of the texts that were asked for, from 0 on."""
    text: str
    """What has become safe to show: whole characters, no stop string. Joined, they are the whole text."""
    steps: tuple[StepRecord, ...]
    """The steps since the last event of this text, where a trace was asked for. A piece may be in the steps of
    one event, and its characters in the text of a later one."""
    reasoning: str = ""
    """The same as ``text``, of the reasoning that comes before it."""
    pieces: int = 0
    """How many are chosen of this text so far."""

    @property
    def parts(self) -> list[tuple[Part, str]]:
        """What was written, in its order, by the part that it belongs to."""
        parts: tuple[tuple[Part, str], ...] = (("reasoning", self.reasoning), ("answer", self.text))
        return [each for each in parts if each[1]]


@dataclass(frozen=True, slots=True)
class Ended:
    """A text of a request has ended; after the last one nothing more comes of the request."""

    request_id: RequestId
    index: int
    generation: Generation


@dataclass(frozen=True, slots=True)
class Failed:
    """A request cannot go on; nothing more comes of it."""

    request_id: RequestId
    error: Exception
    """What a member's model raised, with a note that says which member; or a `RequestTimeout`."""


Event = Wrote | Ended | Failed
