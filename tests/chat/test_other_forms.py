"""A conversation that a template refuses, or writes a part of alone, is written in another form that says the same."""

from __future__ import annotations

from typing import Any

import pytest

from support.encoders import knowing
from support.tool_templates import BARE, OBJECT, PING, TAGGED, call, calling, exchange
from unisono.chat.messages import Prompt
from unisono.chat.other_forms import other_forms
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_bounds import OutOfTime
from unisono.errors import PromptError

PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}<|assistant|>"
ALTERNATING = (
    "{% for m in messages %}{% if not loop.first and m.role == loop.previtem.role %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "<|assistant|>"
)
FIRST_ALONE = (
    "{% if messages[0].role == 'system' %}<|system|>{{ messages[0].content }}{{ eos_token }}{% endif %}"
    "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "<|assistant|>"
)
CALLS_ALONE = calling("{% for c in m.tool_calls %}<tool_call>\n" + OBJECT + "\n</tool_call>{% endfor %}")
NINE = TAGGED.replace(
    "<tool_call>\n",
    "{% if c.id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}<tool_call>[{{ c.id }}]",
)
ASK: Any = {"role": "user", "content": "Sun?"}


def said(*messages: tuple[str, str]) -> list[Any]:
    return [{"role": role, "content": content} for role, content in messages]


def own(template: str) -> PromptEncoder:
    """An encoder whose template is its model's."""
    member = knowing(template)
    member.given_template = False
    return member


def read(template: str, messages: Any, tools: Any = None) -> list[int]:
    return own(template).encode(Prompt(messages=messages, tools=tools))


@pytest.mark.parametrize(
    ("template", "given", "joined"),
    [
        (ALTERNATING, said(("user", "a"), ("user", "b"), ("user", "c")), said(("user", "a\n\nb\n\nc"))),
        (ALTERNATING, said(("system", "a"), ("system", "b"), ("user", "c")), said(("system", "a\n\nb"), ("user", "c"))),
        (
            ALTERNATING,
            said(("user", "a"), ("assistant", "b"), ("assistant", ""), ("assistant", "c"), ("user", "d")),
            said(("user", "a"), ("assistant", "b\n\nc"), ("user", "d")),
        ),
        (FIRST_ALONE, said(("system", "a"), ("system", "b"), ("user", "c")), said(("system", "a\n\nb"), ("user", "c"))),
    ],
)
def test_messages_of_one_role_in_a_row_are_joined_where_a_template_does_not_write_them(
    template: str, given: Any, joined: Any
) -> None:
    assert read(template, given) == read(template, joined) == read(PLAIN, joined)
    assert read(PLAIN, given) != read(PLAIN, joined)


def test_the_message_that_is_continued_is_joined_too() -> None:
    given, joined = (
        said(("user", "a"), ("assistant", "b"), ("assistant", "c ")),
        said(("user", "a"), ("assistant", "b\n\nc ")),
    )
    one, other = (
        own(ALTERNATING).encode(Prompt(messages=each, continue_final_message=True)) for each in (given, joined)
    )
    assert one == other


@pytest.mark.parametrize(
    "given",
    [
        [{**ASK, "name": "anna"}, {**ASK, "name": "ben"}],
        [{**ASK, "extra": {"id": 1}}, {**ASK, "extra": {"id": 2}}],
        [{**ASK, "extra": {"name": "anna"}}, ASK],
        said(("user", "a"), ("assistant", "b"), ("system", "c"), ("system", "d"), ("user", "e")),
    ],
)
def test_what_has_no_other_form_is_refused_as_it_is(given: Any) -> None:
    with pytest.raises(PromptError, match=r"roles must alternate|cannot read"):
        read(FIRST_ALONE if len(given) > 2 else ALTERNATING.replace("m.content", "m.content ~ m.name ~ m.id"), given)


def test_ids_of_calls_are_shortened_where_a_template_takes_no_others() -> None:
    calls = [call("ping", {"n": 1}, "call_2b7e151628"), call("ping", {"n": 2}, "abcdefgh1"), call("ping", {}, "x")]
    short = [
        {**each, "id": identity} for each, identity in zip(calls, ("call00000", "abcdefgh1", "call00001"), strict=True)
    ]
    given, wanted = ([ASK, *exchange(*each)] for each in (calls, short))
    assert read(NINE, given, [PING]) == read(NINE, wanted, [PING])
    unordered = [*given[:2], given[4], given[2], given[3]]
    assert read(NINE, unordered, [PING]) == read(NINE, wanted, [PING])
    free = NINE.replace("!= 9", "< 1")
    assert read(free, given, [PING]) != read(free, wanted, [PING])


def test_ids_stay_distinct_where_one_is_already_short() -> None:
    taken = [ASK, *exchange(call("ping", {}, "call00000"), call("ping", {}, "call_long"))]
    form, *_ = other_forms(taken)
    assert [each["id"] for each in form[1]["tool_calls"]] == ["call00000", "call00001"]
    assert [each["tool_call_id"] for each in form[2:]] == ["call00000", "call00001"]


def test_what_is_said_before_calls_stands_before_them_where_a_template_writes_calls_alone() -> None:
    given = [ASK, *exchange(call("ping", {"n": 1}), content="Let me see.")]
    assert given[1]["content"]
    apart = [ASK, *said(("assistant", "Let me see.")), *exchange(call("ping", {"n": 1}))]
    assert read(CALLS_ALONE, given, [PING]) == read(CALLS_ALONE, apart, [PING])
    assert read(TAGGED, given, [PING]) != read(TAGGED, apart, [PING])


def test_several_calls_come_one_after_another_where_a_template_takes_one() -> None:
    calls = [call("ping", {"n": number}, identity) for number, identity in enumerate(("one", "two", "three"))]
    first, *results = exchange(*calls)
    results = [{**result, "content": f"result {number}"} for number, result in enumerate(results)]
    turns = [ASK]
    for each, result in zip(calls, results, strict=True):
        turns += [exchange(each)[0], result]
    for given in (results, results[::-1]):
        assert read(BARE, [ASK, first, *given, ASK], [PING]) == read(BARE, [*turns, ASK], [PING])
    open_call = Prompt(messages=[ASK, first, results[1], ASK], tools=[PING], open_calls=True)
    wanted = [ASK, exchange(calls[0])[0], exchange(calls[1])[0], results[1], exchange(calls[2])[0], ASK]
    assert own(BARE).encode(open_call) == own(BARE).encode(Prompt(messages=wanted, tools=[PING], open_calls=True))


def test_several_forms_may_be_needed_at_once() -> None:
    template = NINE.replace("{% if m.content %}{{ m.content }}\n{% endif %}", "").replace(
        "{%- for m in messages -%}",
        "{%- for m in messages -%}{% if m.role == 'user' and loop.previtem and loop.previtem.role == 'user' %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}",
    )
    given = [ASK, ASK, *exchange(call("ping", {}, "a-long-identity"), content="Let me see.")]
    wanted = [
        *said(("user", "Sun?\n\nSun?"), ("assistant", "Let me see.")),
        *exchange(call("ping", {}, "call00000")),
    ]
    assert read(template, given, [PING]) == read(template, wanted, [PING])


def test_only_the_forms_that_are_needed_together_are_taken() -> None:
    """Parallel calls stay where it is the roles and the ids that a template refuses."""
    template = NINE.replace(
        "{%- for m in messages -%}",
        "{%- for m in messages -%}{% if m.role == 'user' and loop.previtem and loop.previtem.role == 'user' %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}",
    )
    calls = [call("ping", {"n": number}, f"a-long-identity-{number}") for number in range(2)]
    short = [{**each, "id": f"call0000{number}"} for number, each in enumerate(calls)]
    given, wanted = [ASK, ASK, *exchange(*calls)], [*said(("user", "Sun?\n\nSun?")), *exchange(*short)]
    assert read(template, given, [PING]) == read(template, wanted, [PING])


def test_a_template_that_takes_too_long_is_not_asked_for_other_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = list[int]()

    def render(*given: Any, **keys: Any) -> str:
        rendered.append(1)
        raise TemplateFailure("too slow") from OutOfTime("too slow")

    member = own(ALTERNATING)
    member.encode(Prompt(messages=[ASK]))  # which asks what the template does
    monkeypatch.setattr(ChatTemplate, "render", render)
    with pytest.raises(PromptError, match="too slow"):
        member.encode(Prompt(messages=[ASK, ASK]))
    assert len(rendered) == 1
