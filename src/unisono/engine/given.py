"""Text that is given to be scored: cut into pieces, and the method by which these are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.config.sampling import MEMBER, Sampling
from unisono.engine.member import Member
from unisono.errors import PromptError, shown
from unisono.records import is_unicode
from unisono.vocab.union import ABSENT


def columns_of(lead: Member, prompt: Prompt, given: str | Sequence[int]) -> list[int]:
    """The columns of what follows a prompt: text, see `cut`, or the lead's own tokens.

    Raises a `PromptError` where some of it is no piece.
    """
    if isinstance(given, str):
        return cut(lead, prompt, given)
    column_V, ends = lead.map.column_V, lead.speller.vocabulary.end_ids
    wrong = next((token for token in given if not 0 <= token < len(column_V) or column_V[token] == ABSENT), None)
    wrong = next((token for token in given if token in ends), None) if wrong is None else wrong
    if wrong is not None or not given:
        raise PromptError(
            f"the token {wrong} of member {lead.name!r} is no text, and so has no likelihood"
            if given
            else "there are no tokens to score",
            hint="score text; a special token may only be the first",
        )
    return [int(column_V[token]) for token in given]


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
