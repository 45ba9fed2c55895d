"""Prompt encoders over tiny vocabularies."""

from __future__ import annotations

from unisono.chat.mark_probe import probe_marks
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template import ChatTemplate
from unisono.testing import LongestMatchTokenizer, byte_level_table
from unisono.vocab.pieces import end_ids, read_vocabulary
from unisono.vocab.reserved import reserve
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import Tokenizer, TokenTable

OWN = object()


def encoder_of(
    table: TokenTable, template: object = OWN, tokenizer: Tokenizer | None = None, **own: str
) -> PromptEncoder:
    tokenizer = tokenizer or LongestMatchTokenizer(table)
    source = table.chat_template if template is OWN else template
    compiled = ChatTemplate(str(source), table.special_texts) if source is not None else None
    ends = end_ids(table)
    marks = probe_marks(compiled, tokenizer, ends)
    tokenizer = reserve(tokenizer, marks)
    table = tokenizer.table
    speller = Speller(read_vocabulary(table, ends, marks=marks), tokenizer.encode)
    return PromptEncoder("m", tokenizer, speller, compiled, given_template=template is not OWN, **own)


TABLE = byte_level_table()
"""A vocabulary of bytes and control tokens alone."""


def knowing(template: str) -> PromptEncoder:
    """An encoder over `TABLE` with a template that may know tools."""
    return encoder_of(TABLE, template)
