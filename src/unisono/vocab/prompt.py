"""How one member reads a prompt: its words, its template, its BOS, and nothing that a user typed as control."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from unisono.errors import PromptError
from unisono.types import Message, Prompt
from unisono.vocab.spelling import Speller
from unisono.vocab.template import ChatTemplate, TemplateFailure
from unisono.vocab.tokenizer import Tokenizer

_NORMAL_FORMS: tuple[Literal["NFC", "NFKC", "NFD", "NFKD"], ...] = ("NFC", "NFKC", "NFD", "NFKD")
_MARKS = [chr(code) for code in (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))]
"""Private-use characters, one of which marks control texts that a user typed."""


class PromptReader:
    """Turns prompts into one member's ids."""

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
        """Bind a member's parts.

        Args:
            name: the member, for errors.
            tokenizer: its tokenizer.
            speller: spells what the tokenizer loses.
            template: how it reads a conversation; ``None`` when it cannot.
            given_template: whether the template comes from the spec: such a one need not know of
                the model's BOS.
            system: the member's own system message, see `own_messages`.
            prefix: what it reads before the first user message, or before raw text.
        """
        self.name = name
        self.tokenizer = tokenizer
        self.speller = speller
        self.template = template
        self.given_template = given_template
        self.system = system
        self.prefix = prefix
        table = tokenizer.table
        self._controls = {
            text: i
            for i, (text, kind) in enumerate(zip(table.texts, table.kinds, strict=True))
            if kind == "control" and text
        }

    def read(self, prompt: Prompt) -> list[int]:
        """Return the ids with which this member reads a prompt.

        Raises:
            PromptError: the prompt is empty, the member has no template for messages or its template
                refuses them, it has no place for the member's own words, or the member's vocabulary cannot
                represent the text.
        """
        if prompt.messages is not None:
            return self.read_messages(prompt.messages)
        if not prompt.text:
            raise PromptError("the prompt is empty", hint="give some text to continue")
        if self.system is not None:
            raise PromptError(
                f"member {self.name!r} has a system message, and raw text has no place for one",
                hint="ask with messages, or give the member a prefix in place of its system",
            )
        return self.read_text((self.prefix or "") + prompt.text)

    def read_text(self, text: str) -> list[int]:
        """Read plain text in the tokenizer's own form, without the member's own words. See `read`."""
        _check_encodable(text)
        ids = self.tokenizer.encode_prompt(text)
        if self._is_own_form(self.speller.vocabulary.join(ids), text):
            return ids
        opening = ids[:1] if ids and ids[0] == self.tokenizer.table.bos_id else []
        return [*opening, *self._spell(text)]

    def read_messages(self, messages: Sequence[Message]) -> list[int]:
        """Read a conversation through the member's template, with its own words. See `read`."""
        if self.template is None:
            raise PromptError(
                f"member {self.name!r} has no chat template: its model is a base model",
                hint="give it one in the spec (chat_template: …), or continue plain text with --raw",
            )
        _check_messages(messages)
        if self.prefix is not None and all(message["role"] != "user" for message in messages):
            raise PromptError(
                f"member {self.name!r} has a prefix, and these messages are none of a user, before which it stands",
                hint="add a user message, or leave the prefix out",
            )
        disguised, mark = self._disguise(own_messages(messages, self.system, self.prefix))
        rendered = self._render(disguised)
        controls = self._controls_in(rendered)
        parts = [(part, controls.get(part)) for part in _split(rendered, controls)]
        plain = "".join(part for part, control in parts if control is None).replace(mark, "")
        if mark:
            return self._with_bos(self._encode_parts(parts, mark))
        ids = self.tokenizer.encode_rendered(rendered)
        exact = self._is_own_form(self.speller.vocabulary.join(ids), plain)
        return self._with_bos(ids if exact else self._encode_parts(parts, mark))

    def _render(self, messages: Sequence[Message]) -> str:
        assert self.template is not None
        try:
            return self.template.render(messages)
        except TemplateFailure as failure:
            own = "" if self.system is None else "; if it knows no system message, let the member have a prefix instead"
            raise PromptError(
                f"the chat template of member {self.name!r} refuses these messages: {failure}",
                hint="change the messages, or give the member another template in the spec (chat_template: …)" + own,
            ) from failure

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.table.bos_id
        if not self.given_template or not self.tokenizer.table.adds_bos or bos is None or ids[:1] == [bos]:
            return ids
        return [bos, *ids]

    def _is_own_form(self, data: bytes, text: str) -> bool:
        """Whether the bytes are the text, but for spaces the tokenizer adds and its normal form."""
        found = data.replace(b" ", b"")
        return found == text.replace(" ", "").encode() or any(
            found == unicodedata.normalize(form, text).replace(" ", "").encode() for form in _NORMAL_FORMS
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

    def _controls_in(self, text: str) -> dict[str, int]:
        """The control tokens whose text occurs in ``text``, and their ids."""
        return {token: i for token, i in self._controls.items() if token in text}

    def _disguise(self, messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
        """Break up every control text that a message contains, so that only the template's are left.

        Returns the messages and the mark that breaks them; it is empty when nothing had to be broken.
        """
        written = "\n".join(message["content"] for message in messages)
        controls = self._controls_in(written)
        if not controls:
            return messages, ""
        mark = next((character for character in _MARKS if character not in written), None)
        if mark is None:
            raise PromptError("the prompt holds every private-use character there is", hint="remove some of them")
        pattern = _alternatives(controls)

        def broken(content: str) -> str:
            return pattern.sub(lambda match: mark.join(match.group()) + mark, content)

        return [Message(role=message["role"], content=broken(message["content"])) for message in messages], mark

    def _encode_parts(self, parts: Sequence[tuple[str, int | None]], mark: str) -> list[int]:
        """Encode a rendered conversation: control tokens as they are, all else as text and nothing but text."""
        ids: list[int] = []
        for part, control in parts:
            plain = part.replace(mark, "") if mark else part
            if control is not None:
                ids.append(control)
            elif plain:
                own = self.tokenizer.encode(plain)
                exact = self._is_own_form(self.speller.vocabulary.join(own), plain)
                ids.extend(own if exact else self._spell(plain))
        return ids


def own_messages(messages: Sequence[Message], system: str | None, prefix: str | None) -> list[Message]:
    """A conversation as a member reads it that has words of its own.

    Args:
        messages: of the request.
        system: comes first; where the request begins with a system message, that one follows in the same
            message, after a blank line.
        prefix: comes right before the content of the first user message.
    """
    own = list(messages)
    if prefix is not None:
        first = next((place for place, message in enumerate(own) if message["role"] == "user"), None)
        if first is not None:
            own[first] = Message(role="user", content=prefix + own[first]["content"])
    if system is not None:
        theirs = [own.pop(0)["content"]] if own and own[0]["role"] == "system" else []
        own.insert(0, Message(role="system", content="\n\n".join([system, *theirs])))
    return own


def _alternatives(texts: dict[str, int]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)))


def _split(text: str, controls: dict[str, int]) -> list[str]:
    if not controls:
        return [text]
    return re.split(f"({_alternatives(controls).pattern})", text)


def _check_messages(messages: Sequence[Message]) -> None:
    if not messages or not messages[-1]["content"]:
        raise PromptError("the prompt is empty", hint="give some text to answer")
    for message in messages:
        if not re.fullmatch(r"[A-Za-z_]+", message["role"]):
            raise PromptError(f"{message['role']!r} is not the name of a role", hint="use system, user or assistant")
        _check_encodable(message["content"])


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start + 1}",
            hint="such text is not Unicode and no tokenizer can read it; repair its encoding",
        ) from error
