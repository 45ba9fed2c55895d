"""The endpoints of the GaC release, in front of a submit that is told what to write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError

from unisono.errors import DeviceError, NoRoom, PromptError, QueueFull, SpecError, TimedOut, UnisonoError
from unisono.server.gac import GacRequest, gac_router, limits_of, prompts_of
from unisono.types import Generation, Limits, Prompt, Seconds, Usage

URL = "/api/generate/"
USER = {"role": "user", "content": "9.11 and 9.9, which is bigger?"}


def generation(text: str) -> Generation:
    return Generation(text, text.encode(), "end", Usage({}, 1, 1), Seconds(0.0, 0.0, {}))


class Writer:
    """A submit that keeps what it was asked, and answers each prompt with its last words, reversed."""

    def __init__(self) -> None:
        self.asked: list[tuple[Prompt, Limits]] = []
        self.cancelled = 0
        self.failing: dict[str, UnisonoError] = {}
        self.ready = True

    async def submit(self, prompt: Prompt, limits: Limits) -> Generation:
        self.asked.append((prompt, limits))
        words = prompt.text if prompt.messages is None else prompt.messages[-1]["content"]
        assert words is not None
        if words in self.failing:
            raise self.failing[words]
        try:
            await asyncio.sleep(30 if words == "slow" else 0.02 / len(words))  # those asked last are done first
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return generation(words[::-1])


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def client(writer: Writer) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(gac_router(writer.submit, lambda: writer.ready))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


Post = Callable[..., Any]


@pytest.fixture
def post(client: TestClient) -> Post:
    def call(*conversations: list[dict[str, str]], **keys: Any) -> Any:
        return client.post(URL, json={"messages_list": list(conversations), **keys})

    return call


def test_the_status_is_ready_or_loading(client: TestClient, writer: Writer) -> None:
    shown = client.get("/status")
    assert (shown.status_code, shown.json()) == (200, {"status": "ready"})
    writer.ready = False
    shown = client.get("/status")
    assert (shown.status_code, shown.json()) == (503, {"status": "loading"})


def test_without_a_template_the_message_is_raw_text(post: Post, writer: Writer) -> None:
    for keys in ({}, {"apply_chat_template": False}, {"apply_chat_template": None}):
        assert post([{"role": "user", "content": "日本 é"}], **keys).json() == {"response": ["é 本日"]}
        assert writer.asked.pop() == (Prompt(text="日本 é"), Limits(50))


def test_with_a_template_a_conversation_is_answered(post: Post, writer: Writer) -> None:
    turns = [{"role": "system", "content": "Be short."}, USER, {"role": "assistant", "content": "9.9"}, USER]
    shown = post(turns, apply_chat_template=True, max_new_tokens=7, until=["\n", "Q:"])
    assert shown.json() == {"response": [USER["content"][::-1]]}
    assert writer.asked == [(Prompt(messages=turns), Limits(7, ("\n", "Q:")))]


def test_conversations_are_written_at_once_and_answered_in_order(post: Post, writer: Writer) -> None:
    words = ["a", "bc", "def", "ghij" * 9]
    shown = post(*([{"role": "user", "content": text}] for text in words))
    assert shown.json() == {"response": [text[::-1] for text in words]}
    assert [prompt.text for prompt, _ in writer.asked] == words


def test_a_conversation_that_fails_ends_the_others(post: Post, writer: Writer) -> None:
    writer.failing["bad"] = PromptError("it is too long", hint="shorten it")
    shown = post(*([{"role": "user", "content": text}] for text in ("slow", "bad", "slow")))
    assert (shown.status_code, shown.json()) == (422, {"detail": "messages_list[1]: it is too long; shorten it"})
    assert writer.cancelled == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SpecError("x"), 422),
        (PromptError("x"), 422),
        (QueueFull("x"), 429),
        (NoRoom("x"), 503),
        (TimedOut("x"), 504),
        (DeviceError("x"), 500),
        (UnisonoError("x"), 500),
    ],
)
def test_errors_have_a_status_by_kind(post: Post, writer: Writer, error: UnisonoError, status: int) -> None:
    writer.failing["bad"] = error
    shown = post([{"role": "user", "content": "bad"}])
    assert (shown.status_code, shown.json()) == (status, {"detail": "messages_list[0]: x"})
    assert ("retry-after" in shown.headers) == (status == 429)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "messages_list"),
        ({"messages_list": []}, "at least 1 item"),
        ({"messages_list": [[]]}, "at least 1 item"),
        ({"messages_list": [[{"role": "user"}]]}, "content"),
        ({"messages_list": [[{**USER, "name": "Ann"}]], "apply_chat_template": True}, "name"),
        ({"messages_list": [[USER, USER]]}, "messages_list[0] has 2 messages"),
        ({"messages_list": [[USER]], "temperature": 0.7}, "temperature"),
        ({"messages_list": [[USER]], "max_length": 100}, "give max_new_tokens"),
        ({"messages_list": [[USER]], "max_new_tokens": None}, "max_new_tokens"),
        ({"messages_list": [[USER]], "max_new_tokens": 0}, "greater than or equal to 1"),
        ({"messages_list": [[USER]], "until": ["a", ""]}, "at least 1 character"),
        ({"messages_list": [[USER]], "until": ["\ud800"]}, "unicode"),
    ],
)
def test_what_gac_ignores_or_cuts_is_refused_by_name(
    client: TestClient, writer: Writer, body: dict[str, Any], words: str
) -> None:
    shown = client.post(URL, content=json.dumps(body), headers={"content-type": "application/json"})
    assert shown.status_code == 422
    assert words in str(shown.json()["detail"])
    assert writer.asked == []


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    shown = client.post(URL, content=b"{", headers={"content-type": "application/json"})
    assert shown.status_code == 422
    assert shown.json()["detail"][0]["type"] == "json_invalid"


def test_errors_are_worded_alike_in_an_app_that_words_its_own_otherwise(writer: Writer) -> None:
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    app = FastAPI()
    app.include_router(gac_router(writer.submit))

    @app.exception_handler(RequestValidationError)
    async def other(request: Any, error: Any) -> JSONResponse:
        return JSONResponse({"error": "otherwise"}, 400)

    with TestClient(app) as client:
        assert client.post(URL, json={}).json()["detail"][0]["loc"] == ["body", "messages_list"]


def test_what_a_request_means_is_told_without_a_server() -> None:
    request = GacRequest.model_validate({"messages_list": [[USER], [USER]], "max_new_tokens": "64", "until": None})
    assert prompts_of(request) == [Prompt(text=USER["content"])] * 2
    assert limits_of(request) == Limits(64)
    with pytest.raises(ValidationError):
        GacRequest.model_validate({"messages_list": [[{"role": "user", "content": ["parts"]}]]})


def test_the_openapi_document_names_each_status(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths["/status"]["get"]["responses"]) == {"200", "503"}
    assert set(paths[URL]["post"]["responses"]) == {"200", "422", "429", "500", "503", "504"}
