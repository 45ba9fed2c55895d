"""A conversation as a member's template writes it: no text becomes a special token by what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from unisono.chat.continuation import up_to_mark
from unisono.chat.conversation import Unwritten, check_alike, check_asked, check_heard, check_results
from unisono.chat.escape import Edges, Escaped
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_bounds import OutOfTime
from unisono.errors import PromptError
from unisono.vocab.controls import Controls

Escape = Callable[[Callable[[str], bool] | None], Escaped]
"""Escapes a conversation; texts for which its argument is true stand apart from all that is beside them."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as a template writes it, up to where the answer begins or the last message is continued."""

    escaped: Escaped
    """What the template was given."""
    text: str
    parts: list[tuple[str, int | None]]
    """The text, cut at the template's special tokens, which have their ids."""

    @property
    def controls(self) -> list[int]:
        """The ids of the special tokens."""
        return [control for _, control in self.parts if control is not None]

    @property
    def plain(self) -> str:
        """The text without special tokens."""
        return "".join(part for part, control in self.parts if control is None)


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a member's template writes one conversation."""

    name: str
    """The member's, for errors."""
    template: ChatTemplate
    controls: Controls
    edges: Edges
    end: str | None
    """The mark behind the last message, where that is continued."""
    opening: Callable[..., str]
    """What the template writes before an answer; see `PromptEncoder.opening`."""
    _: KW_ONLY
    is_given: bool
    """Whether the template comes from the spec."""
    has_system: bool
    """Whether the member has a system message of its own."""

    def rendered(self, escape: Escape, texts: Sequence[str]) -> Rendered:
        """What the template writes of a conversation with these texts.

        Raises `Unwritten` where it refuses the conversation, and a `PromptError` where it passes over a part of it, or
        could not keep a text apart from its special tokens.
        """
        plain = self._render(escape(None))
        joining = [text for text in texts if self.edges.may_join(text)]
        if not joining:
            return plain
        apart = self._render(escape(self.edges.may_join))
        if apart.controls == plain.controls:
            return plain
        check_alike(self.name, joining[0], plain.escaped.plain(plain.text), apart.escaped.plain(apart.text))
        return apart

    def _render(self, given: Escaped) -> Rendered:
        tools, variables = given.tools, given.variables

        def render(messages: Sequence[Mapping[str, Any]]) -> str:
            return self.template.render(
                messages, tools=tools, variables=variables, add_generation_prompt=self.end is None
            )

        try:
            text = render(given.messages)
            check_results(self.name, given.messages, render)
        except TemplateFailure as failure:
            own = "; if it knows no system message, let the member have a prefix instead" if self.has_system else ""
            kind = PromptError if isinstance(failure.__cause__, OutOfTime) else Unwritten  # other forms take time, too
            raise kind(
                f"the chat template of member {self.name!r} refuses these messages: {failure}",
                hint="change the messages, or give the member another template in the ensemble file (chat_template: …)"
                + own,
            ) from failure
        with_tools = tools is not None
        check_asked(self.name, self.template, given.messages, with_tools=with_tools)
        if not self.is_given:
            check_heard(self.name, self.template, given.messages, text, with_tools=with_tools)
        if self.end is None:
            text += self.opening(with_tools=with_tools, variables=variables)
        else:
            text = up_to_mark(self.name, text, self.end, given.messages[-1]["content"])
        return Rendered(given, text, self.controls.cut(text))
