"""The server, through OpenAI's own client: answers are those of the library, whole and streamed."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types import CompletionUsage

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.ensemble import Ensemble
from unisono.records import Generation

TEXTS = ("the cat", "Hello", "日本?", "the dog sings: ça")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving({"duo": {"members": [A, B]}, "gated": {"members": [A, B], "gate": "confidence:0.6"}}) as server:
        yield server
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def duo(served: Served) -> Iterator[Ensemble]:
    with Ensemble.load({"members": [A, B]}, batch=8) as ensemble:
        yield ensemble


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def alone(duo: Ensemble, messages: list[Any], pieces: int = 20, **keys: Any) -> Generation:
    return duo.generate(messages=messages, max_new_tokens=pieces, **keys)


@pytest.mark.parametrize("text", TEXTS)
def test_a_chat_is_what_the_library_writes(served: Served, duo: Ensemble, text: str) -> None:
    expected = alone(duo, say(text))
    answer = served.client().chat.completions.create(model="duo", messages=say(text), max_tokens=20)
    assert answer.object == "chat.completion"
    assert answer.model == "duo"
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == expected.text
    assert choice.finish_reason == {"end": "stop", "length": "length"}[expected.finish_reason]
    pieces, prompt = expected.usage.pieces, expected.usage.prompt_tokens["a"]
    assert answer.usage == CompletionUsage(prompt_tokens=prompt, completion_tokens=pieces, total_tokens=prompt + pieces)
    [report] = answer.unisono["choices"]  # type: ignore[attr-defined]
    assert report["usage"] == expected.usage.to_json()
    assert report["finish"] == expected.finish_reason


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_is_the_answer_in_parts(served: Served, duo: Ensemble, text: str) -> None:
    expected = alone(duo, say(text))
    stream = served.client().chat.completions.create(
        model="duo", messages=say(text), max_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    *parts, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == expected.usage.pieces
    assert all(chunk.usage is None for chunk in parts)
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in parts) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].choices[0].finish_reason in ("stop", "length")
    assert len(parts) > 5


def test_asynchronous_clients_are_served_at_once_and_each_as_if_alone(served: Served, duo: Ensemble) -> None:
    """Batched = alone, with parameters of all kinds, over HTTP."""
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.8, "seed": 5},
        {"temperature": 1.2, "top_p": 0.7, "seed": 6},
        {"frequency_penalty": 1.5},
        {"presence_penalty": 1.0, "temperature": 0.5, "seed": 3},
        {"stop": ["e"]},
        {"extra_body": {"unisono": {"gate": "confidence:0.6", "speculate": "a:3"}}},
        {"extra_body": {"unisono": {"combine": "geometric"}}},
    ]
    asked = [(text, kind) for text in TEXTS for kind in kinds]

    async def ask(client: Any, text: str, kind: dict[str, Any], stream: bool) -> str:
        keys = {"model": "duo", "messages": say(text), "max_tokens": 16, **kind}
        if not stream:
            return str((await client.chat.completions.create(**keys)).choices[0].message.content)
        chunks = [chunk async for chunk in await client.chat.completions.create(**keys, stream=True)]
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    async def all_of_them() -> list[str]:
        async with served.asynchronous() as client:
            return await asyncio.gather(
                *(ask(client, text, kind, number % 2 == 0) for number, (text, kind) in enumerate(asked))
            )

    found = asyncio.run(all_of_them())
    for (text, kind), answer in zip(asked, found, strict=True):
        keys = dict(kind.get("extra_body", {}).get("unisono", {}))
        draw = {name: value for name, value in kind.items() if name not in ("stop", "extra_body")}
        expected = alone(duo, say(text), 16, stop=kind.get("stop", ()), draw=draw or None, **keys)
        assert answer == expected.text, kind
    served.free()


def test_n_texts_are_drawn_with_seeds_one_after_the_other(served: Served, duo: Ensemble) -> None:
    keys: dict[str, Any] = {"model": "duo", "messages": SAY, "max_tokens": 12, "temperature": 1, "seed": 40, "n": 3}
    answer = served.client().chat.completions.create(**keys)
    expected = [alone(duo, SAY, 12, draw={"temperature": 1, "seed": seed}).text for seed in (40, 41, 42)]
    assert [choice.message.content for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [report["seed"] for report in answer.unisono["choices"]] == [40, 41, 42]  # type: ignore[attr-defined]
    assert len(set(expected)) == 3
    texts: dict[int, str] = defaultdict(str)
    reasons = []
    for chunk in served.client().chat.completions.create(**keys, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert [texts[index] for index in range(3)] == expected
    assert len(reasons) == 3


def test_a_stop_string_is_cut_off_and_its_reason_is_stop(served: Served, duo: Ensemble) -> None:
    whole = alone(duo, SAY, 30).text
    stop = whole[6:9]
    for stream in (False, True):
        answer = served.client().chat.completions.create(
            model="duo",
            messages=SAY,
            max_tokens=30,
            stop=stop,
            stream=stream,
            logprobs=True,  # type: ignore[call-overload]
        )
        if stream:
            chunks = list(answer)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
            entries = [
                entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content
            ]
        else:
            [choice] = answer.choices
            text, reason, entries = choice.message.content, choice.finish_reason, choice.logprobs.content
        assert text == whole[: whole.index(stop)]
        assert reason == "stop"
        told = b"".join(bytes(entry.bytes) for entry in entries)
        assert told.startswith(text.encode())
        assert len(told) - len(entries[-1].bytes) < len(text.encode())


@pytest.mark.parametrize("model", ["duo", "gated", "duo/b"])
def test_logprobs_are_those_of_the_combined_distribution(served: Served, model: str) -> None:
    spec = {"members": [B] if model == "duo/b" else [A, B]}
    keys: dict[str, Any] = {"model": model, "messages": SAY, "max_tokens": 9, "logprobs": True, "top_logprobs": 4}
    with Ensemble.load(spec) as ensemble:
        method = {"gate": "confidence:0.6"} if model == "gated" else {}
        expected = ensemble.generate(messages=SAY, max_new_tokens=9, trace=True, **method)
    answer = served.client().chat.completions.create(**keys)
    [choice] = answer.choices
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert expected.steps is not None
    steps = [step for step in expected.steps if step.piece is not None]
    assert [bytes(entry.bytes or []) for entry in entries] == [step.piece for step in steps]
    for entry, step in zip(entries, steps, strict=True):
        assert entry.logprob == pytest.approx(math.log(step.p), abs=1e-3)
        assert len(entry.top_logprobs) == 4
        assert entry.top_logprobs[0].logprob == max(top.logprob for top in entry.top_logprobs)
        assert entry.top_logprobs[0].bytes == entry.bytes  # greedy: the likeliest was taken
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1 + 1e-5
    streamed = [
        entry
        for chunk in served.client().chat.completions.create(**keys, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == entries


def test_no_probabilities_without_being_asked_and_none_of_others_without_a_number(served: Served) -> None:
    plain = served.client().chat.completions.create(model="duo", messages=SAY, max_tokens=3)
    assert plain.choices[0].logprobs is None
    bare = served.client().chat.completions.create(model="duo", messages=SAY, max_tokens=3, logprobs=True)
    assert bare.choices[0].logprobs is not None
    assert [entry.top_logprobs for entry in bare.choices[0].logprobs.content or []] == [[], [], []]


def test_completions_continue_text_one_or_many(served: Served, duo: Ensemble) -> None:
    prompts = ["the cat", " the dog", "Hello"]
    expected = [duo.generate(prompt, max_new_tokens=10) for prompt in prompts]
    answer = served.client().completions.create(model="duo", prompt=prompts, max_tokens=10, echo=True)
    assert answer.object == "text_completion"
    assert [choice.text for choice in answer.choices] == [
        prompt + generation.text for prompt, generation in zip(prompts, expected, strict=True)
    ]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(generation.usage.prompt_tokens["a"] for generation in expected)
    assert answer.usage.completion_tokens == sum(generation.usage.pieces for generation in expected)
    texts: dict[int, str] = defaultdict(str)
    for chunk in served.client().completions.create(model="duo", prompt=prompts, max_tokens=10, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert [texts[index] for index in range(3)] == [generation.text for generation in expected]


def test_completions_have_probabilities_in_the_old_form(served: Served) -> None:
    keys: dict[str, Any] = {"model": "duo", "prompt": "日本", "max_tokens": 12, "logprobs": 2}
    answer = served.client().completions.create(**keys)
    [choice] = answer.choices
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.text_offset is not None
    assert found.top_logprobs is not None
    assert (
        len(found.tokens) == len(found.token_logprobs or []) == len(found.text_offset) == len(found.top_logprobs) == 12
    )
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert token.startswith("bytes:") or choice.text[offset:].startswith(token)
    assert all(len(top) == 2 for top in found.top_logprobs)
    streamed = [chunk.choices[0].logprobs for chunk in served.client().completions.create(**keys, stream=True)]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        parts = [getattr(logprobs, name) for logprobs in streamed if logprobs]
        assert list(itertools.chain.from_iterable(parts)) == getattr(found, name)


def test_a_bias_on_ids_acts_on_the_unions_columns_or_on_a_members_own_tokens(served: Served) -> None:
    for model in ("duo", "duo/a", "duo/b"):
        [piece] = served.post("/v1/pieces", {"model": model, "text": "q"}).json()["data"]
        assert (piece["text"], piece["bytes"]) == ("q", [113])
        answer = served.client().chat.completions.create(
            model=model, messages=SAY, max_tokens=4, logit_bias={str(piece["id"]): 100}
        )
        assert answer.choices[0].message.content == "qqqq"
        ends = served.post("/v1/pieces", {"model": model, "text": ""}).json()["end"]
        ended = served.client().chat.completions.create(
            model=model, messages=SAY, logit_bias={str(end): 100 for end in ends}
        )
        assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == ("", "stop")
    service = served.service
    token = service.engines["duo/b"].members[0].map.id_U
    assert service.engines["duo"].union.size != len(token)


def test_a_trace_tells_who_voted_with_what_mass(served: Served, duo: Ensemble) -> None:
    expected = alone(duo, SAY, 8, trace=True, gate="confidence:0.6")
    assert expected.steps is not None
    keys: dict[str, Any] = {
        "model": "gated",
        "messages": SAY,
        "max_tokens": 8,
        "extra_body": {"unisono": {"trace": True}},
    }
    answer = served.client().chat.completions.create(**keys)
    traces = [answer.unisono["choices"][0]["trace"]]  # type: ignore[attr-defined]
    chunks = list(served.client().chat.completions.create(**keys, stream=True))
    reports = [report for chunk in chunks for report in (getattr(chunk, "unisono", None) or {"choices": []})["choices"]]
    traces.append([step for report in reports for step in report.get("trace") or []])
    assert reports[-1]["usage"]["pieces"] == expected.usage.pieces
    for trace in traces:
        for step, record in zip(trace, expected.steps, strict=True):
            assert step["bytes"] == list(record.piece or b"")
            assert step["voted"] == list(record.voted)
            assert step["members"] == pytest.approx(dict(record.members), rel=1e-3)
            assert step["gate"]["asked"] == (len(record.voted) == 2)


def test_models_are_listed_and_each_answers_for_itself(served: Served) -> None:
    names = [model.id for model in served.client().models.list()]
    assert names == ["duo", "gated", "duo/a", "duo/b", "gated/a", "gated/b"]
    assert served.client().models.retrieve("duo/a").id == "duo/a"
    for name, member in (("duo/a", A), ("duo/b", B)):
        with Ensemble.load({"members": [member]}) as ensemble:
            expected = ensemble.generate(messages=SAY, max_new_tokens=10).text
        answer = served.client().chat.completions.create(model=name, messages=SAY, max_tokens=10)
        assert answer.choices[0].message.content == expected


def test_messages_in_parts_and_a_developer_are_read_as_text_and_system(served: Served) -> None:
    one: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the cat"}]
    parts: list[Any] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "the cat"}], "name": None},
    ]
    ask = served.client().chat.completions.create
    texts = [ask(model="duo", messages=messages, max_tokens=9).choices[0].message.content for messages in (one, parts)]
    assert texts[0] == texts[1]


def test_temperature_0_with_top_p_draws_nothing(served: Served, duo: Ensemble) -> None:
    expected = alone(duo, SAY, 9).text
    for keys in ({"temperature": 0, "top_p": 0.5}, {"top_p": 0.5}, {"temperature": 0, "top_p": 1}):
        answer = served.client().chat.completions.create(
            model="duo",
            messages=SAY,
            max_tokens=9,
            **keys,  # type: ignore[call-overload]
        )
        assert answer.choices[0].message.content == expected


def test_seeds_may_be_negative_as_openai_has_them(served: Served) -> None:
    keys: dict[str, Any] = {"model": "duo", "messages": SAY, "max_tokens": 3, "temperature": 1}
    answer = served.client().chat.completions.create(**keys, seed=-2)  # -1 stands for none
    assert answer.unisono["choices"][0]["seed"] == 2**64 - 2  # type: ignore[attr-defined]


def test_metrics_count_what_was_done(served: Served) -> None:
    before = {
        name: served.metric(name) for name in ("unisono_pieces_total", "unisono_time_to_first_token_seconds_count")
    }
    served.client().chat.completions.create(model="duo", messages=say("qzx"), max_tokens=7, n=2, temperature=0)
    page = served.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert served.metric("unisono_pieces_total") == before["unisono_pieces_total"] + 14
    assert (
        served.metric("unisono_time_to_first_token_seconds_count")
        == before["unisono_time_to_first_token_seconds_count"] + 1
    )
    for name in ("requests_total", "requests_running", "requests_waiting", "batch_size_count", "ready"):
        assert f"\nunisono_{name}" in page.text
    for name in (
        "time_between_pieces_seconds",
        "pieces_ensembled_total",
        "pieces_accepted_total",
        "member_seconds_total",
    ):
        assert f"\nunisono_{name}" in page.text
    assert 'member="b"' in page.text
    assert "qzx" not in page.text
    assert served.metric("unisono_requests_running") == 0
