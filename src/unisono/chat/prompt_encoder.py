"""Encode a prompt for one member: its system text, template and BOS; no user text becomes a special token."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from unisono.chat.call_form import CallForm, FormUnknown, find_call_form
from unisono.chat.conversation import check_heard, check_messages, own_messages, with_past_reasoning
from unisono.chat.escape import Edges, Escaped, escape_special_tokens, texts_of
from unisono.chat.messages import Message, Prompt, Tool, content_of
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_probe import ToolUse, as_given, probe_opening, probe_tool_use, writes_name, writes_users
from unisono.errors import PromptError
from unisono.vocab.marks import Mark, MarkForms
from unisono.vocab.spelling import Speller, cut_controls, without_taken
from unisono.vocab.tokenizer import Tokenizer

_OF_TOOLS = {"tool_calls", "tool_call_id"}
NormalForm = Literal["NFC", "NFKC", "NFD", "NFKD"]
NORMAL_FORMS: tuple[NormalForm, ...] = ("NFC", "NFKC", "NFD", "NFKD")
"""Those in which a tokenizer may read a text, in place of the text's own."""


class PromptEncoder:
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
        self.name = name
        self.tokenizer = tokenizer
        self.speller = speller
        self.template = template
        self.given_template = given_template
        self.system = system
        self.prefix = prefix
        self._openings: dict[bool, str] = {}
        self._checked: tuple[Prompt, list[int]] | None = None
        self._controls = tokenizer.table.controls | tokenizer.table.controls_beyond
        self._form: CallForm | None = None

    def check(self, prompt: Prompt) -> int:
        """Return how many ids a prompt has, and keep them for the `encode` of the same record that follows."""
        self._checked = prompt, self.encode(prompt)
        return len(self._checked[1])

    def encode(self, prompt: Prompt, *, may_be_empty: bool = False) -> list[int]:
        """Return the member's ids of a prompt to be continued or answered.

        Raw text that ``may_be_empty`` is encoded as the member's prefix, its BOS, or else an END: evaluations of
        language models score whole texts after it. Raises a `PromptError` where the prompt is empty, has no place for
        the member's system text or prefix, or cannot be read by its template or its vocabulary.
        """
        checked, self._checked = self._checked, None
        if checked is not None and checked[0] is prompt:
            return checked[1]
        if prompt.messages is not None:
            return self.encode_messages(prompt.messages, prompt.tools, prompt.template_kwargs)
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

    def encode_text(self, text: str) -> list[int]:
        """Encode plain text in the tokenizer's own form, without the member's system text or prefix. See `encode`."""
        _check_encodable(text)
        ids = self.tokenizer.encode_prompt(text)
        if self._is_own_form(self.speller.vocabulary.join(ids), text):
            return ids
        opening = ids[:1] if ids and ids[0] == self.tokenizer.table.bos_id else []
        return [*opening, *self._spell(text)]

    def opened(self, ids: list[int]) -> list[int]:
        """The ids of a text behind the member's BOS or, where it has none, behind an END, as evaluations read them."""
        bos, vocabulary = self.tokenizer.table.bos_id, self.speller.vocabulary
        return ids if ids[:1] == [bos] else [*sorted(vocabulary.end_ids)[:1], *ids]

    def encode_messages(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Encode a conversation with the member's template, system text and prefix. See `encode`."""
        template = self._template()
        if not template.fits(with_tools=tools is not None):
            raise PromptError(
                f"member {self.name!r} has the chat templates {', '.join(template.names)}, and none is the default",
                hint=f"name one in the spec: chat_template: {template.names[0]}",
            )
        check_messages(messages)
        if self.prefix is not None and all(message["role"] != "user" for message in messages):
            raise PromptError(
                f"member {self.name!r} has a prefix, and these messages are none of a user, before which it belongs",
                hint="add a user message, or leave the prefix out",
            )
        self._check_known(messages, tools)
        if taken := template.special_names & (variables or {}).keys():
            raise PromptError(
                f"template_kwargs holds {min(taken)!r}, which is the name of a special token of member {self.name!r}",
                hint="leave it out there: the model's files say which token that is",
            )
        told = with_past_reasoning(messages, template, self.marks, self.tokenizer.table)
        own = own_messages(told, self.system, self.prefix)
        calling = any("tool_calls" in message for message in own)
        given = as_given(own, self.tool_use(with_tools=tools is not None).style if calling else None)
        texts = texts_of(given, tools, variables)
        for text in texts:
            _check_encodable(text)
        escape = functools.partial(escape_special_tokens, any_case=template.changes_case)
        escaped = escape(given, tools, self._controls, variables)
        rendered, parts = self._render(template, escaped)
        if any(map(self._edges.may_join, texts)):
            apart = escape(given, tools, self._controls, variables, apart=True)
            its_rendered, its_parts = self._render(template, apart)
            if _controls_of(its_parts) != _controls_of(parts):  # a text has become one with what stands beside it
                escaped, rendered, parts = apart, its_rendered, its_parts
        self._check_rows(_controls_of(parts))
        plain = "".join(part for part, control in parts if control is None)
        ids = [] if escaped.mark else self.tokenizer.encode_rendered(rendered)
        if escaped.mark or not self._is_own_form(self.speller.vocabulary.join(ids), plain):
            ids = self._encode_parts(parts, escaped)
        table = self.tokenizer.table
        lacks_bos = self.given_template and bool(table.opening) and ids[:1] != table.opening
        return [*table.opening, *ids] if lacks_bos else ids

    def tool_use(self, *, with_tools: bool = True) -> ToolUse:
        """How the member's template handles tools, and calls with or without them. See `encode`."""
        return probe_tool_use(self._template(), with_tools=with_tools)

    def opening(self, *, with_tools: bool = False, variables: Mapping[str, Any] | None = None) -> str:
        """What the template writes before an answer, which is part of prompts; see `probe_opening`.

        Of a template that writes marks there it is nothing: these are voted for; see `begun`.
        """
        if self.template is None or self.marks.at_opening:
            return ""
        if variables and any(name in self.template.source for name in variables):  # it reads one by its name
            return self._probed_opening(with_tools=with_tools, variables=variables)
        if with_tools not in self._openings:
            self._openings[with_tools] = self._probed_opening(with_tools=with_tools)
        return self._openings[with_tools]

    def _probed_opening(self, *, with_tools: bool, variables: Mapping[str, Any] | None = None) -> str:
        found = probe_opening(self._template(), self._controls, with_tools=with_tools, variables=variables)
        marks = (self.tokenizer.table.texts[token] for token in self.marks.first_ids)
        return "" if any(mark in found for mark in marks) else found

    @property
    def marks(self) -> MarkForms:
        return self.speller.vocabulary.marks

    def begun(self, ids: Sequence[int], *, inside: bool = False, off: bool = False) -> list[int]:
        """The ids of a conversation up to an answer's first piece: ``inside`` reasoning, or in an answer without it."""
        marks = self.marks
        if marks.is_open(ids):
            closing = marks.spelled("reasoning_end") + (marks.spelled("answer_begin", opening=True) * marks.reopens)
            return [*ids, *(closing if off and not inside else ())]
        mark: Mark = "reasoning_begin" if inside else "answer_begin"
        form = (*marks.opening, *(marks.spelled(mark, opening=True) if inside or off else ()))
        return [*ids, *(() if form and tuple(ids[-len(form) :]) == form else form)]

    @functools.cached_property
    def _edges(self) -> Edges:
        return Edges(self._controls)

    def call_form(self) -> CallForm:
        """How this member writes calls. Raises a `PromptError` where an ensemble cannot write its template's form."""
        if self._form is not None:
            return self._form
        texts = self.tokenizer.table.texts
        ends = [texts[token] for token in self.speller.vocabulary.end_ids if token < len(texts)]
        try:
            form = find_call_form(self._template(), self.tool_use(), self._controls, ends)
            tokens: dict[Mark, str | None] = {"call_begin": form.begin_token, "call_end": form.end_token}
            for mark, token in tokens.items():
                if token is not None and self.marks.anywhere.get(mark) != (self._controls[token],):
                    raise FormUnknown(f"its chat template marks a call by {token!r}, and the spec has another {mark}")
            self._form = form
        except FormUnknown as unknown:
            raise PromptError(
                f"no calls can be written as member {self.name!r} writes them: {unknown}",
                hint="make another member the lead, or give this one a chat_template in the spec",
            ) from unknown
        return self._form

    def _template(self) -> ChatTemplate:
        if self.template is None:
            raise PromptError(
                f"member {self.name!r} has no chat template: its model is a base model",
                hint="give it one in the spec (chat_template: …), or ask in plain text: run --raw, eval without --chat",
            )
        return self.template

    def _check_known(self, messages: Sequence[Message], tools: Sequence[Tool] | None) -> None:
        if tools is not None and not self.tool_use().tools:
            raise self._unread("tools", "does not write tools")
        template, own_tools = self._template(), tools is not None and self._template().for_tools
        for message in messages:
            use = self.tool_use(with_tools=tools is not None) if message.keys() & _OF_TOOLS else None
            if use is not None and "tool_calls" in message and use.style is None:
                only = tools is None and self.tool_use().style is not None
                raise self._unread("tool_calls", "does not write calls" + (" where no tools are given" if only else ""))
            if use is not None and "tool_calls" in message and content_of(message) and not use.content_beside_calls:
                raise self._unread("content", "does not write the content of a message with tool_calls")
            if use is not None and message["role"] == "tool" and not use.results:
                raise self._unread("role tool", "does not write the answers to calls")
            role = message["role"] if "name" in message else "tool"  # whose name is that of the function
            if role != "tool" and not writes_name(template, role, with_tools=own_tools):
                raise self._unread("name", f"does not write the name of a message of the role {role}")

    def _check_rows(self, controls: Iterable[int]) -> None:
        table = self.tokenizer.table
        for token in controls:
            if token >= len(table.texts):
                raise PromptError(
                    f"the chat template of member {self.name!r} writes {table.beyond[token - len(table.texts)][0]!r}, "
                    f"token {token}, and its model knows only the ids below {len(table.texts)}",
                    hint="take a model whose vocabulary was resized with its tokenizer's, "
                    "or give the member a chat_template without that token",
                )

    def _unread(self, field: str, words: str) -> PromptError:
        return PromptError(
            f"member {self.name!r} cannot read {field}: its chat template {words}",
            hint="leave that out, or give the member a chat_template in the spec that writes it",
        )

    def _render(self, template: ChatTemplate, given: Escaped) -> tuple[str, list[tuple[str, int | None]]]:
        """A prompt up to where the answer begins, and the same cut at its special tokens."""
        try:
            rendered = template.render(given.messages, tools=given.tools, variables=given.variables)
        except TemplateFailure as failure:
            own = "" if self.system is None else "; if it knows no system message, let the member have a prefix instead"
            raise PromptError(
                f"the chat template of member {self.name!r} refuses these messages: {failure}",
                hint="change the messages, or give the member another template in the spec (chat_template: …)" + own,
            ) from failure
        if given.messages[-1]["role"] == "user" and not writes_users(template, with_tools=given.tools is not None):
            raise self._unread("content", "does not write what a user says")
        check_heard(self.name, () if self.given_template else given.messages, rendered)
        rendered += self.opening(with_tools=given.tools is not None, variables=given.variables)
        return rendered, without_taken(cut_controls(rendered, self._controls), self.tokenizer.table.strips)

    def _is_own_form(self, data: bytes, text: str) -> bool:
        found = data.replace(b" ", b"")
        return found == text.replace(" ", "").encode() or any(
            found == unicodedata.normalize(form, text).replace(" ", "").encode() for form in NORMAL_FORMS
        )

    def _spell(self, text: str) -> list[int]:
        data = text.encode()
        ids = self.speller.own_encoding(data) or self.speller.longest_match(data)
        if ids is None:
            missing = sorted(set(data) & self.speller.vocabulary.missing_bytes)
            raise PromptError(
                f"member {self.name!r} cannot represent the prompt: its vocabulary has no token for the bytes "
                + ", ".join(f"{byte:02X}" for byte in missing),
                hint="remove those characters from the prompt, or use another model",
            )
        return list(ids)

    def _encode_parts(self, parts: Sequence[tuple[str, int | None]], escaped: Escaped) -> list[int]:
        ids: list[int] = []
        for part, control in parts:
            if control is not None:
                ids.append(control)
            elif plain := escaped.plain(part):
                own = self.tokenizer.encode(plain)
                ids += own if self._is_own_form(self.speller.vocabulary.join(own), plain) else self._spell(plain)
        return ids


def _controls_of(parts: Sequence[tuple[str, int | None]]) -> list[int]:
    return [control for _, control in parts if control is not None]


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start + 1}",
            hint="such text is not Unicode and no tokenizer can read it; repair its encoding",
        ) from error
