"""A request, and what it takes to serve it: the prompt in every member's ids, and the method looked up."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.chat.messages import Prompt
from unisono.config.constraint import Constraint
from unisono.config.method import AUTO, NGRAM, Method
from unisono.constraints.protocol import Compile, Parse
from unisono.engine.group import Beam
from unisono.engine.member import Cursor, Member
from unisono.engine.ngram import NgramIndex
from unisono.engine.plan import Plan, make_plan
from unisono.engine.sequence import TextSequence
from unisono.errors import PromptError, SpecError, shown
from unisono.records import Limits
from unisono.vocab.union import UnionVocabulary

DEFAULT_LIMITS = Limits()
SEED_BITS = 53
"""Of seeds that are chosen here: whoever reads JSON's numbers as doubles can write them again."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What somebody asks for: one text, or several, that follow a prompt.

    It is the same record from the wire to the sequence: the library, the command line, the server and evaluation
    make one, and `Engine.prepare` turns it into a `PreparedRequest`.
    """

    id: str
    """Comes back with the result."""
    prompt: Prompt
    limits: Limits = DEFAULT_LIMITS
    """When each text stops."""
    trace: bool = False
    """Whether to keep a record of every step."""
    method: Method | None = None
    """How it is written, as ``ensemble.method.but(gate="first:8")`` says it; ``None`` for as the ensemble writes."""
    constraint: Constraint | str | Mapping[str, Any] | None = None
    """What each text has to be, as `Constraint.parse` reads it; ``None`` for anything."""
    n: int = 1
    """How many texts. The first has the seed of the sampling, the next that and 1, and so on."""
    top_logprobs: int = 0
    """How many of the most likely pieces of the combined distribution to keep of every step."""
    model: str = ""
    """Which ensemble, where a service has several."""


Request = GenerationRequest
"""Its public name."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request that can be served: its method looked up, its prompt in every member's ids. It holds no slots."""

    request: GenerationRequest
    plan: Plan
    ids: Mapping[str, Sequence[int]]
    """By member, the ids of the prompt."""
    parse: Parse | None = None
    """The beginning of the grammar that the text is bound to; ``None`` where it is free."""

    @property
    def width(self) -> int:
        """How many slots each text needs: one, or as many as a beam follows texts."""
        return self.plan.draw.beam_width


def prepare(
    request: GenerationRequest,
    default: Method,
    members: Sequence[Member],
    union: UnionVocabulary,
    *,
    compile_grammar: Compile | None = None,
    may_be_empty: bool = False,
) -> PreparedRequest:
    """Let all members encode the prompt of a request, and look its method up. Takes no slots.

    Args:
        request: to be prepared.
        default: the method of a request that brings none.
        members: of the engine.
        union: their vocabulary.
        compile_grammar: makes grammars of constraints; without it no text can be bound to one.
        may_be_empty: whether a raw prompt may be empty.

    Raises:
        PromptError: a member cannot read the prompt, or it is longer than the member's context.
        SpecError: a field has the wrong type, the method does not fit the members, or the constraint cannot be kept.
    """
    _check_types(request)
    parse = begin_grammar(request.constraint, compile_grammar)
    plan = make_plan(default if request.method is None else request.method, members, union)
    ids = {member.name: member.begin(request.prompt, may_be_empty=may_be_empty) for member in members}
    for member in members:
        check_length(member.name, len(ids[member.name]), member.backend.facts.context)
    return PreparedRequest(request, plan, ids, parse)


def _check_types(request: GenerationRequest) -> None:
    """Refuse fields of the wrong type before they reach the engine. Raises a `SpecError`."""
    if not isinstance(request.prompt, Prompt):
        raise SpecError(
            f"the prompt of a request is {shown(request.prompt)}, not a Prompt", hint='write Prompt(text="…")'
        )
    if not isinstance(request.limits, Limits):
        raise SpecError(
            f"the limits of a request are {shown(request.limits)}, not Limits", hint="write Limits(max_new_tokens=64)"
        )


def begin(prepared: PreparedRequest, members: Sequence[Member], union: UnionVocabulary) -> TextSequence:
    """Begin the text, in slots of its own: those of its first hypothesis, where a beam searches it."""
    request, plan = prepared.request, prepared.plan
    with contextlib.ExitStack() as opened:
        cursors: dict[str, Cursor] = {}
        for member in members:
            ids, unread = list(prepared.ids[member.name]), plan.weighs_prompt  # a prompt is weighed first
            cursors[member.name] = member.open(ids, unread=unread)
            opened.callback(member.backend.close, cursors[member.name].slot)
        opened.pop_all()
    seed = secrets.randbits(SEED_BITS) if plan.draw.seed is None else plan.draw.seed
    text = TextSequence(
        request.prompt,
        cursors,
        request.limits,
        plan,
        trace=request.trace,
        likeliest=request.top_logprobs,
        seed=seed,
    )
    text.parse = None if prepared.parse is None else prepared.parse.copy()
    if prepared.width > 1:
        text.beam = Beam(text.copy(cursors), prepared.width, plan.draw.length_penalty)
    if plan.drafter in (NGRAM, AUTO):
        column_V = plan.lead.map.column_V
        text.history = NgramIndex(union.end, (int(column_V[token]) for token in prepared.ids[plan.lead.name]))
    return text


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
