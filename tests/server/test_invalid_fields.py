"""What is wrong in a body is told in plain words, about the value that is wrong, whatever a client has written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from unisono.server.body import read_record
from unisono.server.errors import Refusal
from unisono.server.field_tables import OF_CHATS, OF_COMPLETIONS, OF_MESSAGES
from unisono.server.messages import KEYS, read_messages
from unisono.server.schemas import ROLES, ChatRequest, CompletionRequest
from unisono.server.unserved import way_out

SAY = [{"role": "user", "content": "x"}]
CHAT: dict[str, Any] = {"model": "duo", "messages": SAY}
COMPLETION: dict[str, Any] = {"model": "duo", "prompt": "x"}
RECORDS = ((ChatRequest, OF_CHATS, CHAT), (CompletionRequest, OF_COMPLETIONS, COMPLETION))
ODD = (True, 5, -7, 2.5, 10**30, "x", "", "\ud800", [], [1], [None], [{}], {}, {"type": "json"}, {"a": None}, [[]])
"""Values, most of which each field refuses."""
OF_A_LIBRARY = re.compile(
    r"\b[Ii]nput\b|valid |should|pydantic|validat|iterable|\b(None|True|False|dict|NoneType|str)\b|\{'"
)
INSIDE = {
    "unisono": ("lead", "combine", "gate", "speculate", "sampling", "constraint", "trace", "reasoning"),
    "stream_options": ("include_usage",),
    "reasoning": ("effort", "max_tokens"),
    "thinking": ("type", "budget_tokens"),
    "response_format": ("type", "json_schema", "schema"),
    "tool_choice": ("type", "function", "allowed_tools"),
}


def malformed() -> Iterator[tuple[Any, Any, dict[str, Any], str]]:
    for record, table, given in RECORDS:
        for name in (*record.model_fields, *table):
            for value in ODD:
                yield record, table, {**given, name: value}, name
                for key in INSIDE.get(name, ()):
                    yield record, table, {**given, name: {key: value}}, name


def refusal(work: Callable[[], object]) -> Refusal | None:
    try:
        work()
    except Refusal as refused:
        return refused
    return None


def test_no_words_or_spellings_of_python_reach_a_client() -> None:
    count = 0
    for record, table, body, name in malformed():
        if (refused := refusal(partial(read_record, record, body, table))) is not None:
            count += 1
            assert not OF_A_LIBRARY.search(refused.message), refused.message
            assert refused.param is not None, body
            assert name in refused.message or name in NAMED_BY_ANOTHER, refused.message
    assert count > 500


NAMED_BY_ANOTHER = ("functions", "function_call", "best_of")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("key", ["role", *KEYS, *OF_MESSAGES])
def test_a_message_is_named_as_the_request_has_it(role: str, key: str) -> None:
    for value in (None, *ODD):
        message = {"role": role, "content": "x", key: value}
        if role == "tool":
            message = {"tool_call_id": "1", **message}
        if (refused := refusal(partial(read_messages, [*SAY, message]))) is not None:
            assert not OF_A_LIBRARY.search(refused.message), refused.message
            assert "messages[1]" in refused.message, refused.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({**COMPLETION, "prompt": [1.0, 2.5]}, "prompt[1] is 2.5: it must be a whole number"),
        ({**COMPLETION, "prompt": ["a", 1]}, "prompt[1] is 1: it must be text"),
        ({**COMPLETION, "prompt": [[1], [2, "a"]]}, "prompt[1][1] is 'a': it must be a whole number"),
        ({**COMPLETION, "prompt": 5}, "prompt is 5: it must be text or a list"),
        ({**COMPLETION, "prompt": [""]}, "prompt[0] is '': it must not be empty"),
        ({**COMPLETION, "logprobs": True}, "logprobs is true: it must be a whole number, that of the most likely"),
        ({**CHAT, "logprobs": 5}, "logprobs is 5: it must be true or false; top_logprobs says how many"),
        (
            {**CHAT, "response_format": {"type": "jsn_object"}},
            "response_format.type is 'jsn_object': it must be 'text', 'json_object', 'json_schema', 'regex'; did",
        ),
        ({**CHAT, "response_format": {"strict": True}}, "the field 'response_format.type' is missing"),
        ({**CHAT, "reasoning_effort": "hgih"}, "did you mean 'high'?"),
        ({**CHAT, "top_p": 1.5}, "top_p is 1.5: it must be 1 or less"),
        ({**CHAT, "stop": [1, 2]}, "stop[0] is 1: it must be text"),
        ({"model": "duo", "prompt": "x"}, "prompt is for /v1/completions, and /v1/chat/completions takes messages"),
    ],
)
def test_the_value_that_is_wrong_is_named_with_what_it_must_be(body: dict[str, Any], words: str) -> None:
    record, table, _ = RECORDS[0] if "messages" in body or words.startswith("prompt is for") else RECORDS[1]
    with pytest.raises(Refusal, match="^.*" + re.escape(words)):
        read_record(record, body, table)


def test_a_completion_that_is_given_messages_names_chats() -> None:
    with pytest.raises(Refusal, match="messages is for /v1/chat/completions, and /v1/completions takes prompt"):
        read_record(CompletionRequest, CHAT, OF_COMPLETIONS)


def test_whole_numbers_with_a_point_are_whole_numbers() -> None:
    body = {**COMPLETION, "prompt": [[1.0, 2], [3]], "stop_token_ids": [4.0], "unisono": {"max_pieces": 4.0}}
    read = read_record(CompletionRequest, body, OF_COMPLETIONS)
    assert read.prompt == [[1, 2], [3]]
    assert read.stop_token_ids == [4]
    assert read.unisono is not None
    assert read.unisono.max_pieces == 4


def test_a_strict_server_names_a_result_that_is_an_object_and_the_way_out() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    asked = [*SAY, {"role": "assistant", "content": None, "tool_calls": calls}]
    with pytest.raises(Refusal) as refused:
        read_messages([*asked, {"role": "tool", "tool_call_id": "1", "content": {"rain": True}}], strict=True)
    assert refused.value.param == "messages[2].content"
    assert refused.value.message.startswith(
        'messages[2].content is {"rain": true}: it must be text, such as the object as JSON'
    )


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/responses/resp_1/cancel", "use /v1/responses"),
        ("/v1/messages", "use /v1/chat/completions"),
        ("/v1/embeddings", "ensembles write text"),
        ("/embeddings", "ensembles write text"),
        ("/v1/engines/duo/completions", "/v1/models"),
        ("/api/chat", "Ollama's API is not served"),
        ("/api/generate", "--gac-api"),
        ("/v1/tokenize", "/v1/pieces"),
        ("/v1/files", "no files or threads are kept"),
        ("/completion", "/v1/completions"),
        ("/docs", "/openapi.json"),
        ("/healthz", "/ready"),
        ("/v1beta/models/duo:generateContent", "/v1/models"),
        ("/v1", "the API is OpenAI's"),
        ("/", "the API is OpenAI's"),
        ("/v1/<script>", "the API is OpenAI's"),
    ],
)
def test_a_path_of_another_api_says_what_to_ask(path: str, words: str) -> None:
    assert words in way_out(path)
    assert "script" not in way_out(path)
