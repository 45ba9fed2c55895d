"""A request, what it takes to serve it (its prompt in every member's ids, its method looked up), and its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Unpack, cast

import numpy as np

from unisono.chat.messages import Prompt, Tool
from unisono.config.constraint import Constraint
from unisono.config.method import Method, MethodOptions, check_off
from unisono.config.reasoning import Reasoning
from unisono.config.whole import check_request
from unisono.constraints.grammar import Compile, Parse
from unisono.constraints.least_length import LeastLength
from unisono.constraints.reasoning import BesideReasoning
from unisono.engine.calls import free_calls
from unisono.engine.encoding import check_length, check_thinking, encode_for, encode_late
from unisono.engine.given import scored_by, split
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.engine.scheduler import Cost, RequestId
from unisono.errors import PromptError, SpecError, shown
from unisono.records import Generation, Limits, Part, StepRecord
from unisono.vocab.union import UnionVocabulary

DEFAULT_LIMITS = Limits()


class GenerationOptions(MethodOptions, total=False):
    """What is asked for beside a prompt, as keywords of `Ensemble.generate` and the like."""

    tools: Sequence[Tool] | None
    """What the answer to messages may call; `Ensemble.call_form` tells how it does."""
    continue_final_message: bool
    """Whether the last message, an assistant's, is continued in place of being answered."""
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
    make one, and `Preparer` turns it into a `PreparedRequest`.
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
    its first piece, which nothing precedes, and its steps have the probabilities. The method's weights are those of a
    text before which nothing was asked.
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
            most = limits.max_new_tokens if max_new_tokens is None else max_new_tokens
            limits = replace(limits, max_new_tokens=most, stop=limits.stop if stop is None else stop)
        given = {**(options or {}), **keywords}
        values = (id, prompt, limits, trace, method, constraint, n, top_logprobs, model, given, score)
        for key, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, key.name, value)

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
"""Its public name."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request that can be served: its method looked up, its prompt in every member's ids. It holds no slots."""

    request: GenerationRequest
    plan: Plan
    ids: Mapping[str, Sequence[int]]
    """By member, the ids of the prompt. Members are left out that were away with their tokenizers; see ``late``."""
    cost: Cost
    """What it takes up, at most."""
    parse: Parse | None = None
    """The beginning of the grammar that the text is bound to; ``None`` where it is free."""
    given: Sequence[int] = ()
    """The columns of what is scored after the prompt."""
    unscored: Sequence[bytes] = ()
    """The pieces of a scored prompt before these; see `Given`."""
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


class Preparer:
    """Turns requests into what an engine can serve. Takes no slots and runs no model."""

    def __init__(
        self, members: Sequence[Member], union: UnionVocabulary, default: Plan, slots: int, grammars: Compile | None
    ) -> None:
        """Bind it to an engine's members, vocabulary and plan; ``slots`` is how many texts it generates at once."""
        self._members = members
        self._union = union
        self._default = default
        self._slots = slots
        self._grammars = grammars
        self._truncated = [member.name for member in members if member.is_truncated]
        self._slots_by_model = Counter(member.model for member in members)
        # no piece is spelled with more ids than bytes, and a first one may get a space
        self._longest_spelling = int(np.diff(union.offset_U).max(initial=0)) + 1

    def prepare(
        self, request: GenerationRequest, default: Plan | None = None, *, may_be_empty: bool = False
    ) -> PreparedRequest:
        """Look a request's method up, let all members encode its prompt, and say what it costs.

        Args:
            request: to be prepared.
            default: the plan of a request that brings no method and no options; by default the engine's own.
            may_be_empty: whether a raw prompt may be empty.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than the member's context.
            SpecError: a field is wrong, the method does not fit the members, or the constraint cannot be kept.
        """
        request.check()
        check_request(self._truncated, scores=request.score or may_be_empty, logprobs=request.top_logprobs)
        parse = None if request.constraint is None else self._begin_grammar(request.constraint)
        plan = self._plan(request, self._default if default is None else default)
        prompt, given, unscored = request.prompt, tuple[int, ...](), tuple[bytes, ...]()
        if prompt.ids is not None and len(self._members) > 1:
            raise PromptError("token ids are one member's", hint="ask that member alone, or give text")
        if request.score:
            whole = split(plan.lead, self._members, prompt)
            prompt, given, unscored = whole.beginning, whole.columns, whole.unscored
            request = replace(request, prompt=prompt, limits=Limits(max(1, len(given))))
        check_thinking(prompt.template_kwargs, plan.reasoning)
        free = None if parse or request.score or self._grammars is None else free_calls(plan.lead.encoder, prompt)
        parse = parse or self._begin_grammar(free)
        seams = parse is not None and parse.by_seams
        all_there = request.score or may_be_empty or plan.weighs_prompt
        spared = [member.name for member in self._members if plan.spares(member) and not all_there]
        ids, inside = encode_for(
            self._members, prompt, plan.reasoning, may_be_empty=may_be_empty, seams=seams, spared=spared
        )
        late = partial(encode_late, prompt=prompt, reasoning=plan.reasoning, inside=inside, seams=seams)
        bound = parse is not None or plan.reasoning != Reasoning()
        if self._union.marks and bound and not request.score:
            answered = prompt.continue_final_message
            parse = BesideReasoning(plan.reasoning, self._union, parse, inside=inside, answered=answered)
        if request.limits.min_new_tokens and not request.score:
            parse = LeastLength(request.limits.min_new_tokens, self._union, parse)
        for member in [member for member in self._members if member.name in ids]:
            read, context = len(ids[member.name]), member.backend.facts.context
            scored = sum(len(member.spell(column, self._union.piece(column) or b"")) for column in given[:-1])
            check_length(member.name, read and read + scored, context)
        cost, asked = self._cost(request, plan, ids), self._asked(request, plan)
        return PreparedRequest(request, plan, ids, cost, parse, given, unscored, inside, asked, late)

    def _plan(self, request: GenerationRequest, default: Plan) -> Plan:
        method = default.method if request.method is None else request.method
        if request.options and isinstance(method, Method):
            check_off(request.options.get("speculate"), [member.name for member in self._members])
            method = method.but(**cast(MethodOptions, request.options))
        if request.score:
            if request.n > 1 or request.constraint is not None:
                words = "a prompt is to be scored, and n or a constraint is given"
                raise SpecError(words, hint="they concern what is written")
            method = scored_by(method)
        plan = default if method is default.method else Plan(method, self._members, self._union)
        width = plan.draw.beam_width
        if width > self._slots:
            raise SpecError(
                f"beam_width is {width}, but there are slots for {self._slots} texts at once",
                hint=f"load for a batch of {width} or more, or say beam_width: {width} in the ensemble's file",
            )
        if request.n > 1 and width > 1:
            raise SpecError(f"n is {request.n}, but a beam seeks one text", hint="leave n or beam_width out")
        return plan

    def _asked(self, request: GenerationRequest, plan: Plan) -> dict[str, Sequence[int]]:
        """The ids of what was asked. A prompt that is itself scored is no question: before it, nothing was."""
        if not plan.weighs_prompt:
            return {}
        prompt = Prompt(text="") if request.score else request.prompt
        return {member.name: member.asked_ids(prompt) for member in self._members}

    def _cost(self, request: GenerationRequest, plan: Plan, ids: Mapping[str, Sequence[int]]) -> Cost:
        memory = Counter[int]()
        for member in self._members:
            context = member.backend.facts.context
            read = len(ids[member.name]) if member.name in ids else context
            memory[member.model] += min(context, read + request.limits.max_new_tokens * self._longest_spelling)
        prompts = {name: len(its) for name, its in ids.items()}
        return Cost(self._slots_by_model, max(request.n, plan.draw.beam_width), prompts, memory)

    def _begin_grammar(self, constraint: object) -> Parse | None:
        given = Constraint.parse(constraint)
        if given is None:
            return None
        if self._grammars is None:
            raise SpecError(
                f"the text is bound to {given.kind}, but this engine was given nothing that makes grammars",
                hint="give it one: Engine(…, compile_grammar=Grammars(union)); Ensemble.load does",
            )
        return self._grammars(given)
