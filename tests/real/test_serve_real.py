"""The server on the real pair: its clients, its answers, and its ends, gentle and not."""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from served import Served, free_port, serve
from support.covering import ALL, some
from support.demo import demo_spec
from support.tool_templates import TAGGED
from unisono.build import prepare
from unisono.config.ensemble import load_spec
from unisono.ensemble import Ensemble
from unisono.loaded_models import load_engine

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[2]
SPEC = demo_spec(backend="llamacpp", threads=1)
"""As `examples/duo.yaml`; threads of one model would wait for each other where other work goes on."""
QUESTIONS = ("Name a river in France.", "日本の首都はどこですか。", "Describe 🐝 in one sentence.", "ما هي عاصمة مصر؟")


PIECES = 80 if ALL else 24
"""Of an answer that is still being written when the server is ended."""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(SPEC) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def ask(question: str, pieces: int = 12, **more: Any) -> dict[str, Any]:
    return {"model": "duo", "messages": [{"role": "user", "content": question}], "max_tokens": pieces, **more}


def test_answers_are_those_of_the_library_whole_and_streamed(client: openai.OpenAI) -> None:
    with Ensemble.load(SPEC) as duo:
        expected = {q: duo.generate(messages=[{"role": "user", "content": q}], max_new_tokens=8) for q in QUESTIONS}
    for question, written in expected.items():
        whole = client.chat.completions.create(**ask(question, 8))
        assert whole.choices[0].message.content == written.text
        assert whole.choices[0].finish_reason == {"end": "stop", "length": "length"}[written.finish_reason]
        assert whole.usage is not None
        assert whole.usage.completion_tokens == written.usage.pieces
        chunks = list(client.chat.completions.create(**ask(question, 8), stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == written.text
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_each_member_answers_alone(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"duo", "duo/smol", "duo/gemma"}
    prepared = prepare(load_spec(SPEC)).alone("smol")
    with Ensemble(prepared, load_engine(prepared)) as smol:
        expected = smol.generate(messages=[{"role": "user", "content": QUESTIONS[0]}], max_new_tokens=12)
    answer = client.chat.completions.create(**{**ask(QUESTIONS[0]), "model": "duo/smol"})
    assert answer.choices[0].message.content == expected.text


def test_probabilities_and_traces_are_those_of_the_combined_distribution(client: openai.OpenAI) -> None:
    wanted = ask(QUESTIONS[0], 6, logprobs=True, top_logprobs=3, extra_body={"unisono": {"trace": True}})
    answer = client.chat.completions.create(**wanted)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    trace = answer.model_extra["unisono"]["choices"][0]["trace"]  # type: ignore[index]
    for step, told in zip(trace, logprobs.content, strict=False):
        assert bytes(step["bytes"]) == bytes(told.bytes or ())
        assert step["voted"] == ["smol", "gemma"]
        assert step["p"] == pytest.approx(sum(step["members"].values()) / 2, abs=1e-5)
        assert told.logprob == pytest.approx(math.log(step["p"]), abs=1e-4)
        assert len(told.top_logprobs) == 3
        assert told.top_logprobs[0].logprob >= told.logprob - 1e-6


def test_many_async_streams_at_once_get_what_each_gets_alone(client: openai.OpenAI, served: Served) -> None:
    """llama.cpp's batched kernels differ in the last bits; these questions have no close calls."""
    alone = [client.chat.completions.create(**ask(question, 8)).choices[0].message.content for question in QUESTIONS]

    async def streamed(many: openai.AsyncOpenAI, question: str) -> str:
        stream = await many.chat.completions.create(**ask(question, 8), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as many:
            return list(await asyncio.gather(*(streamed(many, question) for question in (*QUESTIONS, *QUESTIONS))))

    assert asyncio.run(all_of_them()) == [*alone, *alone]


def test_langchain_speaks_to_it(served: Served, client: openai.OpenAI) -> None:
    chat = ChatOpenAI(model="duo", base_url=f"{served.url}/v1", api_key=SecretStr("none"), max_tokens=10, temperature=0)  # type: ignore[call-arg]
    expected = client.chat.completions.create(**ask(QUESTIONS[0], 10)).choices[0].message.content
    assert chat.invoke(QUESTIONS[0]).content == expected
    assert "".join(str(part.content) for part in chat.stream(QUESTIONS[0])) == expected


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "東京", "القاهرة"]},
        "people": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 12},
                    "age": {"type": "integer", "minimum": 0, "maximum": 120},
                },
                "required": ["name", "age"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["city", "people"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("model", ["duo", "duo/gemma"])
def test_an_answer_follows_its_schema(client: openai.OpenAI, model: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "visit", "schema": SCHEMA, "strict": True}}
    for question in QUESTIONS[:2]:
        answer = client.chat.completions.create(**{**ask(question, 120), "model": model}, response_format=form)  # type: ignore[call-overload]
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)


def test_tools_are_called_where_the_templates_know_them(client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "visit", "description": "Note a visit.", "parameters": SCHEMA}}
    with pytest.raises(openai.BadRequestError, match="member 'smol'") as refusal:
        client.chat.completions.create(**ask(QUESTIONS[0]), tools=[tool])  # type: ignore[list-item]
    assert refusal.value.param == "tools"
    knowing = {"members": [{**member, "chat_template": TAGGED} for member in SPEC["members"]]}
    with serve(knowing) as served, openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as able:
        answer = able.chat.completions.create(
            **ask(QUESTIONS[0], 150), tools=[tool], tool_choice="required", parallel_tool_calls=False
        )  # type: ignore[list-item]
    [call] = answer.choices[0].message.tool_calls or []
    assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "visit")  # type: ignore[union-attr]
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)  # type: ignore[union-attr]


def curl_commands() -> list[str]:
    """The curl commands of the README and the page on serving."""
    found = []
    for page in (ROOT / "README.md", ROOT / "docs" / "serving.md"):
        for block in re.findall(r"```(?:bash|console|sh)\n(.*?)```", page.read_text(), re.DOTALL):
            found += re.findall(r"^curl (?:.|\\\n)*?(?<!\\)$", block, re.MULTILINE)
    return found


@pytest.mark.parametrize("command", curl_commands())
def test_curl_as_the_pages_say(served: Served, command: str) -> None:
    here = command.replace("http://127.0.0.1:8321", served.url)
    assert here != command
    shown = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=100, check=True).stdout
    assert shown
    assert '"error"' not in shown


def test_there_is_a_curl_command_on_the_pages() -> None:
    assert curl_commands()


async def _loads(served: Served, count: int, pieces: int, ready: asyncio.Event) -> list[tuple[str, str]]:
    """Streams under way: what each got, and how it ended."""

    async def one(client: openai.AsyncOpenAI, number: int) -> tuple[str, str]:
        text = ""
        try:
            question = ask(QUESTIONS[number % len(QUESTIONS)], pieces)
            async with await client.chat.completions.create(**question, stream=True) as stream:
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
                    if len(text) > 2:
                        ready.set()
                    if chunk.choices[0].finish_reason:
                        return text, "whole"
        except openai.APIStatusError as error:
            return text, str(error.status_code)
        except openai.APIConnectionError:
            return text, "broken"
        except openai.APIError as error:
            return text, error.message
        except httpx2.TransportError:
            return text, "broken"
        return text, "cut"

    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        return list(await asyncio.gather(*(one(client, number) for number in range(count))))


async def _killed(served: Served, number: int, pieces: int) -> list[tuple[str, str]]:
    ready = asyncio.Event()
    load = asyncio.create_task(_loads(served, 12, pieces, ready))
    await ready.wait()
    served.process.send_signal(number)
    return await load


@pytest.mark.parametrize("number", some([signal.SIGKILL, signal.SIGTERM], 2))
def test_a_server_that_is_ended_under_load_tells_nothing_wrong_and_starts_anew(number: signal.Signals) -> None:
    port = free_port()
    with serve(SPEC, "--grace", "1", port=port) as served:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            alone = [
                client.chat.completions.create(**ask(q, PIECES)).choices[0].message.content or "" for q in QUESTIONS
            ]
        seen = asyncio.run(_killed(served, number, PIECES))
        assert served.process.wait(20) == (0 if number == signal.SIGTERM else -number)
        for place, (text, end) in enumerate(seen):
            expected = alone[place % len(alone)]
            if end == "whole":
                assert text == expected
            else:
                assert end != "cut", "a stream ended without a reason, an error or a break"
                assert expected.startswith(text.rstrip("\ufffd")), "what came was not what the answer begins with"
        assert any(end != "whole" for _, end in seen)
        if number == signal.SIGTERM:
            assert not any(end == "broken" for _, end in seen), seen
        with serve(SPEC, port=port) as again:
            answer = httpx2.post(f"{again.url}/v1/chat/completions", json=ask(QUESTIONS[0], 4), timeout=60)
            assert answer.status_code == 200
