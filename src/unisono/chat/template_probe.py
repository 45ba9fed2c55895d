"""What a chat template writes before and after an answer, found by rendering known replies."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

from unisono.chat.messages import Message
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.tool_format import QUESTION
from unisono.vocab.pieces import token_bytes
from unisono.vocab.tokenizer import Tokenizer

_REPLIES = ("Hello", "Yes", "The", "I")


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How a member's answers begin and end, by its template."""

    leading_space: bool
    """Whether an answer's first piece carries a space that is no part of the answer."""
    turn_end_ids: tuple[int, ...]
    """The control token that closes an answer, if the template writes one."""


def probe_answer_form(template: ChatTemplate | None, tokenizer: Tokenizer) -> AnswerForm:
    """Render short conversations with known replies and look at the tokens around each reply.

    A template that refuses the conversation, or does not write replies, gives the default form.
    """
    forms = [] if template is None else [_probe(template, tokenizer, reply) for reply in _REPLIES]
    return AnswerForm(
        leading_space=any(form.leading_space for form in forms),
        turn_end_ids=tuple(sorted({token for form in forms for token in form.turn_end_ids})),
    )


def _probe(template: ChatTemplate, tokenizer: Tokenizer, reply: str) -> AnswerForm:
    unknown = AnswerForm(leading_space=False, turn_end_ids=())
    try:
        opening = template.render([QUESTION])
        answered = [QUESTION, Message(role="assistant", content=reply)]
        whole = template.render(answered, add_generation_prompt=False)
    except TemplateFailure:
        return unknown
    table, ids = tokenizer.table, tokenizer.encode_rendered(whole)
    pieces = [token_bytes(table.texts[token], table.kinds[token], table.scheme) for token in ids]
    edges = list(itertools.accumulate((len(piece or b"") for piece in pieces), initial=0))
    place = b"".join(piece or b"" for piece in pieces).rfind(reply.encode())
    if place < 0:
        return unknown
    begin = bisect.bisect_right(edges, place) - 1
    end = bisect.bisect_left(edges, place + len(reply.encode()))
    # The first control token after the reply ends the turn, when only white space lies between.
    rest = itertools.dropwhile(lambda token: (pieces[token] or b"x").isspace(), range(end, len(ids)))
    after = next((token for token in rest), None)
    ends = after is not None and pieces[after] is None and table.kinds[ids[after]] == "control"
    return AnswerForm(
        leading_space=(pieces[begin] or b"").startswith(b" ")
        and whole.startswith(opening)
        and not opening.endswith(" "),
        turn_end_ids=(ids[after],) if ends and after is not None else (),
    )
