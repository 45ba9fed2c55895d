"""Text that is given to be scored: cut into pieces, and the method by which these are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.config.method import Method
from unisono.config.reasoning import Reasoning
from unisono.config.sampling import MEMBER, Sampling
from unisono.engine.member import Member
from unisono.errors import PromptError, SpecError, shown
from unisono.records import is_unicode
from unisono.vocab.spelling import Speller
from unisono.vocab.union import ABSENT, MemberMap


@dataclass(frozen=True, slots=True)
class Given:
    """A prompt that is scored: its beginning, which nothing precedes, and the rest."""

    beginning: Prompt
    """What the members read before they score anything."""
    unscored: tuple[bytes, ...]
    """The pieces of the beginning, which have no likelihood. A special token's is empty."""
    columns: tuple[int, ...]
    """The pieces of the rest, which are scored; none where the beginning is all."""


def split(lead: Member, members: Sequence[Member], prompt: Prompt) -> Given:
    """Split a prompt into what nothing precedes and the rest, which is scored.

    The first is a piece of the lead; of a member alone a token, or the special tokens that it writes before a text, its
    BOS. Several members begin with the same text: as many of the lead's pieces as make whole characters that each of
    them reads.

    Raises:
        PromptError: some of the prompt is no piece.
        SpecError: it is a conversation.
    """
    if prompt.messages is not None:
        raise SpecError("messages are to be scored", hint="give text: of a conversation, that of its template")
    ids = lead.encoder.encode(prompt)
    if len(members) == 1 and lead.encoder.prefix is None:
        pieces = [lead.speller.vocabulary.pieces[token] for token in ids]
        count = 1
        while prompt.ids is None and pieces[count - 1 : count + 1] == [None, None]:
            count += 1
        first = tuple(piece or b"" for piece in pieces[:count])
        return Given(Prompt(ids=tuple(ids[:count])), first, tuple(_columns_of(lead, ids[count:])))
    text = prompt.text or ""
    begin = _beginning(lead, members, ids, text)
    beginning, rest = Prompt(text=begin), text[len(begin) :]
    return Given(beginning, (begin.encode(),), tuple(cut(lead, beginning, rest)) if rest else ())


def _beginning(lead: Member, members: Sequence[Member], ids: Sequence[int], text: str) -> str:
    """The text of the lead's first pieces that are whole characters, and not nothing to any member."""
    data, whole = b"", text.encode()
    for token in ids:
        data += lead.speller.vocabulary.pieces[token] or b""
        begins = [each for each in (data, data.removeprefix(b" ")) if whole.startswith(each)]  # a space may be added
        if not begins:
            break
        for begin in begins:
            is_whole = begin and text.startswith(begin.decode(errors="replace"))
            if is_whole and all(member.encoder.encode(Prompt(text=begin.decode())) for member in members):
                return begin.decode()
    return text[:1]


def _columns_of(member: Member, ids: Sequence[int]) -> list[int]:
    ends, columns = member.speller.vocabulary.end_ids, [int(member.map.column_V[token]) for token in ids]
    for token, column in zip(ids, columns, strict=True):
        if token in ends or column == ABSENT:
            raise PromptError(
                f"the token {token} of member {member.name!r} is no text, and so has no likelihood",
                hint="a special token may only be the first",
            )
        if (mark := member.mark_of(column)) and len(member.spell(column, b"")) > 1:
            raise PromptError(
                f"the token {token} begins {mark} of member {member.name!r}, which it writes as several tokens",
                hint="score texts and marks of one token",
            )
    return columns


def scored_by(method: Method) -> Method:
    """A method without what concerns the choice of a piece alone: nothing is chosen. What is scored is an answer."""
    draw = replace(method.draw, **{name: _GREEDY[name] for name in _GREEDY if not name.startswith(MEMBER)})
    return replace(method, sampling=draw, speculate=None, reasoning=Reasoning(off=True))


_GREEDY = {key.name: getattr(Sampling(), key.name) for key in fields(Sampling)}


class Cutter(Protocol):
    """What of a member cuts texts: a `Member`, or one whose weights are not loaded."""

    @property
    def encoder(self) -> PromptEncoder: ...
    @property
    def speller(self) -> Speller: ...
    @property
    def map(self) -> MemberMap: ...


def cut(lead: Cutter, prompt: Prompt, text: str) -> list[int]:
    """The columns of the pieces into which the lead's tokenizer cuts a text that follows a prompt.

    A raw prompt and the text are encoded together, so that the cut between them is the tokenizer's own, as far as
    the prompt's ids stay what they are (lm-evaluation-harness does so too); else the text is encoded alone.

    Raises:
        PromptError: the text is empty, or holds a piece that some member cannot spell.
    """
    if not text or not is_unicode(text):
        raise PromptError(f"the text to score is {shown(text)}", hint="give text that is Unicode and not empty")
    data = text.encode()
    columns = [int(lead.map.column_V[token]) for token in ids_of(lead, prompt, data)]
    if not columns or ABSENT in columns:
        raise PromptError(
            f"the text to score, {shown(text)}, holds a piece that some member cannot spell",
            hint="`unisono doctor` lists the bytes that are missing",
        )
    return columns


def ids_of(lead: Cutter, prompt: Prompt, data: bytes) -> Sequence[int]:
    """The ids into which a member's tokenizer cuts some bytes that follow a prompt, as far as they fit its own."""
    if prompt.text is not None:
        before = lead.encoder.encode(prompt, may_be_empty=True)
        whole = lead.encoder.encode(Prompt(text=prompt.text + data.decode()))
        rest = whole[len(before) :]
        if whole[: len(before)] == before and lead.speller.is_exact(rest, data):
            return rest
    return lead.speller.own_encoding(data) or lead.speller.longest_match(data) or ()
