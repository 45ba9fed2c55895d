"""A member's chat template: the one of its model or of the spec, and what it shows when it is asked."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable
from dataclasses import dataclass

from unisono.chat.mark_probe import given_marks, probe_marks
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_probe import probe_answer_form
from unisono.config.member import PLAIN, MemberSpec
from unisono.errors import SpecError, nearest
from unisono.vocab.marks import Mark, MarkForms
from unisono.vocab.pieces import end_ids
from unisono.vocab.tokenizer import Tokenizer, TokenTable

log = logging.getLogger(__name__)

QUESTIONS = """\
{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}Answer: {{ message.content }}

{% else %}Question: {{ message.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"""
"""The template called ``plain``, by which base models read conversations as questions and answers."""


@dataclass(frozen=True, slots=True)
class TemplateReading:
    """A template, and what it settles for its member."""

    template: ChatTemplate | None
    endings: dict[int, str]
    """The ids that are END, and why."""
    marks: MarkForms
    leading_space: bool
    """Whether an answer's first piece carries a space that is no part of the answer."""


def read_template(spec: MemberSpec, tokenizer: Tokenizer, known: dict[Hashable, TemplateReading]) -> TemplateReading:
    """Ask a member's template how it writes answers, once for all that are ``known`` to read with the same tokenizer.

    Raises a `SpecError` where the spec gives a bad template, or marks that the tokenizer does not have.
    """
    key = spec.chat_template, repr(spec.marks)
    if key in known:
        return known[key]
    template = template_of(spec, tokenizer)
    form = probe_answer_form(template, tokenizer)
    endings = end_ids(tokenizer.table, form.turn_end_ids)
    marks = _with_given(spec, probe_marks(template, tokenizer, endings), tokenizer)
    reading = TemplateReading(template, endings, marks, form.leading_space)
    if template is not None:  # else each member is to be named
        known[key] = reading
    return reading


def _with_given(spec: MemberSpec, marks: MarkForms, tokenizer: Tokenizer) -> MarkForms:
    if not spec.marks:
        return marks
    forms: dict[Mark, str] = {mark: value for mark, value in spec.marks.items() if isinstance(value, str)}
    reads: dict[Mark, str] = {m: value.reads for m, value in spec.marks.items() if not isinstance(value, str)}
    return given_marks(spec.name, marks, forms, reads, tokenizer)


def template_of(spec: MemberSpec, tokenizer: Tokenizer) -> ChatTemplate | None:
    """A member's template. Raises a `SpecError` where the spec gives a bad one."""
    given, table = spec.chat_template, tokenizer.table
    try:
        if given is not None:
            return ChatTemplate(template_text(spec, table), table.special_texts)
        if table.named_templates:
            return ChatTemplate.of_named(table.named_templates, table.special_texts)
        return None if table.chat_template is None else ChatTemplate(table.chat_template, table.special_texts)
    except TemplateFailure as failure:
        if given is None:
            log.warning("the chat template of member %r's own model is not valid: %s", spec.name, failure)
            return None
        raise SpecError(f"the chat_template of member {spec.name!r} is not valid Jinja: {failure}") from failure


def is_given(spec: MemberSpec, table: TokenTable) -> bool:
    """Whether a member's template is not of its model's files."""
    if spec.chat_template is None:
        return table.template_given
    return spec.chat_template not in table.named_templates


def template_text(spec: MemberSpec, table: TokenTable) -> str:
    """The template that a spec gives, or names among those of the model; or that of questions and answers."""
    given = str(spec.chat_template)
    if given == PLAIN and PLAIN not in table.named_templates:
        return QUESTIONS
    if not table.named_templates or not re.fullmatch(r"[\w.-]+", given):
        return given
    if given not in table.named_templates:
        raise SpecError(
            f"the chat_template of member {spec.name!r} is {given!r}, and its model has none of that name"
            + nearest(given, table.named_templates),
            hint=f"choose one of {', '.join(table.named_templates)}, or give a Jinja template",
        )
    return table.named_templates[given]
