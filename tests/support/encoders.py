"""Prompt encoders over tiny vocabularies."""

from __future__ import annotations

from dataclasses import replace

from support.families import CONTROLS
from support.tool_templates import TOKENS
from unisono.chat.mark_probe import probe_marks
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template import ChatTemplate
from unisono.chat.template_probe import probe_answer_form
from unisono.testing import LongestMatchTokenizer, byte_level_table
from unisono.vocab.pieces import end_ids, read_vocabulary
from unisono.vocab.reserved import reserve
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import Kind, Tokenizer, TokenTable

OWN = object()


def encoder_of(
    table: TokenTable, template: object = OWN, tokenizer: Tokenizer | None = None, *, asks: bool = False, **own: str
) -> PromptEncoder:
    """An encoder over a vocabulary; one that ``asks`` lets the template say what ends answers, as loading does."""
    tokenizer = tokenizer or LongestMatchTokenizer(table)
    source = table.chat_template if template is OWN else template
    compiled = ChatTemplate(str(source), table.special_texts) if source is not None else None
    ends = end_ids(table, probe_answer_form(compiled, tokenizer).turn_end_ids if asks else ())
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


def with_tokens(source: str, kind: Kind = "control", texts: tuple[str, ...] = ()) -> TokenTable:
    """A vocabulary of bytes with the control tokens of a template."""
    table = byte_level_table(texts)
    tokens = dict.fromkeys((*TOKENS.findall(source), *CONTROLS.findall(source)))
    found = [token for token in tokens if token not in table.texts]
    return replace(table, texts=(*table.texts, *found), kinds=(*table.kinds, *[kind] * len(found)))


def encoder_for(source: str, kind: Kind = "control") -> PromptEncoder:
    return encoder_of(with_tokens(source, kind), source, asks=True)
