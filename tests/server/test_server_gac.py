"""The endpoints of the GaC release, on a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from support.fakes import make_fakes
from support.real_server import DUO, Served, load_fakes, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.ensemble import Ensemble
from unisono.records import Limits
from unisono.server.gac import GacRequest, requests_of
from unisono.server.limits import ServerLimits
from unisono.server.schemas import MOST_STOPS

URL = "/api/generate/"
USER = {"role": "user", "content": "9.11 and 9.9, which is bigger?"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving(gac_model="duo", limits=ServerLimits(output=64, n=6)) as running:
        yield running
    FAKE_MODELS.clear()


def written(prompt: str | None = None, **keys: Any) -> str:
    make_fakes()
    with Ensemble.load(DUO["duo"]) as duo:
        return duo.generate(prompt, **keys).text


def test_the_status_is_ready_or_loading(served: Served) -> None:
    shown = served.get("/status")
    assert (shown.status_code, shown.json()) == (200, {"status": "ready"})
    loaded = threading.Event()
    make_fakes()
    with serving(gac_model="duo", load=lambda: loaded.wait(20) and load_fakes(DUO), await_ready=False) as loading:  # type: ignore[arg-type, return-value]
        shown = loading.get("/status")
        assert (shown.status_code, shown.json()) == (503, {"status": "loading"})
        refused = loading.post(URL, {"messages_list": [[USER]]})
        assert refused.status_code == 503
        assert "being loaded" in refused.json()["detail"]
        loaded.set()


def test_without_a_template_the_message_is_raw_text(served: Served) -> None:
    expected = written("日本 é", max_new_tokens=50)
    for keys in ({}, {"apply_chat_template": False}, {"apply_chat_template": None}):
        shown = served.post(URL, {"messages_list": [[{"role": "user", "content": "日本 é"}]], **keys})
        assert shown.json() == {"response": [expected]}


def test_conversations_are_written_at_once_and_answered_in_order(served: Served) -> None:
    words = ["a", "the cat", "Hello", "日本", "cats and dogs"]
    body = {"messages_list": [[{"role": "user", "content": text}] for text in words], "max_new_tokens": 7}
    answer = served.post(URL, body)
    assert answer.json() == {"response": [written(text, max_new_tokens=7) for text in words]}
    served.free()


def test_stop_strings_end_a_text(served: Served) -> None:
    whole = written("Hello", max_new_tokens=30)
    shown = served.post(
        URL, {"messages_list": [[{"role": "user", "content": "Hello"}]], "max_new_tokens": 30, "until": [whole[3]]}
    )
    assert shown.json() == {"response": [whole[: whole.index(whole[3])]]}


def test_a_conversation_that_fails_ends_the_others(served: Served) -> None:
    texts = ("a", "x" * 9000, "b")
    shown = served.post(URL, {"messages_list": [[{"role": "user", "content": text}] for text in texts]})
    assert shown.status_code == 422
    assert "more than its context" in shown.json()["detail"]
    served.free()


def test_a_client_that_leaves_ends_the_work(served: Served) -> None:
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(served.url + URL, json={"messages_list": [[USER]] * 6, "max_new_tokens": 64}, timeout=0.02)
    served.free()


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
        ({"messages_list": [[USER]], "max_new_tokens": 65}, "65 pieces, and this server takes 64"),
        ({"messages_list": [[USER]] * 7}, "7 conversations, and this server takes 6"),
        ({"messages_list": [[USER]], "until": ["a", ""]}, "at least 1 character"),
        ({"messages_list": [[USER]], "until": ["\ud800"]}, "unicode"),
        ({"messages_list": [[USER]], "until": ["a"] * (MOST_STOPS + 1)}, f"at most {MOST_STOPS} items"),
    ],
)
def test_what_gac_ignores_or_cuts_is_refused_by_name(served: Served, body: dict[str, Any], words: str) -> None:
    shown = served.post(URL, body)
    assert shown.status_code == 422
    assert words in str(shown.json()["detail"])


def test_a_body_that_is_no_json_or_too_large_is_refused(served: Served) -> None:
    headers = {"content-type": "application/json"}
    shown = httpx2.post(served.url + URL, content=b"{", headers=headers)
    assert shown.status_code == 422
    assert "cannot be read as JSON" in shown.json()["detail"]
    large = json.dumps({"messages_list": [[{"role": "user", "content": "x" * 2**20}]]})
    assert httpx2.post(served.url + URL, content=large, headers=headers).status_code == 413


def test_without_the_flag_there_are_no_such_endpoints() -> None:
    make_fakes()
    with serving() as plain:
        assert plain.get("/status").status_code == 404
        assert plain.post(URL, {"messages_list": [[USER]]}).status_code == 404
        assert URL not in plain.get("/openapi.json").json()["paths"]


def test_what_a_request_means_is_told_without_a_server() -> None:
    body: dict[str, Any] = {"messages_list": [[USER], [USER]], "max_new_tokens": "64", "until": None}
    requests = requests_of(body, "duo", ServerLimits())
    assert [each.prompt for each in requests] == [Prompt(text=USER["content"])] * 2
    assert [each.limits for each in requests] == [Limits(64)] * 2
    turns = [{"role": "system", "content": "Be short."}, USER]
    [request] = requests_of({"messages_list": [turns], "apply_chat_template": True}, "duo", ServerLimits())
    assert request.prompt == Prompt(messages=turns)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        GacRequest.model_validate({"messages_list": [[{"role": "user", "content": ["parts"]}]]})


def test_the_openapi_document_names_each_status(served: Served) -> None:
    paths = served.get("/openapi.json").json()["paths"]
    assert set(paths["/status"]["get"]["responses"]) == {"200", "401", "403", "405", "503"}
    assert {"200", "413", "422", "429", "503", "504"} <= set(paths[URL]["post"]["responses"])
    assert "400" not in paths[URL]["post"]["responses"]


@pytest.mark.parametrize("path", ["/api/generate/", "/api/generate"])
def test_a_conversation_that_is_none_is_refused_in_gacs_words(served: Served, path: str) -> None:
    body = {"messages_list": [[{"role": "tool", "content": "x"}]], "apply_chat_template": True}
    response = served.post(path, body)
    assert response.status_code == 422, response.text
    assert "detail" in response.json()
    body = {"messages_list": [[{"role": "user", "content": "x"}]], "max_new_tokens": True}
    assert served.post(path, body).status_code == 422
