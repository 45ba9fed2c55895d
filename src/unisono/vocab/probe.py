"""What a chat template does around an answer, found out by asking it and the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.types import Message
from unisono.vocab.pieces import token_bytes
from unisono.vocab.template import ChatTemplate, TemplateFailure
from unisono.vocab.tokenizer import Tokenizer

_QUESTION = Message(role="user", content="Hi")
_REPLY = "Hello"


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How a member's answers begin and end, by its template."""

    leading_space: bool
    """Whether an answer's first piece carries a space that is no part of the answer."""
    turn_end_ids: tuple[int, ...]
    """The control token that closes an answer, if the template writes one."""


def probe_answer_form(template: ChatTemplate | None, tokenizer: Tokenizer) -> AnswerForm:
    """Render a short conversation with a known reply and look at the tokens around it.

    A template that refuses the conversation, or does not show the reply, tells nothing; neither does
    one that does not write replies at all.
    """
    unknown = AnswerForm(leading_space=False, turn_end_ids=())
    if template is None:
        return unknown
    reply = Message(role="assistant", content=_REPLY)
    try:
        opening = template.render([_QUESTION])
        whole = template.render([_QUESTION, reply], add_generation_prompt=False)
    except TemplateFailure:
        return unknown
    pieces = [(i, _bytes_of(tokenizer, i)) for i in tokenizer.encode_rendered(whole)]
    start, end = _place_of_reply([piece for _, piece in pieces])
    if start is None:
        return unknown
    first = pieces[start][1] or b""
    return AnswerForm(
        leading_space=first.startswith(b" ") and whole.startswith(opening) and not opening.endswith(" "),
        turn_end_ids=_turn_end(tokenizer, pieces[end:]),
    )


def _bytes_of(tokenizer: Tokenizer, token: int) -> bytes | None:
    table = tokenizer.table
    return token_bytes(table.texts[token], table.kinds[token], table.scheme)


def _place_of_reply(pieces: list[bytes | None]) -> tuple[int | None, int]:
    """The index of the piece in which the last occurrence of the reply begins, and the one after its end."""
    parts = [piece or b"" for piece in pieces]
    text = b"".join(parts)
    begin = text.rfind(_REPLY.encode())
    if begin < 0:
        return None, 0
    finish = begin + len(_REPLY.encode())
    start, position = 0, 0
    for index, part in enumerate(parts):
        if position <= begin < position + len(part):
            start = index
        position += len(part)
        if position >= finish:
            return start, index + 1
    return None, 0


def _turn_end(tokenizer: Tokenizer, rest: list[tuple[int, bytes | None]]) -> tuple[int, ...]:
    """The first control token behind the reply, when only white space lies between."""
    for token, piece in rest:
        if piece is None:
            return (token,) if tokenizer.table.kinds[token] == "control" else ()
        if piece.strip():
            return ()
    return ()
