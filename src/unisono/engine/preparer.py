"""Turns requests into what an engine can serve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import numpy as np

from unisono.chat.messages import Prompt
from unisono.config.constraint import Constraint
from unisono.config.method import Method, MethodOptions
from unisono.config.reasoning import Reasoning
from unisono.config.speculation import check_off
from unisono.config.whole_distributions import check_request
from unisono.constraints.grammar import Compile, Grammars, Parse
from unisono.constraints.least_length import LeastLength
from unisono.constraints.reasoning import BesideReasoning
from unisono.engine.beginning import Beginning, BegunWith, columns_of
from unisono.engine.byte_checks import check_bytes_of
from unisono.engine.calls import free_calls
from unisono.engine.encoding import check_begun, check_length, check_thinking, encode_for, encode_late
from unisono.engine.given_text import scored_by, split
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.engine.request import GenerationRequest, PreparedRequest
from unisono.engine.scheduler import Cost
from unisono.errors import PromptError, SpecError
from unisono.records import Limits
from unisono.vocab.union import UnionVocabulary, union_of_bytes


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
        self._byte_grammars = Grammars(union_of_bytes(union.marks))
        self._truncated = [member.name for member in members if member.is_truncated]
        self._slots_by_model = Counter(member.model for member in members)
        # no piece is spelled with more ids than bytes, and a first one may get a space
        self._longest_spelling = int(np.diff(union.offset_U).max(initial=0)) + 1

    def prepare(
        self,
        request: GenerationRequest,
        default: Plan | None = None,
        *,
        may_be_empty: bool = False,
        may_be_longer: bool = False,
    ) -> PreparedRequest:
        """Look a request's method up, let all members encode its prompt, and say what it costs.

        Args:
            request: to be prepared.
            default: the plan of a request that brings no method and no options; by default the engine's own.
            may_be_empty: whether a raw prompt may be empty.
            may_be_longer: whether it may be longer than a member's context: it is to be counted alone.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than the member's context.
            SpecError: a field is wrong, the method does not fit the members, or the constraint cannot be kept.
        """
        request.check()
        check_request(self._truncated, scores=request.score or may_be_empty, logprobs=request.top_logprobs)
        plan = self._plan(request, self._default if default is None else default)
        if plan.is_bytes:
            check_bytes_of(request)
        if request.prompt.ids is not None and len(self._members) > 1:
            raise PromptError("token ids are one member's", hint="ask that member alone, or give text")
        parse, given, unscored = self._grammar(request, plan), tuple[int, ...](), tuple[bytes, ...]()
        if request.score:
            whole = split(plan.lead, self._members, request.prompt)
            given, unscored = whole.columns, whole.unscored
            request = replace(request, prompt=whole.beginning, limits=Limits(max(1, len(given))))
        self._check_prompt(request, plan)
        spared = [] if request.score or may_be_empty else self._spared(plan)
        read = self._encode(request, plan, parse, spared, may_be_empty=may_be_empty, may_be_longer=may_be_longer)
        parse = self._beside_reasoning(request, plan, parse, inside=read.inside)
        begun = None if request.begin is None else self._begun(request, plan, read)
        if begun is not None:
            begun.consume(parse)
            read = read.and_begun(begun, self._members)
        if request.limits.min_new_tokens and not request.score and not plan.is_bytes:  # there the walk sees to it
            parse = LeastLength(request.limits.min_new_tokens, self._union, parse)
        if not may_be_longer:
            self._check_lengths(read.ids, given)
        cost, asked = self._cost(request, plan, read.ids), self._asked(request, plan)
        columns = () if begun is None else begun.columns
        return PreparedRequest(
            request, plan, read.ids, cost, parse, given, unscored, columns, read.inside, asked, read.late
        )

    def _grammar(self, request: GenerationRequest, plan: Plan) -> Parse | None:
        """What binds the text: the constraint, or the grammar of calls where they are free."""
        given = request.constraint
        bound = None if given is None else self._begin_grammar(given, bytes_alone=plan.is_bytes)
        return bound or self._free_calls(request, plan)

    def _check_prompt(self, request: GenerationRequest, plan: Plan) -> None:
        """Raise a `PromptError` where members cannot begin an answer, or think, as it is asked for."""
        template_kwargs = request.prompt.template_kwargs
        if is_answered := _is_answered(request.begin):
            check_begun(template_kwargs, self._members)
        check_thinking(template_kwargs, plan.reasoning, begun=is_answered)

    def _encode(
        self,
        request: GenerationRequest,
        plan: Plan,
        parse: Parse | None,
        spared: Sequence[str],
        *,
        may_be_empty: bool,
        may_be_longer: bool,
    ) -> _Read:
        seams = parse is not None and parse.by_seams
        lengths = {"may_be_empty": may_be_empty, "may_be_longer": may_be_longer}
        ids, inside = encode_for(self._members, request.prompt, plan.reasoning, seams=seams, spared=spared, **lengths)
        late = partial(encode_late, prompt=request.prompt, reasoning=plan.reasoning, inside=inside, seams=seams)
        return _Read(ids, inside, seams, late)

    def _spared(self, plan: Plan) -> list[str]:
        """Those that need not read a prompt while they are away."""
        return [] if plan.weighs_prompt else [each.name for each in self._members if plan.spares(each)]

    def _free_calls(self, request: GenerationRequest, plan: Plan) -> Parse | None:
        """The grammar of calls where they are free, and are not to be taken for text; see `free_calls`."""
        if request.score or self._grammars is None or plan.is_bytes:
            return None
        return self._begin_grammar(free_calls(plan.lead.encoder, request.prompt))

    def _beside_reasoning(
        self, request: GenerationRequest, plan: Plan, parse: Parse | None, *, inside: bool
    ) -> Parse | None:
        """The grammar of a text that may begin with reasoning."""
        bound = parse is not None or plan.reasoning != Reasoning()
        if not self._union.marks or not bound or request.score or plan.is_bytes:
            return parse
        answered = request.prompt.continue_final_message
        return BesideReasoning(plan.reasoning, self._union, parse, inside=inside, answered=answered)

    def _begun(self, request: GenerationRequest, plan: Plan, read: _Read) -> BegunWith:
        assert request.begin is not None
        columns = columns_of(request.begin, plan.lead, self._members, self._union)
        off, opens = plan.reasoning.off and not read.seams, request.prompt.begins_answer and not read.inside
        return BegunWith(columns, self._union, opens, off, read.seams)

    def _check_lengths(self, ids: Mapping[str, Sequence[int]], given: Sequence[int]) -> None:
        for member in [member for member in self._members if member.name in ids]:
            read, context = len(ids[member.name]), member.backend.facts.context
            scored = sum(len(member.spell(column, self._union.piece(column) or b"")) for column in given[:-1])
            check_length(member.name, read and read + scored, context)

    def _plan(self, request: GenerationRequest, default: Plan) -> Plan:
        method = default.method if request.method is None else request.method
        if request.options and isinstance(method, Method):
            check_off(request.options.get("speculate"), [member.name for member in self._members])
            method = method.but(**cast(MethodOptions, request.options))
        if request.score:
            if request.weights is not None:
                raise SpecError("a prompt is to be scored, and weights are given", hint="write them into a file")
            if request.n > 1 or request.constraint is not None:
                words = "a prompt is to be scored, and n or a constraint is given"
                raise SpecError(words, hint="they concern what is written")
            if request.begin is not None:
                raise SpecError("a prompt is to be scored, and begin is given", hint="write it into the prompt")
            method = scored_by(method)
        elif _is_answered(request.begin) and not method.reasoning.off:
            method = replace(method, reasoning=Reasoning(off=True))
        is_default = method is default.method and request.weights is None
        plan = default if is_default else Plan(method, self._members, self._union, request.weights)
        width = plan.draw.beam_width
        if plan.is_bytes and plan.slots > self._slots:
            raise SpecError(
                f"vocabulary: {plan.vocabulary} follows {plan.slots} cuts of a text, and there are {self._slots} slots",
                hint="say vocabulary: bytes in the ensemble's file, load for a larger batch, or follow fewer (beam:2)",
            )
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
        texts = request.n * plan.slots if plan.is_bytes else max(request.n, plan.draw.beam_width)
        return Cost(self._slots_by_model, texts, prompts, memory)

    def _begin_grammar(self, constraint: object, *, bytes_alone: bool = False) -> Parse | None:
        given = Constraint.parse(constraint)
        if given is None:
            return None
        if self._grammars is None:
            raise SpecError(
                f"the text is bound to {given.kind}, but this engine was given nothing that makes grammars",
                hint="give it one: Engine(…, compile_grammar=Grammars(union)); Ensemble.load does",
            )
        return (self._byte_grammars if bytes_alone else self._grammars)(given)


def _is_answered(begin: Beginning | None) -> bool:
    """Whether a text begins with an answer, before which nothing is reasoned."""
    return begin is not None and begin.text is not None


class _Read(NamedTuple):
    """A prompt as members read it."""

    ids: Mapping[str, Sequence[int]]
    """By member, those that are away left out."""
    inside: bool
    """Whether the prompt ends inside of reasoning."""
    seams: bool
    """Whether members read calls by their seams."""
    late: Callable[[Member], list[int]]
    """The ids of a member that is back."""

    def and_begun(self, begun: BegunWith, members: Sequence[Member]) -> _Read:
        """The same, and the pieces that the text begins with."""
        ids = {each.name: [*self.ids[each.name], *begun.ids(each)] for each in members if each.name in self.ids}
        return self._replace(ids=ids, late=partial(_late_and_begun, self.late, begun))


def _late_and_begun(late: Callable[[Member], list[int]], begun: BegunWith, member: Member) -> list[int]:
    return [*late(member), *begun.ids(member)]
