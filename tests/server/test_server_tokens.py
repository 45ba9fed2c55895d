"""The tokens of a member alone: `/tokenize` and `/detokenize`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import make_fakes
from support.real_server import SAY, Served, ask, serving
from unisono.backends.fake.backend import FAKE_MODELS


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving() as server:
        yield server
    FAKE_MODELS.clear()


def post(served: Served, path: str, status: int = 200, **body: Any) -> Any:
    response = served.post(path, body)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize("name", ["duo/a", "duo/b"])
def test_tokens_of_a_text_are_a_prompt_and_its_text_again(served: Served, name: str) -> None:
    text = "the cat 日本 🎉"
    found = post(served, "/tokenize", model=name, prompt=text, return_token_strs=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    bare = post(served, "/tokenize/", model=name, prompt=text, add_special_tokens=False)["tokens"]
    assert post(served, "/detokenize", model=name, tokens=bare)["prompt"] == text
    assert post(served, "/detokenize", model=name, tokens=[float(token) for token in bare])["prompt"] == text
    asked = {"model": name, "max_tokens": 5}
    by_ids = served.post("/v1/completions", {**asked, "prompt": found["tokens"]}).json()["choices"]
    assert by_ids == served.post("/v1/completions", {**asked, "prompt": text}).json()["choices"]
    assert post(served, "/tokenize", model=name, prompt="")["tokens"] == []


def test_tokens_of_a_conversation_are_what_the_member_reads(served: Served) -> None:
    found = post(served, "/tokenize", model="duo/a", messages=SAY, add_generation_prompt=True)
    assert found["count"] == ask(served, model="duo/a")["usage"]["prompt_tokens"]
    assert "user" in post(served, "/detokenize", model="duo/a", tokens=found["tokens"])["prompt"]
    assert post(served, "/tokenize", model="duo/a", messages=SAY, add_special_tokens=False) == found  # vLLM's default


@pytest.mark.parametrize(
    ("last", "fields"),
    [
        ({}, {"continue_final_message": True, "add_generation_prompt": False}),
        ({"prefix": True}, {}),
    ],
)
def test_tokens_of_a_message_that_is_continued_are_what_the_member_reads(
    served: Served, last: dict[str, Any], fields: dict[str, Any]
) -> None:
    messages = [*SAY, {"role": "assistant", "content": "the dog", **last}]
    found = post(served, "/tokenize", model="duo/a", messages=messages, **fields)
    assert found["count"] == ask(served, model="duo/a", messages=messages, **fields)["usage"]["prompt_tokens"]
    assert post(served, "/detokenize", model="duo/a", tokens=found["tokens"])["prompt"].endswith("the dog")


def test_tokens_are_counted_beyond_the_context_and_the_limit_of_values(served: Served) -> None:
    text = "the cat " * 3000
    found = post(served, "/tokenize", model="duo/a", prompt=text)
    assert found["count"] > found["max_model_len"]
    asked = {"model": "duo/a", "prompt": text, "max_tokens": 1}
    assert served.post("/v1/completions", asked).json()["error"]["code"] == "context_length_exceeded"
    tokens = post(served, "/tokenize", model="duo/a", prompt=text, add_special_tokens=False)["tokens"] * 4
    assert len(tokens) > 10_000
    assert post(served, "/detokenize", model="duo/a", tokens=tokens)["prompt"] == text * 4


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"model": "duo", "prompt": "x"}, "model"),
        ("/detokenize", {"model": "duo", "tokens": [1]}, "model"),
        ("/tokenize", {"model": "duo/a"}, "prompt"),
        ("/tokenize", {"model": "duo/a", "prompt": "x", "messages": SAY}, "messages"),
        ("/tokenize", {"model": "duo/a", "prompt": "\ud800"}, "prompt"),
        ("/tokenize", {"model": "duo/a", "messages": [], "prompt": None}, "messages"),
        ("/tokenize", {"model": "duo/a", "messages": SAY, "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"model": "duo/a", "prompt": "x", "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"model": "duo/a", "messages": SAY, "add_generation_prompt": False}, "add_generation_prompt"),
        ("/detokenize", {"model": "duo/a", "tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"model": "duo/a", "tokens": [10**9]}, "tokens[0]"),
        ("/detokenize", {"model": "duo/a", "tokens": ["x"]}, "tokens[0]"),
        ("/detokenize", {"model": "duo/a"}, "tokens"),
    ],
)
def test_what_has_no_tokens_is_refused_by_name(served: Served, path: str, body: dict[str, Any], param: str) -> None:
    assert post(served, path, 400, **body)["error"]["param"] == param
