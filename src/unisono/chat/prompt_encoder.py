"""Encode a prompt for one member: its system text, template and BOS; no user text becomes a special token."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unisono.chat.call_form import CallForm
from unisono.chat.continuation import with_end_marked
from unisono.chat.conversation import (
    Unwritten,
    check_arguments,
    check_continued,
    check_conversation,
    check_rows,
    own_messages,
    with_past_reasoning,
)
from unisono.chat.escape import Edges, Escaped, escape_special_tokens, texts_of
from unisono.chat.messages import Message, Prompt
from unisono.chat.other_forms import other_forms
from unisono.chat.rendering import Rendered, Rendering
from unisono.chat.seams import Seams
from unisono.chat.template import ChatTemplate
from unisono.chat.template_probe import CallStyle, ToolUse, as_given, probe_opening, probe_tool_use
from unisono.chat.text_encoder import TextEncoder, check_encodable
from unisono.chat.thinking import thinking_words
from unisono.chat.tools import Tool
from unisono.errors import PromptError
from unisono.vocab.marks import MarkForms
from unisono.vocab.normal_forms import WHITE, is_own_form
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import Tokenizer


class PromptEncoder(TextEncoder):
    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        speller: Speller,
        template: ChatTemplate | None,
        *,
        given_template: bool = False,
        system: str | None = None,
        prefix: str | None = None,
    ) -> None:
        """Bind a member's parts; ``name`` is for errors.

        Without a ``template``, the member is a base model. A ``given_template`` comes from the spec and may not write
        the model's BOS. For ``system`` and ``prefix`` see `own_messages`; the prefix precedes raw text too.
        """
        super().__init__(name, tokenizer, speller)
        self.template = template
        self.given_template = given_template
        self.system = system
        self.prefix = prefix
        self._openings: dict[bool, str] = {}
        self._checked: tuple[Prompt, bool, list[int]] | None = None
        self._controls = tokenizer.table.all_controls

    def check(self, prompt: Prompt, *, off: bool = False) -> int:
        """Return how many ids a prompt has, and keep them for the `encode` of the same record that follows."""
        ids = self.encode(prompt, off=off)
        self._checked = prompt, off and prompt.messages is not None, ids
        return len(ids)

    def encode(self, prompt: Prompt, *, off: bool = False, may_be_empty: bool = False) -> list[int]:
        """Return the member's ids of a prompt to be continued or answered.

        With reasoning ``off``, its template is told by the variables that it reads for that. Raw text that
        ``may_be_empty`` is encoded as the member's prefix, its BOS, or else an END: evaluations of
        language models score whole texts after it. Raises a `PromptError` where the prompt is empty, has no place for
        the member's system text or prefix, or cannot be read by its template or its vocabulary.
        """
        off, (checked, self._checked) = off and prompt.messages is not None, (self._checked, None)
        if checked is not None and checked[0] is prompt and checked[1] == off:
            return checked[2]
        if prompt.messages is not None:
            continued = prompt.continue_final_message
            return self.encode_messages(
                prompt.messages, prompt.tools, prompt.template_kwargs, continued=continued, off=off
            )
        if prompt.ids is not None:
            return self._checked_ids(prompt.ids)
        if not prompt.text and not may_be_empty:
            raise PromptError("the prompt is empty", hint="give some text to continue")
        if self.system is not None:
            raise PromptError(
                f"member {self.name!r} has a system message, and raw text has no place for one",
                hint="ask with messages, or give the member a prefix in place of its system",
            )
        if text := (self.prefix or "") + (prompt.text or ""):
            return self.encode_text(text)
        bos = self.tokenizer.table.bos_id
        return sorted(self.speller.vocabulary.end_ids)[:1] if bos is None else [bos]

    def _checked_ids(self, ids: Sequence[int]) -> list[int]:
        size = len(self.speller.vocabulary.pieces)
        wrong = next((token for token in ids if not isinstance(token, int) or not 0 <= token < size), None)
        if wrong is not None:
            raise PromptError(f"member {self.name!r} has no token {wrong}", hint=f"its tokens are 0 to {size - 1}")
        if self.system is not None or self.prefix is not None:
            raise PromptError(
                f"member {self.name!r} has a system message or a prefix, and token ids have no place for them",
                hint="send text or messages",
            )
        return list(ids)

    def encode_messages(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, Any] | None = None,
        *,
        continued: bool = False,
        off: bool = False,
    ) -> list[int]:
        """Encode a conversation with the member's template, system text and prefix. See `encode`.

        It is to be answered, or its last message is to be ``continued``. What the template refuses, or writes a part of
        alone, it may write in another of `other_forms`.
        """
        try:
            return self._encode_messages(messages, tools, variables, continued=continued, off=off)
        except Unwritten:
            told = with_past_reasoning(messages, self.own_template(), self.marks, self.tokenizer.table)
            for other in other_forms(told):
                with contextlib.suppress(PromptError):
                    return self._encode_messages(other, tools, variables, continued=continued, off=off)
            raise

    def _encode_messages(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
        variables: Mapping[str, Any] | None,
        *,
        continued: bool,
        off: bool,
    ) -> list[int]:
        template = self.own_template()
        check_conversation(self.name, template, messages, tools, variables)
        self._check_prefix(messages)
        if continued:
            check_continued(self.name, messages[-1], template, self.marks, self.tokenizer.table)
        told = with_past_reasoning(messages, template, self.marks, self.tokenizer.table)
        own = own_messages(told, self.system, self.prefix)
        given = as_given(own, self._style(own, with_tools=tools is not None))
        words = thinking_words(template, variables, off=off)
        variables = {name: each for name, each in (variables or {}).items() if name not in words}
        texts = texts_of(given, tools, variables)
        for text in texts:
            check_encodable(text)
        given, end = with_end_marked(given, texts) if continued else (given, None)

        def escape(apart: Callable[[str], bool] | None) -> Escaped:
            any_case = template.changes_case
            found = escape_special_tokens(given, tools, self._controls, variables, apart=apart, any_case=any_case)
            return replace(found, variables={**found.variables, **words})

        rendered = self._rendering(template, end).rendered(escape, texts)
        check_rows(self.name, self.tokenizer.table, rendered.controls)
        plain, mark = rendered.plain, rendered.escaped.mark
        check_arguments(self.name, given, rendered.escaped.plain(plain))
        ids = [] if mark else self.tokenizer.encode_rendered(rendered.text)
        if mark or not is_own_form(self.speller.vocabulary.join(ids), plain, WHITE):
            ids = self._encode_parts(rendered)
        table = self.tokenizer.table
        lacks_bos = self.given_template and bool(table.opening) and ids[:1] != table.opening
        return [*table.opening, *ids] if lacks_bos else ids

    def _rendering(self, template: ChatTemplate, end: str | None) -> Rendering:
        return Rendering(
            self.name,
            template,
            self._controls,
            self._edges,
            end,
            self.opening,
            is_given=self.given_template,
            has_system=self.system is not None,
        )

    def _check_prefix(self, messages: Sequence[Message]) -> None:
        if self.prefix is not None and all(message["role"] != "user" for message in messages):
            raise PromptError(
                f"member {self.name!r} has a prefix, and these messages are none of a user, before which it belongs",
                hint="add a user message, or leave the prefix out",
            )

    def _style(self, messages: Sequence[Message], *, with_tools: bool) -> CallStyle | None:
        calling = any("tool_calls" in message for message in messages)
        return self.tool_use(with_tools=with_tools).style if calling else None

    def tool_use(self, *, with_tools: bool = True) -> ToolUse:
        """How the member's template handles tools, and calls with or without them. See `encode`."""
        return probe_tool_use(self.own_template(), with_tools=with_tools)

    def opening(self, *, with_tools: bool = False, variables: Mapping[str, Any] | None = None) -> str:
        """What the template writes before an answer, which is part of prompts; see `probe_opening`.

        Of a template that writes marks there it is nothing: these are voted for; see `MarkForms.begun`.
        """
        if self.template is None or self.marks.at_opening:
            return ""
        if variables and any(name in self.template.source for name in variables):  # it reads one by its name
            return self._probed_opening(with_tools=with_tools, variables=variables)
        if with_tools not in self._openings:
            self._openings[with_tools] = self._probed_opening(with_tools=with_tools)
        return self._openings[with_tools]

    def _probed_opening(self, *, with_tools: bool, variables: Mapping[str, Any] | None = None) -> str:
        found = probe_opening(self.own_template(), self._controls, with_tools=with_tools, variables=variables)
        if not found and not with_tools:
            return self._recipient
        marks = (self.tokenizer.table.texts[token] for token in self.marks.first_ids)
        return "" if any(mark in found for mark in marks) else found

    @property
    def _recipient(self) -> str:
        """Whom an answer speaks to where no tools are given, of a template that writes a name there."""
        try:
            return self.call_form().recipient if "tool" in self.own_template().source else ""
        except PromptError:
            return ""

    @property
    def unbounded(self) -> PromptEncoder:
        """The same, of prompts that nobody can answer for their length, too: they are to be counted."""
        return self

    @property
    def marks(self) -> MarkForms:
        return self.speller.vocabulary.marks

    @functools.cached_property
    def _edges(self) -> Edges:
        return Edges(self._controls)

    @functools.cached_property
    def seams(self) -> Seams:
        """How it reads and writes calls by seams."""
        return Seams(self.name, self.tokenizer.table, self.speller.vocabulary, self.own_template, self.spell_text)

    def call_form(self) -> CallForm:
        """How this member writes calls. Raises a `PromptError` where an ensemble cannot write its template's form."""
        return self.seams.form

    def own_template(self) -> ChatTemplate:
        """The member's template. Raises a `PromptError` where it has none."""
        if self.template is None:
            table = self.tokenizer.table
            why = "its model is a base model, or its template's file is empty"
            if table.chat_template or table.named_templates:
                why = "its model's own is not valid, as its loading says"
            raise PromptError(
                f"member {self.name!r} has no chat template: {why}",
                hint="give it one in the ensemble file (chat_template: plain is one of questions and answers; "
                "after -m, 'MODEL chat_template:plain'), or ask in plain text: run --raw, eval without --chat",
            )
        return self.template

    def _encode_parts(self, rendered: Rendered) -> list[int]:
        ids: list[int] = []
        for part, control in rendered.parts:
            if control is not None:
                ids.append(control)
            elif plain := rendered.escaped.plain(part):
                own = self.tokenizer.encode(plain)
                ids += own if is_own_form(self.speller.vocabulary.join(own), plain) else self.spell_text(plain)
        return ids
