"""Chat templates: compiled once, and rendered within bounds."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any, cast

import jinja2
from jinja2 import meta

from unisono.chat.content_parts import ROLES, may_read_parts, parts_of, reads_parts_alone
from unisono.chat.messages import Message
from unisono.chat.template_bounds import GROWING, BoundedEnvironment, OutOfTime, Probing
from unisono.chat.template_environment import make_environment
from unisono.chat.template_sizes import Exceeded, forget
from unisono.chat.tools import Tool


class TemplateFailure(Exception):
    """A template is not Jinja, or refuses the conversation it was given. The message says why."""


LONGEST_SOURCE = 200_000
"""Characters of a model's templates, which are compiled in a second or two; the longest that are known have 40,000."""
DEFAULT, TOOL_USE = "default", "tool_use"
"""The names of templates that mean something; see `ChatTemplate.of_named`."""

WORDS = 200
"""Characters of an unexpected error that are told."""
SMALL = 10_000
"""Characters of a conversation for which every template has time enough."""
_OF_CASE = ("lower", "upper", "title", "capitalize", "swapcase", "casefold")


class ChatTemplate:
    def __init__(self, source: str, special_texts: Mapping[str, str]) -> None:
        """Compile Jinja; ``special_texts`` are ``bos_token``, ``eos_token`` …, which templates refer to.

        Raises a `TemplateFailure` with the line where it is not valid.
        """
        self.source = source
        """What it was compiled from; JSON where the model has several."""
        self._special_texts = dict(special_texts)
        self._sources: dict[str, str] | None = None
        self._templates = {DEFAULT: _compiled(source)}
        self._hopeless: dict[str, str] = {}
        """Why templates ran out of time on a small conversation, or when they were probed: they are not tried again."""
        self._probing = {name: Probing() for name in self._templates}
        self._in_parts: dict[tuple[str, str], bool] = {}
        """By template and role, whether it reads content in parts alone."""

    @classmethod
    def of_named(cls, sources: Mapping[str, str], special_texts: Mapping[str, str]) -> ChatTemplate:
        """Compile a model's named templates, of which transformers' rule chooses.

        Where tools are given, that is ``tool_use`` if there is one, and else ``default``. A model without either has
        none that fits by itself, and renders nothing.
        """
        if (size := sum(map(len, sources.values()))) > LONGEST_SOURCE:
            raise TemplateFailure(f"they have {size:,} characters, more than {LONGEST_SOURCE:,}")
        template = cls("", special_texts)
        template._sources = dict(sources)
        template.source = json.dumps(template._sources)
        template._templates = {name: _compiled(source, name) for name, source in sources.items()}
        template._probing = {name: Probing() for name in sources}
        return template

    def __reduce__(self) -> tuple[object, ...]:
        if self._sources is not None:
            return ChatTemplate.of_named, (self._sources, self._special_texts)
        return ChatTemplate, (self.source, self._special_texts)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._templates)

    @property
    def for_tools(self) -> bool:
        """Whether conversations with tools have a template of their own."""
        return TOOL_USE in self._templates

    @property
    def faults(self) -> tuple[str, ...]:
        """Why templates are not tried again, as far as that is known."""
        return tuple(dict.fromkeys(self._hopeless.values()))

    @property
    def special_names(self) -> frozenset[str]:
        """By which names templates refer to the model's special tokens."""
        return frozenset(self._special_texts)

    @functools.cached_property
    def variables(self) -> frozenset[str]:
        """The names that templates read and may not have set before."""
        sources = self._sources or {DEFAULT: self.source}
        environment = make_environment()
        return frozenset().union(
            *(meta.find_undeclared_variables(environment.parse(each)) for each in sources.values())
        )

    @functools.cached_property
    def changes_case(self) -> bool:
        """Whether it may change the case of a text."""
        return any(word in self.source for word in _OF_CASE)

    @functools.cached_property
    def _changes(self) -> bool:
        """Whether it changes a list or a mapping: only then it may, and of what it is given it gets a copy."""
        return any(f".{name}" in self.source for names in GROWING.values() for name in names)

    @functools.cached_property
    def _may_read_parts(self) -> bool:
        return may_read_parts(self.source)

    def fits(self, *, with_tools: bool) -> bool:
        """Whether there is a template for conversations with or without tools."""
        return DEFAULT in self._templates or (with_tools and self.for_tools)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a conversation, by default up to where the assistant's answer begins.

        The messages are as the template expects them, see `unisono.chat.template_probe`; text goes in parts to a
        template that reads nothing else. Further ``variables`` are for templates that read them, and replace none of
        what all are given. Raises a `TemplateFailure` where the template refuses them, for example their order.
        """
        name = self._name(tools)
        told = [self._told(name, message) for message in messages]
        return self._rendered(name, told, tools, add_generation_prompt, variables)

    def probe(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """`render` a conversation of ours, which is short and one of a few, to see what the template does.

        What was written is remembered. A template that works for too long, or writes too much, for all of them together
        is at fault, and not asked again.
        """
        name = self._name(tools)
        told = [self._told(name, message) for message in messages]
        return self._probed(name, told, tools, add_generation_prompt, variables)

    def _name(self, tools: object) -> str:
        """Which template writes a conversation with such tools. Raises a `TemplateFailure` where there is none."""
        if not self.fits(with_tools=tools is not None):
            raise TemplateFailure(f"none of the templates {', '.join(self.names)} is the default")
        return TOOL_USE if tools is not None and self.for_tools else DEFAULT

    def _told(self, name: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message in the form that a template reads."""
        content, role = message.get("content"), message.get("role")
        if not isinstance(content, str) or role not in ROLES or not self._may_read_parts:
            return dict(message)
        if (name, role) not in self._in_parts:
            self._in_parts[name, role] = reads_parts_alone(role, functools.partial(self._tried, name))
        return {**message, "content": parts_of(content) if self._in_parts[name, role] else content}

    def _tried(self, name: str, messages: Sequence[Mapping[str, Any]]) -> str:
        try:
            return self._probed(name, messages, None, True, None)
        except TemplateFailure:
            return ""

    def _probed(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | Sequence[Tool] | None,
        add: bool,
        variables: Mapping[str, Any] | None,
    ) -> str:
        probing, key = self._probing[name], json.dumps([messages, tools, add, variables])
        if (known := probing.known.get(key)) is None:
            try:
                with probing.measured():
                    known = self._rendered(name, messages, tools, add, variables, seconds=probing.seconds)
                    probing.count(known)
            except Exceeded as error:
                self._hopeless.setdefault(name, str(error))
                raise TemplateFailure(self._hopeless[name]) from error
            probing.known[key] = known
        return known

    def _rendered(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        *,
        seconds: float | None = None,
    ) -> str:
        if name in self._hopeless:
            raise TemplateFailure(self._hopeless[name])
        template = self._templates[name]
        environment = cast(BoundedEnvironment, template.environment)
        try:
            given = {
                **(variables or {}),
                **self._special_texts,
                "messages": [dict(message) for message in messages],
                "tools": None if tools is None else [dict(tool) for tool in tools],
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
            environment.begin(seconds)
            environment.may_change = self._changes
            return template.render(copy.deepcopy(given) if self._changes else given)
        except jinja2.TemplateError as error:
            if isinstance(error, OutOfTime) and not variables and _is_small(messages, tools):
                self._hopeless[name] = str(error)
            raise TemplateFailure(str(error)) from error
        except Exception as error:  # a template is a program and can fail in any way
            raise TemplateFailure(f"{type(error).__name__}: {error}") from error
        finally:
            forget()


def _is_small(messages: Sequence[Mapping[str, Any]] | Sequence[Message], tools: Sequence[Any] | None) -> bool:
    """Whether all of a conversation is short, the number of its messages and their other keys too."""
    try:
        return len(json.dumps([[dict(message) for message in messages], tools], default=repr)) < SMALL
    except (TypeError, ValueError, RecursionError):
        return False


def _compiled(source: str, name: str | None = None) -> jinja2.Template:
    which = "" if name is None else f"template {name!r}, "
    if len(source) > LONGEST_SOURCE:
        raise TemplateFailure(f"{which}it has {len(source):,} characters, more than {LONGEST_SOURCE:,}")
    try:
        code = _code(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateFailure(f"{which}line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise TemplateFailure(f"{which}it is nested too deeply") from error
    except Exception as error:  # what Python does not take: a number too long, too many blocks in one another
        raise TemplateFailure(f"{which}it cannot be compiled: {type(error).__name__}: {str(error)[:WORDS]}") from error
    environment = make_environment()  # which counts what one rendering takes, so that each template has its own
    return jinja2.Template.from_code(environment, code, environment.make_globals(None))


@functools.lru_cache(maxsize=32)
def _code(source: str) -> CodeType:
    return make_environment().compile(source)
