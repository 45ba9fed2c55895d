"""A request, what it takes to serve it (its prompt in every member's ids, its method looked up), and its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Unpack, cast

from unisono.chat.messages import Prompt, Tool
from unisono.config.constraint import Constraint
from unisono.config.method import Method, MethodOptions, check_off
from unisono.constraints.grammar import Compile, Parse
from unisono.constraints.least_length import LeastLength
from unisono.engine.given import scored_by, split
from unisono.engine.member import Member
from unisono.engine.plan import Plan, make_plan
from unisono.engine.scheduler import RequestId
from unisono.errors import PromptError, SpecError, shown
from unisono.records import Generation, Limits, StepRecord
from unisono.vocab.union import UnionVocabulary

DEFAULT_LIMITS = Limits()


class GenerationOptions(MethodOptions, total=False):
    """What is asked for beside a prompt, as keywords of `Ensemble.generate` and the like."""

    tools: Sequence[Tool] | None
    """What the answer to messages may call; `Ensemble.call_form` tells how it does."""
    max_new_tokens: int
    """Pieces to choose at most."""
    stop: str | Sequence[str]
    """The text ends before the first of these strings that is completed."""
    trace: bool
    """Whether to keep a `StepRecord` of every step."""
    constraint: Constraint | str | Mapping[str, Any] | None
    """What the text has to be, as `Constraint.parse` reads it: ``"json_object"``, ``{"json_schema": {…}}``,
    ``{"regex": "…"}``, ``{"lark": "…"}``."""


@dataclass(frozen=True, slots=True, init=False)
class GenerationRequest:
    """What somebody asks for: one text, or several, that follow a prompt.

    It is the same record from the wire to the sequence: the library, the command line, the server and evaluation
    make one, and `Engine.prepare` turns it into a `PreparedRequest`.
    """

    id: str
    """Comes back with the result."""
    prompt: Prompt
    limits: Limits
    """When each text stops."""
    trace: bool
    """Whether to keep a record of every step."""
    method: Method | None
    """How it is written, as ``ensemble.method.but(gate="first:8")`` says it; ``None`` for as the ensemble writes."""
    constraint: Constraint | str | Mapping[str, Any] | None
    """What each text has to be, as `Constraint.parse` reads it; ``None`` for anything."""
    n: int
    """How many texts. The first has the seed of the sampling, the next that and 1, and so on."""
    top_logprobs: int
    """How many of the most likely pieces of the combined distribution to keep of every step."""
    model: str
    """Which ensemble, where a service has several."""
    options: Mapping[str, Any] = field(hash=False)
    """What replaces options of the method, as `Method.but` takes them."""
    score: bool
    """Whether the prompt is scored, piece by piece, and nothing is generated. The generation is then the prompt without
    its first piece, which nothing precedes, and its steps have the probabilities.
    """

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
        **keywords: Unpack[MethodOptions],
    ) -> None:
        """Make a request: ``max_new_tokens`` and ``stop`` replace those of the limits, other keywords are options.

        Raises:
            SpecError: ``max_new_tokens`` or ``stop`` is wrong.
        """
        if max_new_tokens is not None or stop is not None:
            limits = replace(
                limits,
                max_new_tokens=limits.max_new_tokens if max_new_tokens is None else max_new_tokens,
                stop=limits.stop if stop is None else stop,
            )
        values = (
            id,
            prompt,
            limits,
            trace,
            method,
            constraint,
            n,
            top_logprobs,
            model,
            {**(options or {}), **keywords},
            score,
        )
        for key, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, key.name, value)


Request = GenerationRequest
"""Its public name."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request that can be served: its method looked up, its prompt in every member's ids. It holds no slots."""

    request: GenerationRequest
    plan: Plan
    ids: Mapping[str, Sequence[int]]
    """By member, the ids of the prompt."""
    width: int
    """How many slots each text needs: one, or as many as a beam follows texts."""
    parse: Parse | None = None
    """The beginning of the grammar that the text is bound to; ``None`` where it is free."""
    given: Sequence[int] = ()
    """The columns of what is scored after the prompt."""


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


def prepare(
    request: GenerationRequest,
    default: Plan,
    members: Sequence[Member],
    union: UnionVocabulary,
    *,
    compile_grammar: Compile | None = None,
    may_be_empty: bool = False,
) -> PreparedRequest:
    """Let all members encode the prompt of a request, and look its method up. Takes no slots.

    Args:
        request: to be prepared.
        default: the plan of a request that brings no method and no options.
        members: of the engine.
        union: their vocabulary.
        compile_grammar: makes grammars of constraints; without it no text can be bound to one.
        may_be_empty: whether a raw prompt may be empty.

    Raises:
        PromptError: a member cannot read the prompt, or it is longer than the member's context.
        SpecError: a field has the wrong type, the method does not fit the members, or the constraint cannot be kept.
    """
    if not isinstance(request.prompt, Prompt):
        words = f"the prompt of a request is {shown(request.prompt)}, not a Prompt"
        raise SpecError(words, hint='write Prompt(text="…")')
    if not isinstance(request.limits, Limits):
        words = f"the limits of a request are {shown(request.limits)}, not Limits"
        raise SpecError(words, hint="write Limits(max_new_tokens=64)")
    parse = None if request.constraint is None else begin_grammar(request.constraint, compile_grammar)
    if request.limits.min_new_tokens:
        parse = LeastLength(request.limits.min_new_tokens, union, parse)
    plan, method = default, default.method if request.method is None else request.method
    if request.options and isinstance(method, Method):
        check_off(request.options.get("speculate"), [member.name for member in members])
        method = method.but(**cast(MethodOptions, request.options))
    if request.score:
        if request.n > 1 or request.constraint is not None:
            raise SpecError(
                "a prompt is to be scored, and n or a constraint is given", hint="they concern what is written"
            )
        method = scored_by(method)
    if method is not plan.method:
        plan = make_plan(method, members, union)
    if request.prompt.ids is not None and len(members) > 1:
        raise PromptError("token ids are one member's", hint="ask that member alone, or give text")
    prompt, given = split(plan.lead, request.prompt, len(members) == 1) if request.score else (request.prompt, ())
    if given:
        request = replace(request, prompt=prompt, limits=Limits(len(given)))
    ids = {member.name: member.encoder.encode(prompt, may_be_empty=may_be_empty) for member in members}
    for member in members:
        length = len(ids[member.name]) + max(0, len(given) - 1)
        if not 0 < length <= member.backend.facts.context:
            check_length(member.name, length, member.backend.facts.context)
    return PreparedRequest(request, plan, ids, plan.draw.beam_width, parse, given)


def begin_grammar(constraint: object, compile_grammar: Compile | None) -> Parse | None:
    """Make the grammar of what a text is to be bound to, as `Constraint.parse` reads it. Raises a `SpecError`."""
    given = Constraint.parse(constraint)
    if given is None:
        return None
    if compile_grammar is None:
        raise SpecError(
            f"the text is bound to {given.kind}, but this engine was given nothing that makes grammars",
            hint="give it one: Engine(…, compile_grammar=Grammars(union)); Ensemble.load does",
        )
    return compile_grammar(given)


def check_length(member: str, length: int, context: int) -> None:
    """Refuse a prompt that a member's context cannot hold. Raises a `PromptError`."""
    if length > context:
        raise PromptError(
            f"the prompt has {length} tokens for member {member!r}, more than its context of {context}",
            hint="shorten the prompt, or raise the member's context in the spec",
        )
    if length == 0:
        raise PromptError(
            f"member {member!r} reads this prompt as nothing at all", hint="check the member's chat_template"
        )
