"""What a chat template does around an answer, found out by asking it and the tokenizer."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

from unisono.chat.messages import Message
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.vocab.pieces import token_bytes
from unisono.vocab.tokenizer import Tokenizer

_QUESTION = Message(role="user", content="Hi")
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

    A template that refuses the conversation, or does not write replies at all, tells nothing.
    """
    forms = [] if template is None else [_probe(template, tokenizer, reply) for reply in _REPLIES]
    return AnswerForm(
        leading_space=any(form.leading_space for form in forms),
        turn_end_ids=tuple(sorted({token for form in forms for token in form.turn_end_ids})),
    )


def _probe(template: ChatTemplate, tokenizer: Tokenizer, reply: str) -> AnswerForm:
    unknown = AnswerForm(leading_space=False, turn_end_ids=())
    answer = Message(role="assistant", content=reply)
    try:
        opening = template.render([_QUESTION])
        whole = template.render([_QUESTION, answer], add_generation_prompt=False)
    except TemplateFailure:
        return unknown
    ids = tokenizer.encode_rendered(whole)
    pieces = [_bytes_of(tokenizer, token) for token in ids]
    span = _span_of(reply.encode(), pieces)
    if span is None:
        return unknown
    begin, behind = span
    starts_with_space = (pieces[begin] or b"").startswith(b" ")
    return AnswerForm(
        leading_space=starts_with_space and whole.startswith(opening) and not opening.endswith(" "),
        turn_end_ids=_turn_end(tokenizer, list(zip(ids, pieces, strict=True))[behind:]),
    )


def _bytes_of(tokenizer: Tokenizer, token: int) -> bytes | None:
    table = tokenizer.table
    return token_bytes(table.texts[token], table.kinds[token], table.scheme)


def _span_of(reply: bytes, pieces: list[bytes | None]) -> tuple[int, int] | None:
    """The index of the piece in which the last occurrence of the reply begins, and of the one behind it."""
    edges = list(itertools.accumulate((len(piece or b"") for piece in pieces), initial=0))
    begin = b"".join(piece or b"" for piece in pieces).rfind(reply)
    if begin < 0:
        return None
    return bisect.bisect_right(edges, begin) - 1, bisect.bisect_left(edges, begin + len(reply))


def _turn_end(tokenizer: Tokenizer, rest: list[tuple[int, bytes | None]]) -> tuple[int, ...]:
    """The first control token behind the reply, when only white space lies between."""
    for token, piece in rest:
        if piece is None:
            return (token,) if tokenizer.table.kinds[token] == "control" else ()
        if piece.strip():
            return ()
    return ()
