"""What has been asked for, before it has any slots: read into every member's ids, and found to be possible."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unisono.chat.messages import Prompt
from unisono.config.constraint import Constraint
from unisono.config.method import AUTO, NGRAM, Method
from unisono.constraints.protocol import Compile, Parse
from unisono.engine.group import Beam
from unisono.engine.member import Cursor, Member
from unisono.engine.ngram import NgramIndex
from unisono.engine.plan import Plan, make_plan
from unisono.engine.sequence import TextSequence
from unisono.errors import PromptError, SpecError
from unisono.records import Limits
from unisono.vocab.respell import Tail
from unisono.vocab.union import UnionVocabulary

SEED_BITS = 53
"""Of seeds that are chosen here: whoever reads JSON's numbers as doubles can write them again."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A text that can be begun."""

    prompt: Prompt
    limits: Limits
    plan: Plan
    ids: Mapping[str, Sequence[int]]
    """By member, the ids of the prompt."""
    trace: bool
    """Whether a record of every step is kept."""
    likeliest: int
    """How many of the likeliest pieces are kept of every step."""
    parse: Parse | None = None
    """The beginning of the grammar that the text is bound to; ``None`` where it is free."""

    @property
    def width(self) -> int:
        """How many slots it needs: one, or as many as a beam follows texts."""
        return self.plan.draw.beam_width


def examine(
    prompt: Prompt,
    limits: Limits,
    method: Method,
    members: Sequence[Member],
    union: UnionVocabulary,
    *,
    trace: bool = False,
    likeliest: int = 0,
    parse: Parse | None = None,
    may_be_empty: bool = False,
) -> PreparedRequest:
    """Let all members turn a prompt into their ids; an empty one where that may be.

    Raises:
        PromptError: a member cannot read it, or it is longer than the member's context.
        SpecError: the method does not fit the members.
    """
    plan = make_plan(method, members, union)
    ids = {member.name: member.begin(prompt, may_be_empty=may_be_empty) for member in members}
    for member in members:
        check_length(member.name, len(ids[member.name]), member.backend.facts.context)
    return PreparedRequest(prompt, limits, plan, ids, trace, likeliest, parse)


def begin(submission: PreparedRequest, members: Sequence[Member], union: UnionVocabulary) -> TextSequence:
    """Begin the text, in slots of its own: those of its first hypothesis, where a beam searches it."""
    plan = submission.plan
    tail = Tail() if plan.respells else None
    with contextlib.ExitStack() as opened:
        cursors: dict[str, Cursor] = {}
        for member in members:
            ids, unread = list(submission.ids[member.name]), plan.combine.reads_losses  # a prompt is weighed first
            cursors[member.name] = member.open(ids, tail, unread=unread)
            opened.callback(member.backend.close, cursors[member.name].slot)
        opened.pop_all()
    seed = secrets.randbits(SEED_BITS) if plan.draw.seed is None else plan.draw.seed
    text = TextSequence(
        submission.prompt,
        cursors,
        submission.limits,
        plan,
        trace=submission.trace,
        likeliest=submission.likeliest,
        seed=seed,
    )
    text.parse = None if submission.parse is None else submission.parse.copy()
    if submission.width > 1:
        text.beam = Beam(text.copy(cursors), submission.width, plan.draw.length_penalty)
    if plan.drafter in (NGRAM, AUTO):
        column_V = plan.lead.map.column_V
        text.history = NgramIndex(union.end, (int(column_V[token]) for token in submission.ids[plan.lead.name]))
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
