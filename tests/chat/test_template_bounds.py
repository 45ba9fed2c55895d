"""Templates that work without an end, or make values without bounds, are refused in bounded time and memory."""

from __future__ import annotations

import contextlib
import time
import tracemalloc

import pytest

from support.at_once import at_once
from support.encoders import TABLE
from unisono.chat.call_probe import find_call_form
from unisono.chat.call_segments import FormUnknown
from unisono.chat.mark_probe import probe_marks
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_bounds import PROBED, SECONDS
from unisono.chat.template_probe import probe_answer_form, probe_opening, probe_tool_use, writes_name, writes_users
from unisono.chat.thinking import without_thinking
from unisono.testing import LongestMatchTokenizer

DOUBLING = "{%% set ns = namespace(s='ab') %%}{%% for i in range(64) %%}%s{%% endfor %%}{{ ns.s }}"

ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "loops without output": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "filters": "{% for i in range(99999) %}{% set t = range(99999) | sort %}{% endfor %}",
    "lazy filters": "{% for i in range(99999) | map('string') %}{% for j in range(99999) | map('string') %}"
    "{% endfor %}{% endfor %}",
    "comparisons": "{% set s = 'ab' * 900000 %}{% for i in range(99999) %}{% if 'bb' in s %}{% endif %}{% endfor %}",
    "a condition": "{% set s = 'ab' * 900000 %}{% for i in range(99999) if 'bb' in s %}{% endfor %}",
    "a cycler": "{% set c = cycler(1) %}{% for i in range(99999) %}{% for j in range(999) %}{{ c.next() }}"
    "{% endfor %}{% endfor %}",
}
HUGE = {
    "indent": "{{ ('a\n' * 1000) | indent(1000000000) }}",
    "center": "{{ 'a' | center(2000000000) }}",
    "ljust": "{{ 'a'.ljust(2000000000) }}",
    "a product": "{{ 'a' * 10000000000 }}",
    "a product of lists": "{{ [1] * 10000000000 }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "a wide method": "{{ '{:1000000000}'.format(1) }}",
    "a width in a width": "{{ '{:{}}'.format(1, 1000000000) }}",
    "a width that is given": "{{ '%*d' | format(1000000000, 1) }}",
    "joined texts": DOUBLING % "{% set ns.s = ns.s ~ ns.s %}",
    "added texts": DOUBLING % "{% set ns.s = ns.s + ns.s %}",
    "captured texts": DOUBLING % "{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}",
    "replaced texts": DOUBLING % "{% set ns.s = ns.s.replace('a', ns.s) %}",
    "added lists": DOUBLING.replace("'ab'", "[1]") % "{% set ns.s = ns.s + ns.s %}",
    "a power": "{{ 10 ** 99999999 }}",
    "JSON": "{{ messages | tojson(indent=1000000000) }}",
    "a list that is joined": "{{ range(99999) | join('x' * 100000) }}",
    "wrapped words": "{{ ('a ' * 100000) | wordwrap(1, wrapstring='x' * 100000) }}",
    "words at random": "{{ lipsum(n=1000000, max=1000) }}",
    "a batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "JSON of one text many times": "{{ (['a' * 9000000] * 1000) | tojson }}",
    "JSON with wide separators": "{{ range(9999) | list | tojson(separators=('x' * 99999, 'x')) }}",
    "JSON with separators as they are asked for": (
        "{{ range(9999) | list | tojson(separators=('x' * 99999, 'x') | map('string')) }}"
    ),
    "one text many times": "{{ ['a' * 9000000] * 1000 }}",
    "one text many times, joined to another": "{{ ['a' * 9000000] * 1000 ~ 'a' }}",
    "one text many times, as a text": "{{ (['a' * 9000000] * 1000) | string }}",
    "one text many times, joined": "{{ (['a' * 9000000] * 1000) | map('string') | join }}",
    "one text many times, joined by a method": "{{ ''.join((['a' * 9000000] * 1000) | map('string')) }}",
    "one text many times, in a mapping": "{{ dict.fromkeys(range(9999), 'a' * 9000000).values() }}",
    "one text many times, in a namespace": "{% set n = namespace(s='a' * 9000000) %}{{ [n, n, n] }}",
    "one attribute many times": "{% set n = namespace(s='a' * 9000000) %}{{ [n, n, n] | join(attribute='s') }}",
    "lists that are added up": "{{ ([range(99999) | list] * 9999) | sum(start=[]) | length }}",
    "fields of a format": "{{ ('{0}' * 99999).format('a' * 9000000) }}",
    "named fields of a format": "{{ ('%(a)s' * 99999) % {'a': 'a' * 9000000} }}",
    "many wide fields": "{{ ('%999999d' * 9999) | format(1) }}",
    "translated letters": "{{ ('a' * 99999).translate({97: 'b' * 9000000}) }}",
    "bytes": "{{ 'a'.encode() * 10000000000 }}",
    "bytes in the middle": "{{ 'a'.encode().center(10000000000) }}",
    "a number as bytes": "{{ (1).to_bytes(10000000000, 'big') }}",
    "a wide year": "{{ strftime_now('%1000000000Y') }}",
    "doubled lists": DOUBLING.replace("'ab'", "[1]") % "{% set ns.s = [ns.s, ns.s] %}",
    "doubled tuples": DOUBLING.replace("'ab'", "(1,)") % "{% set ns.s = (ns.s, ns.s) %}",
    "doubled lists by a filter": DOUBLING.replace("'ab'", "[1]") % "{% set ns.s = [1] | batch(3, ns.s) | list %}",
    "doubled lists by a product": DOUBLING.replace("'ab'", "[1]") % "{% set ns.s = [ns.s] * 2 %}",
    "doubled lists by a default": DOUBLING.replace("'ab'", "[1]")
    % "{% set ns.s = [{}, {}] | map(attribute='q', default=ns.s) | list %}",
    "lists within lists": "{% set ns = namespace(s=[]) %}{% for i in range(999) %}{% set ns.s = [ns.s] %}{% endfor %}",
    "lists that grow after they were looked at": "{% set x, l = 'a' * 9000000, ['b'] %}{{ l | tojson }}{{ l }}"
    "{% for i in range(999) %}{{ l.append(x) or '' }}{% endfor %}{{ l | tojson }}",
    "doubled lists by appending": DOUBLING.replace("'ab'", "[1]")
    % "{% set m = [] %}{{ m.append(ns.s) or '' }}{{ m.append(ns.s) or '' }}{% set ns.s = m %}",
    "namespaces that are filled later": "{% macro grow(n, d) %}{% if d %}{% set m = namespace() %}"
    "{% set n.v = [m, m] %}{{ grow(m, d - 1) }}{% endif %}{% endmacro %}"
    "{% set a = namespace() %}{% set s = [a] %}{{ grow(a, 64) }}{{ s }}",
    "a text searched from its end": "{{ ('a' * 9000000).rfind('ab' + 'a' * 4000000) }}",
    "a text split from its end": "{{ ('a' * 9000000).rsplit('ab' + 'a' * 4000000) | length }}",
    "a text split into words": "{{ ('a ' * 7000000).split() | length }}",
    "a text as a list": "{{ ('a' * 9000000) | list | length }}",
    "hyphens that are wrapped": "{{ ('-' * 9000000) | wordwrap(1) }}",
    "brackets that are no tags": "{{ ('<' * 9000000) | striptags }}",
    "nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "its own length": "x" * 200_001,
}
UNCOMPILED = {
    "a number too long": "{{ " + "9" * 5000 + " }}",
    "blocks in blocks": "{% for a in messages %}" * 30 + "{% endfor %}" * 30,
    "an odd name": "{% set None = 1 %}",
}
QUESTION = [{"role": "user", "content": "Hi"}]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_goes_on_and_on_is_stopped_and_not_tried_again(name: str) -> None:
    template = ChatTemplate(ENDLESS[name], {})
    began = time.thread_time()
    with pytest.raises(TemplateFailure, match="works for more than 2 s"):
        template.render(QUESTION)
    first = time.thread_time() - began
    assert first < 2 * SECONDS + 1
    with pytest.raises(TemplateFailure, match="works for more than 2 s"):
        template.render(QUESTION)
    assert time.thread_time() - began - first < SECONDS / 10


class Counting(LongestMatchTokenizer):
    """Reads nothing, and counts it."""

    read = 0

    def encode_rendered(self, text: str) -> list[int]:
        self.read += len(text)
        return []


def probed(template: ChatTemplate) -> int:
    """Ask a template all that is asked of one when a model is loaded, and return how much was read of what it wrote."""
    tokenizer = Counting(TABLE)
    probe_answer_form(template, tokenizer)
    probe_marks(template, tokenizer)
    for with_tools in (False, True):
        use = probe_tool_use(template, with_tools=with_tools)
        probe_opening(template, {"</s>": 2}, with_tools=with_tools)
        writes_users(template, with_tools=with_tools)
        writes_name(template, "assistant", with_tools=with_tools)
        with contextlib.suppress(FormUnknown):
            find_call_form(template, use, ["</s>"], [])
    without_thinking(template)
    return tokenizer.read


WASTEFUL = {
    "half of its time, each time": "{% set s = 'ab' * 400000 %}{% for i in range(NUMBER) if 'bb' in s %}{% endfor %}"
    "{{ messages }} {{ tools }} text reasoning_effort",
    "a tenth of it": "{% set s = 'ab' * 100000 %}{% for i in range(NUMBER) if 'bb' in s %}{% endfor %}"
    "{{ messages }} {{ tools }} text reasoning_effort",
}


@pytest.mark.parametrize("name", WASTEFUL)
def test_all_that_a_template_is_probed_for_is_bounded_together(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.chat.template_bounds.SECONDS", 0.2)
    monkeypatch.setattr("unisono.chat.template_bounds.OFTEN", 1)
    one = ChatTemplate(WASTEFUL[name].replace("NUMBER", "20"), {})
    began = time.thread_time()
    one.render(QUESTION)
    number = round(20 * (0.1 if "half" in name else 0.02) / (time.thread_time() - began))
    template = ChatTemplate(WASTEFUL[name].replace("NUMBER", str(number)), {})
    assert template.render(QUESTION)
    with at_once(0.5):
        probed(template)
    assert template.faults == ("it works for more than 0.2 s",)
    with pytest.raises(TemplateFailure, match="works for more than"):
        template.render(QUESTION)


@pytest.mark.parametrize("size", [999_999, 200_000, 60_000])
def test_a_template_that_writes_too_much_for_short_conversations_is_asked_no_more(size: int) -> None:
    template = ChatTemplate(f"{{{{ '%{size}d' % 1 }}}}{{{{ messages }}}}{{{{ tools }}}}", {})
    assert probed(template) <= PROBED[1]
    [fault] = template.faults
    assert "characters, more than" in fault


def test_what_was_probed_once_costs_nothing_again() -> None:
    template = ChatTemplate(f"{{{{ '%{PROBED[0] - 100}d' % 1 }}}}", {})
    for _ in range(100):
        assert template.probe(QUESTION).endswith("1")
    assert template.faults == ()


COUNTING = (
    "{% for m in messages %}{% for i in range(m.content | length) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"
)
BY_VARIABLE = "{% for i in range(n or 0) %}{% for j in range(99999) %}{% endfor %}{% endfor %}Hi"


def test_a_request_that_takes_too_long_takes_no_time_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.chat.template_bounds.SECONDS", 0.2)
    template = ChatTemplate(COUNTING + "{% endfor %}Hi", {})
    for long in ([{"role": "user", "content": "x" * 10_000}], [{"role": "user", "content": "x"}] * 1000):
        with pytest.raises(TemplateFailure, match="works for more than"):
            template.render(long)
        assert template.render(QUESTION) == "Hi"
    by_variable = ChatTemplate(BY_VARIABLE, {})
    with pytest.raises(TemplateFailure, match="works for more than"):
        by_variable.render(QUESTION, variables={"n": 9999})
    assert by_variable.render(QUESTION) == "Hi"


def test_every_rendering_has_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.chat.template_bounds.SECONDS", 0.2)
    template = ChatTemplate(BY_VARIABLE, {})
    for _ in range(2):
        began = time.thread_time()
        with pytest.raises(TemplateFailure, match="works for more than"):
            template.render(QUESTION, variables={"n": 9999})
        assert time.thread_time() - began > 0.15


@pytest.mark.parametrize("name", HUGE)
def test_a_template_that_makes_something_huge_is_refused_at_once(name: str) -> None:
    tracemalloc.start()
    try:
        with at_once(2), pytest.raises(TemplateFailure):
            ChatTemplate(HUGE[name], {}).render(QUESTION)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def test_what_templates_do_works_as_before() -> None:
    source = (
        "{% for m in messages %}{{ loop.index ~ '/' ~ loop.length }}{{ ' last' if loop.last else '' }}"
        "{{ m.content | trim | indent(2) }}{{ '%s-%02d' % (m.role, 7) }}"
        "{{ m.content.replace('H', 'J') * 2 }}{% endfor %}"
        "{{ [1] | tojson(ensure_ascii=nothing, separators=(',', ':')) }}"
        "{{ [1, 2] + [3] }}{{ 2 ** 10 }}{{ messages | map(attribute='role') | join(', ') }}"
        "{{ 'a' ~ 1 ~ none }}"
        "{% for k, v in {'a': 1} | dictsort %}{{ k }}{{ v }}{% endfor %}"
        "{% for x in [] %}{% else %}none{% endfor %}"
    )
    written = "1/1 lastHiuser-07JiJi[1][1, 2, 3]1024usera1Nonea1none"
    assert ChatTemplate(source, {}).render(QUESTION) == written


QUEUE = (
    "{% set ns = namespace(ids=[], known={}) %}{% for m in messages %}{% set _ = ns.ids.append(m.content) %}"
    "{% set _ = ns.known.update({m.role: loop.index}) %}{% endfor %}{{ ns.ids.pop(0) }}{{ ns.ids }}{{ ns.known }}"
)
GREEDY = "{% set a = [] %}{% for m in messages %}{% set _ = messages.append(m) %}{% endfor %}{{ a.append(1) }}"


def test_a_template_may_change_the_lists_that_it_made_and_nothing_that_it_is_given() -> None:
    asked = [*QUESTION, {"role": "tool", "content": ["x"]}]
    assert ChatTemplate(QUEUE, {}).render(asked) == "Hi[['x']]{'user': 1, 'tool': 2}"
    for change in ("messages.append(1)", "messages[1].content.append(1)", "messages[1].update({'role': 'user'})"):
        assert ChatTemplate(f"{{% set _ = {change} %}}{{{{ messages | length }}}}", {}).render(asked)
        assert asked == [*QUESTION, {"role": "tool", "content": ["x"]}]
    for refused in (
        "{{ messages[1].content['app' ~ 'end'](1) }}",
        "{{ (messages[1].content | attr('append'))(1) }}",
        "{{ messages.clear() }}",
        "{% set a = [] %}{{ a.append(1) }}{{ a.extend(a) }}",
    ):
        with pytest.raises(TemplateFailure, match="unsafe"):
            ChatTemplate(refused, {}).render(asked)
        assert asked == [*QUESTION, {"role": "tool", "content": ["x"]}]


def test_a_list_that_grows_while_it_is_read_ends_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.chat.template_bounds.SECONDS", 0.2)
    with pytest.raises(TemplateFailure, match="works for more than"):
        ChatTemplate(GREEDY, {}).render(QUESTION)
    with pytest.raises(TemplateFailure):
        ChatTemplate("{% set a = [] %}{% set _ = a.append(a) %}{{ a | tojson }}", {}).render(QUESTION)


@pytest.mark.parametrize("name", UNCOMPILED)
def test_what_python_does_not_compile_is_a_template_that_is_not_valid(name: str) -> None:
    with pytest.raises(TemplateFailure) as caught:
        ChatTemplate(UNCOMPILED[name], {})
    assert len(str(caught.value)) < 400
