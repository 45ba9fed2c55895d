"""Clients as they come, with what they send in every request: openai's helpers, and LangChain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from support.tool_templates import TAGGED
from unisono.backends.fake.backend import FAKE_MODELS


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Sofia", "Rome"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving({"duo": {"members": [{**each, "chat_template": TAGGED} for each in (A, B)]}}) as server:
        yield server
    FAKE_MODELS.clear()


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_openais_helpers_parse_strict_calls_and_formats(served: Served, choice: Any) -> None:
    parse = served.client().chat.completions.parse
    keys: dict[str, Any] = {"model": "duo", "messages": SAY, "max_tokens": 90}
    tool = openai.pydantic_function_tool(Weather)
    for more in ({}, {"parallel_tool_calls": False, "store": True, "metadata": {"a": "b"}}):
        try:
            [found] = parse(**keys, tools=[tool], tool_choice=choice, **more).choices
        except openai.LengthFinishReasonError:
            assert choice == "auto" or not more  # these members go on for ever
            continue
        for call in found.message.tool_calls or ():
            assert isinstance(call.function.parsed_arguments, Weather)
        assert found.message.tool_calls or choice == "auto"
    [formed] = parse(**keys, response_format=Weather).choices
    assert isinstance(formed.message.parsed, Weather)
    [either] = parse(**keys, response_format=Weather, tools=[tool]).choices
    assert isinstance(either.message.parsed, Weather) or either.message.tool_calls


def model_of(served: Served, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="duo", base_url=f"{served.url}/v1", api_key=SecretStr("none"), max_retries=0, **options)


def test_langchain_binds_tools_replays_their_answers_and_structures(served: Served) -> None:
    chat = model_of(served, max_completion_tokens=90, reasoning_effort="low", verbosity="low")
    free = chat.bind_tools([Weather], strict=True, parallel_tool_calls=False).invoke("the cat")
    assert isinstance(free, AIMessage)
    asked = chat.bind_tools([Weather], tool_choice="Weather").invoke("the cat")
    [call] = asked.tool_calls
    answered = ToolMessage("rain", tool_call_id=call["id"], name="Weather")
    again = chat.bind_tools([Weather], strict=True).invoke([HumanMessage("the cat", name="Anna"), asked, answered])
    assert isinstance(again, AIMessage)
    for method in ("json_schema", "function_calling"):
        found = chat.with_structured_output(Weather, method=method).invoke("the cat")  # type: ignore[arg-type]
        assert isinstance(found, Weather)
