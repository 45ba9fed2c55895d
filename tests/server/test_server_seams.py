"""Calls whose name stands outside their JSON, through the server: each member writes and reads them in its own form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.callers import FIRST, SCRIPTS, SECOND, make_callers
from support.real_server import SAY, Served, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.mark_probe import bytes_of

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "integer"}},
                "required": ["x"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("ping", "ping_all")
]
BOTH = [("ping", FIRST), ("ping_all", SECOND)]
TOGETHER = {
    "hd": ("harmony", "deepseek"),
    "dh": ("deepseek", "harmony"),
    "kmt": ("kimi", "mistral", "tagged"),
    "mt": ("mistral", "tagged"),
    "all": ("mistral", "deepseek", "harmony", "kimi", "tagged"),
}
ALONE = {name: (name,) for name in SCRIPTS if name != "tagged"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_callers()
    ensembles = {
        ensemble: {
            "members": [{"name": name, "model": f"fake:{name}", "weight": 1 + (name == names[0])} for name in names],
            "lead": names[0],
        }
        for ensemble, names in (ALONE | TOGETHER).items()
    }
    with serving(ensembles) as server:
        yield server
    FAKE_MODELS.clear()


def ask(served: Served, model: str, **keys: Any) -> Any:
    given = {"messages": SAY, "max_tokens": 150, "tools": TOOLS, "temperature": 0, **keys}
    return served.client().chat.completions.create(model=model, **given)


def called(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


def heard(name: str) -> str:
    """All that a member's model has read since the passes were cleared."""
    table = FAKE_MODELS[name].tokenizer.table
    ids = [token for each in FAKE_MODELS[name].passes for feed in each.feeds for token in feed.ids]
    return b"".join(bytes_of(table, token) for token in ids).decode(errors="replace")


@pytest.mark.parametrize("choice", ["required", "auto"])
@pytest.mark.parametrize("model", [*ALONE, *TOGETHER])
def test_calls_come_back_and_each_member_has_read_them_in_its_own_form(served: Served, model: str, choice: str) -> None:
    for each in FAKE_MODELS.values():
        each.passes.clear()
    answer = ask(served, model, tool_choice=choice)
    [made] = answer.choices
    names = (ALONE | TOGETHER)[model]
    expected = [(name, json.loads(text)) for name, text in (BOTH if names[0] != "harmony" else BOTH[:1])]
    assert called(made.message) == expected
    assert (made.finish_reason, made.message.content) == ("tool_calls", None)
    for name in names:
        whole = SCRIPTS[name][1]
        first = whole[whole.rfind("assistant") + 11 : whole.find(FIRST) + len(FIRST)].removeprefix("|>")
        assert first in heard(name), name


@pytest.mark.parametrize("model", [*ALONE, *TOGETHER])
def test_a_stream_has_the_same_calls(served: Served, model: str) -> None:
    whole = called(ask(served, model).choices[0].message)
    chunks = list(ask(served, model, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == whole
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


@pytest.mark.parametrize("model", [*ALONE, *TOGETHER])
def test_a_named_tool_and_one_call_are_honoured(served: Served, model: str) -> None:
    named = ask(served, model, tool_choice={"type": "function", "function": {"name": "ping_all"}})
    assert [name for name, _ in called(named.choices[0].message)] == ["ping_all"]
    single = ask(served, model, parallel_tool_calls=False, tool_choice="required")
    assert called(single.choices[0].message) == [("ping", json.loads(FIRST))]


@pytest.mark.parametrize("model", [*ALONE, *TOGETHER])
def test_none_calls_nothing(served: Served, model: str) -> None:
    made = ask(served, model, tool_choice="none", max_tokens=20).choices[0]
    assert made.message.tool_calls is None
