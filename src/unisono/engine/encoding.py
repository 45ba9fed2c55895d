"""A prompt in the ids of all members, up to where the text begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from unisono.chat.messages import Prompt
from unisono.chat.thinking import asked
from unisono.config.reasoning import Reasoning
from unisono.engine.beginning import BeginningError
from unisono.engine.member import Member
from unisono.errors import MemberUnavailable, PromptError, PromptTooLong, SpecError, shown


def encode_for(
    members: Sequence[Member],
    prompt: Prompt,
    reasoning: Reasoning,
    *,
    may_be_empty: bool = False,
    seams: bool = False,
    spared: Collection[str] = (),
    may_be_longer: bool = False,
) -> tuple[dict[str, list[int]], bool]:
    """The ids of a prompt by member, up to where an answer begins, and whether that is inside reasoning.

    It is where the template of some member opens reasoning: those that could do so follow it. Where calls are written
    by ``seams``, an answer's first mark is left open even where there is to be no reasoning: it may be a call's.
    Members that are ``spared`` are left out where their tokenizers are away, as long as anybody is there; they
    `encode_late`. A prompt that ``may_be_longer`` than what can be answered is encoded all the same.
    """
    ways = {"off": reasoning.off, "may_be_empty": may_be_empty}
    ids = _encoded(members, prompt, spared, may_be_longer=may_be_longer, **ways)
    if prompt.messages is None:
        return ids, False
    present = [each for each in members if each.name in ids]
    if prompt.continue_final_message:
        for each in present:
            _check_continued(each, ids[each.name])
        return ids, False
    inside = not reasoning.off and any(each.encoder.marks.is_open(ids[each.name]) for each in present)
    closed = reasoning.off and not seams
    return {each.name: each.encoder.marks.begun(ids[each.name], inside=inside, off=closed) for each in present}, inside


def encode_late(member: Member, prompt: Prompt, reasoning: Reasoning, *, inside: bool, seams: bool) -> list[int]:
    """What `encode_for` left out: the others have decided whether an answer begins ``inside`` reasoning.

    Raises a `MemberUnavailable` where the tokenizer is still away, and a `PromptError`.
    """
    ids = member.encoder.encode(prompt, off=reasoning.off)
    if prompt.continue_final_message:
        _check_continued(member, ids)
    elif prompt.messages is not None:
        ids = member.encoder.marks.begun(ids, inside=inside, off=reasoning.off and not seams)
    check_length(member.name, len(ids), member.backend.facts.context)
    return ids


def _encoded(
    members: Sequence[Member], prompt: Prompt, spared: Collection[str], *, may_be_longer: bool, **ways: bool
) -> dict[str, list[int]]:
    ids = dict[str, list[int]]()
    encoders = {each.name: each.encoder.unbounded if may_be_longer else each.encoder for each in members}
    for each in members:
        if each.name in spared and each.cannot_encode:
            continue
        try:
            ids[each.name] = encoders[each.name].encode(prompt, **ways)
        except MemberUnavailable:
            if each.name not in spared:
                raise
    return ids or {name: encoder.encode(prompt, **ways) for name, encoder in encoders.items()}


def _check_continued(member: Member, ids: Sequence[int]) -> None:
    if member.encoder.marks.is_open(ids):
        raise PromptError(
            f"the chat template of member {member.name!r} writes what is to be continued within reasoning",
            hint="ask its template not to think, as in chat_template_kwargs, or leave continue_final_message out",
        )


def check_thinking(variables: Mapping[str, Any] | None, reasoning: Reasoning, *, begun: bool = False) -> None:
    """Refuse variables that tell templates to think where nothing is to be reasoned, or not to where a limit is set.

    Of an answer that is ``begun``, see `check_begun`. Raises a `SpecError`.
    """
    for name, value, thinks in asked(variables):
        if begun and thinks:
            continue
        if reasoning.off if thinks else reasoning.max_pieces is not None:
            raise SpecError(
                f"reasoning is {reasoning}, but template_kwargs says {name}: {shown(value)}",
                hint="leave one of them out; reasoning sets all variables of templates for it",
            )


def check_begun(variables: Mapping[str, Any] | None, members: Sequence[Member]) -> None:
    """Refuse variables that tell templates to think before an answer whose first words are given.

    Where no member reasons, and no template reads them, they change nothing. Raises a `BeginningError`.
    """
    reason = any("reasoning_begin" in member.encoder.marks.known for member in members)
    templates = [member.encoder.template for member in members]
    for name, value, thinks in asked(variables):
        if thinks and (reason or any(each is not None and name in each.variables for each in templates)):
            raise BeginningError(
                f"the answer's first words are given, and {name}: {shown(value)} asks for reasoning before them",
                hint="leave one of them out; a list of pieces may begin with reasoning",
            )


def check_length(member: str, length: int, context: int) -> None:
    """Refuse a prompt that a member's context cannot hold. Raises a `PromptTooLong`, or a `PromptError` for none."""
    if length > context:
        raise PromptTooLong(
            f"the prompt has {length} tokens for member {member!r}, more than its context of {context}",
            hint="shorten the prompt, or raise the member's context in the ensemble file",
        )
    if length == 0:
        raise PromptError(
            f"member {member!r} reads this prompt as nothing at all", hint="check the member's chat_template"
        )
