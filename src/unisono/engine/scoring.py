"""Scoring texts that are given: what their pieces' log-probabilities are under the combined distribution.

A given text has no pieces of its own. It is cut into those of the lead's tokenizer, each member spells them, and one
teacher-forced pass a member gives the combined distribution before every piece. The score is that of this one way of
writing the text; the probability of the bytes, however they are cut, is the sum over all ways, which nobody can
compute in full. Evaluations of single models make the same choice (lm-evaluation-harness scores a model's own
encoding), and of one member the two agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.config.sampling import MEMBER, Sampling
from unisono.engine.member import Member
from unisono.engine.runner import Runner
from unisono.engine.sampler import Distributions, Sampler
from unisono.engine.sequence import TextSequence
from unisono.engine.step_state import StepState
from unisono.errors import PromptError, shown
from unisono.records import PieceScore, is_unicode
from unisono.vocab.union import ABSENT, UnionVocabulary

AT_ONCE = 64  # pieces of a text that are scored in one pass: a distribution of each is held


def score_pieces(
    given: Mapping[TextSequence, Sequence[int]],
    members: Sequence[Member],
    union: UnionVocabulary,
    runner: Runner,
    sampler: Sampler,
) -> dict[TextSequence, list[PieceScore]]:
    """Let texts go on as given, all in the same passes, and compute how likely each piece is.

    ``given`` has by text the columns of what follows it; END may be the last one. Raises a `PromptError` where a
    member's context cannot hold a text.
    """
    scores: dict[TextSequence, list[PieceScore]] = {text: [] for text in given}
    while left := {
        text: columns[len(scores[text]) :] for text, columns in given.items() if len(columns) > len(scores[text])
    }:
        for member in members:
            member.begin_step()
        states = [_state(text, columns[:AT_ONCE], members, union) for text, columns in left.items()]
        runner.run_leads(states, given=True)
        runner.run_voters(states, keep=False)
        for position in range(max(state.last for state in states) + 1):
            reaching = [state for state in states if position <= state.last]
            for group, distributions in sampler.combine(reaching, position):
                for row, state in enumerate(group):
                    column = left[state.text][position]
                    scores[state.text].append(_scored(distributions, row, column, union))
                    state.take(position, column)
        for state in states:
            state.commit()
    return scores


def _state(text: TextSequence, columns: Sequence[int], members: Sequence[Member], union: UnionVocabulary) -> StepState:
    """A state that stands before the given pieces."""
    state = StepState(text, tuple(members), union)
    for column in columns[:-1]:
        state.draft(column)
    for member in members:
        context = member.backend.facts.context
        if len(state.cursor(member).ids) > context:
            raise PromptError(
                f"prompt and text have more tokens for member {member.name!r} than its context of {context}",
                hint="shorten the text, or raise the member's context in the spec",
            )
    return state


def _scored(distributions: Distributions, row: int, column: int, union: UnionVocabulary) -> PieceScore:
    p = float(distributions.q_BU[row, column])
    return PieceScore(
        union.piece(column),
        math.log(p) if p > 0 else -math.inf,
        distributions.likeliest[row] == column,
        tuple(voter.name for voter in distributions.voters),
    )


def scored_by(method: Method) -> Method:
    """A method without what concerns the choice of a piece alone: nothing is chosen."""
    draw = replace(method.draw, **{name: _GREEDY[name] for name in _GREEDY if not name.startswith(MEMBER)})
    return replace(method, sampling=draw, speculate=None)


_GREEDY = {key.name: getattr(Sampling(), key.name) for key in fields(Sampling)}


def cut(lead: Member, prompt: Prompt, text: str) -> list[int]:
    """The columns of the pieces into which the lead's tokenizer cuts a text that follows a prompt.

    A raw prompt and the text are encoded together, so that the cut between them is the tokenizer's own, as far as
    the prompt's ids stay what they are (lm-evaluation-harness does so too); else the text is encoded alone.

    Raises:
        PromptError: the text is empty, or holds a piece that some member cannot spell.
    """
    if not text or not is_unicode(text):
        raise PromptError(f"the text to score is {shown(text)}", hint="give text that is Unicode and not empty")
    data = text.encode()
    columns = [int(lead.map.column_V[token]) for token in _ids(lead, prompt, data)]
    if not columns or ABSENT in columns:
        raise PromptError(
            f"the text to score, {shown(text)}, holds a piece that some member cannot spell",
            hint="`unisono doctor` lists the bytes that are missing",
        )
    return columns


def _ids(lead: Member, prompt: Prompt, data: bytes) -> Sequence[int]:
    if prompt.text is not None:
        before = lead.encoder.encode(prompt, may_be_empty=True)
        whole = lead.encoder.encode(Prompt(text=prompt.text + data.decode()))
        rest = whole[len(before) :]
        if whole[: len(before)] == before and lead.speller.is_exact(rest, data):
            return rest
    return lead.speller.own_encoding(data) or lead.speller.longest_match(data) or ()
