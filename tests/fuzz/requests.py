"""Strategies of what clients send: fields, constraints, schemas, and bytes that are hardly HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from fuzz.case import Case, Part
from fuzz.mutations import VALUES, Draw, as_json, mutated_bytes, mutated_json, mutated_text, words
from unisono.server.field_tables import OF_CHATS, OF_COMPLETIONS, OF_MESSAGES, OF_RESPONSES, OF_TOKENS
from unisono.server.fields import NAMES_OF_ONE
from unisono.server.gac import GENERATE, GacRequest
from unisono.server.responses_api.schemas import ResponseRequest
from unisono.server.schemas import ChatRequest, CompletionRequest, UnisonoOptions
from unisono.server.token_schemas import DetokenizeRequest, TokenizeRequest

MODELS = ("hf", "gguf", "mixed", "hf/a", "gguf/a", "mixed/b", "duo", "")
CHAT, COMPLETE, PIECES = "/v1/chat/completions", "/v1/completions", "/v1/pieces"
RESPOND, TOKENIZE, DETOKENIZE = "/v1/responses", "/tokenize", "/detokenize"
HEAD = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}{}\r\n\r\n"
ALIASES = [name for names in NAMES_OF_ONE for name in names]
FIELDS = {
    CHAT: [*ChatRequest.model_fields, *OF_CHATS, *ALIASES],
    COMPLETE: [*CompletionRequest.model_fields, *OF_COMPLETIONS, *ALIASES],
    RESPOND: [*ResponseRequest.model_fields, *OF_RESPONSES, *ALIASES],
    PIECES: ["text"],
    TOKENIZE: [*TokenizeRequest.model_fields, *OF_TOKENS],
    DETOKENIZE: [*DetokenizeRequest.model_fields, *OF_TOKENS],
    GENERATE: list(GacRequest.model_fields),
}
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 0}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": CITY}}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
MESSAGES: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Short."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    [
        {"role": "user", "content": "Sun?"},
        {"role": "assistant", "content": None, "tool_calls": [CALLED], "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "call_1", "content": "yes"},
    ],
]
ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Sun?"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Bern"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "yes"},
]
FORMAT: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}}
GOOD: Mapping[str, tuple[Any, ...]] = {
    "messages": tuple(MESSAGES),
    "prompt": ("Hello", ["a", "b"], [1, 2, 3], [[1, 2], [3]], "é" * 30, "a" * 2_000),
    "text": ("Hello", "a" * 3_000, "</s>é\u0000", {"format": FORMAT["json_schema"] | {"type": "json_schema"}}),
    "input": ("Hello", MESSAGES[1], ITEMS, ITEMS[2:]),
    "instructions": ("Short.",),
    "previous_response_id": ("resp_1",),
    "include": (["message.output_text.logprobs"],),
    "tokens": ([1, 2, 3], []),
    "prefill": ("Hello", ["a", {"bytes": [195]}], [{"mark": "reasoning_begin"}], [{"bytes": None}]),
    "max_output_tokens": (1, 3, 9),
    "max_tokens": (1, 3, 9),
    "n": (1, 2, 3),
    "stream": (True, False),
    "stream_options": ({"include_usage": True},),
    "stop": ("a", ["a", "bc"], ""),
    "temperature": (0, 0.7, 1, 100),
    "top_p": (0, 0.3, 1),
    "top_k": (-1, 0, 1, 40),
    "min_p": (0, 0.1, 1),
    "typical_p": (0.1, 1),
    "seed": (0, -1, 7, 2**63),
    "logit_bias": ({"3": -100}, {"0": 100, "257": 5}, {}),
    "logprobs": (True, 3, 0),
    "top_logprobs": (0, 5, 20),
    "prompt_logprobs": (0, 3),
    "echo": (True,),
    "ignore_eos": (True,),
    "min_tokens": (0, 2, 9),
    "repetition_penalty": (0.5, 1.3),
    "presence_penalty": (-2, 1.5),
    "frequency_penalty": (-2, 1.5),
    "tools": ([TOOL], [TOOL, TOOL], []),
    "tool_choice": ("none", "auto", "required", {"type": "function", "function": {"name": "weather"}}),
    "response_format": (FORMAT, {"type": "json_object"}, {"type": "text"}),
    "json_schema": (CITY,),
    "guided_choice": (["yes", "no"],),
    "guided_json": (CITY, json.dumps(CITY)),
    "structured_outputs": ({"regex": "[ab]+"}, {"choice": ["a", "b"]}),
    "chat_template_kwargs": ({"enable_thinking": False}, {"documents": [{"text": "a"}]}),
    "reasoning_effort": ("none", "low", "high"),
    "reasoning": ({"effort": "low"}, {"max_tokens": 3}, {"enabled": False, "exclude": True}),
    "thinking": ({"type": "enabled", "budget_tokens": 4},),
    "thinking_token_budget": (-1, 0, 3),
    "unisono": (
        {"trace": True},
        {"combine": "product", "gate": "confidence:0.5", "lead": "a"},
        {"speculate": "ngram"},
        {"sampling": {"temperature": 1, "top_k": 3}},
        {"sampling": "beam:2"},
        {"constraint": {"regex": "[a-z]{2}"}},
        *({name: 1} for name in UnisonoOptions.model_fields),
    ),
    "messages_list": ([[{"role": "user", "content": "Hi"}]] * 2,),
    "apply_chat_template": (True, False),
    "until": (["a"],),
}
BASES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "hf", "messages": MESSAGES[0], "max_tokens": 3},
    COMPLETE: {"model": "hf", "prompt": "Hello", "max_tokens": 3},
    RESPOND: {"model": "hf", "input": "Hello", "max_output_tokens": 3},
    PIECES: {"model": "hf", "text": "Hello"},
    TOKENIZE: {"model": "hf", "prompt": "Hello"},
    DETOKENIZE: {"model": "hf", "tokens": [1, 2]},
    GENERATE: {"messages_list": [[{"role": "user", "content": "Hi"}]], "max_new_tokens": 2},
}
KEYS = [*OF_MESSAGES, "reasoning_content", "name", "tool_calls", "refusal", "cache_control", "strict", "index"]

LARKS = (
    'start: "a" b*\nb: /[a-z]+/ | "x" start?\n',
    'start: item ("," item)*\nitem: NUMBER | STRING\nNUMBER: /-?[0-9]+/\nSTRING: /"[^"]*"/\n%ignore " "\n',
    'start: %json {"type": "object", "properties": {"a": {"type": "integer"}}} | "none"\n',
    "start[max_tokens=5]: x{1,3}\nx[capture]: /(?s:.*)/ & ~/a/\n",
)
REGEXES = ("[a-z]+@[a-z]+\\.(com|org)", "(a|b){2,30}c?", "(?i:x)\\d{3}|\\p{L}+", "[^\\x00-\\x7f]*", "((ab)*|c+)*")
SCHEMAS: tuple[dict[str, Any], ...] = (
    CITY,
    {"type": "array", "items": {"anyOf": [{"type": "string", "pattern": "^a+$"}, {"enum": [1, None]}]}, "maxItems": 3},
    {"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
    {"type": "object", "patternProperties": {"^x": {"type": "number", "multipleOf": 0.1}}, "minProperties": 1},
    {"allOf": [{"type": "string", "format": "date-time"}, {"minLength": 2, "maxLength": 40}], "title": "t"},
    {"type": ["integer", "null"], "exclusiveMaximum": 10, "not": {"const": 3}, "default": 2},
)
ENDS = ("end", "end", "leave", "hold")


def post(path: str, body: bytes, *, last: bool = False) -> bytes:
    """A request, after which the server closes the connection if it is the ``last``."""
    head = HEAD.format(path, len(body), "\r\nConnection: close" if last else "")
    return head.encode() + body


def whole(target: str, path: str, body: Any) -> Case:
    """A request that has to be answered."""
    return Case(target, ("whole",), (("send", post(path, as_json(body), last=True)),))


@st.composite
def bodies(draw: Draw, path: str) -> dict[str, Any]:
    """A body with fields of all kinds, most of them as they should be."""
    body: dict[str, Any] = {**BASES[path]}
    if "model" in body:
        body["model"] = draw(st.sampled_from(MODELS))
    usual = [name for name in FIELDS[path] if name in GOOD]
    for name in draw(st.lists(st.sampled_from(usual) | st.sampled_from(FIELDS[path]), max_size=6)):
        good = st.sampled_from(GOOD[name]) if name in GOOD else VALUES
        body[name] = draw(good if draw(st.integers(0, 3)) else VALUES)
    return body


@st.composite
def requests(draw: Draw) -> Case:
    path = draw(st.sampled_from((*[CHAT, COMPLETE, RESPOND] * 2, PIECES, TOKENIZE, DETOKENIZE, GENERATE)))
    body = draw(bodies(path))
    if draw(st.booleans()):
        body = draw(mutated_json(body, (*KEYS, *FIELDS[path]), 2))
    return whole("request", path, body)


@st.composite
def grammars(draw: Draw) -> Case:
    kind, bases = draw(st.sampled_from((("lark", LARKS), ("regex", REGEXES))))
    source = draw(mutated_text(draw(st.sampled_from(bases)), words(kind)))
    body = {**BASES[COMPLETE], "model": draw(st.sampled_from(MODELS[:4])), "unisono": {"constraint": {kind: source}}}
    return whole("grammar", COMPLETE, body)


@st.composite
def schemas(draw: Draw) -> Case:
    schema = draw(mutated_json(draw(st.sampled_from(SCHEMAS)), words("schema")))
    body = {**BASES[CHAT], "model": draw(st.sampled_from(MODELS[:4]))}
    match draw(st.sampled_from(("format", "tools", "guided_json", "json_schema"))):
        case "format":
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        case "tools":
            body |= {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
            body["tool_choice"] = draw(st.sampled_from(("auto", "required")))
        case other:
            body[other] = schema
    return whole("schema", CHAT, body)


@st.composite
def wires(draw: Draw) -> Case:
    """Bytes that may be requests, in pieces, and how the client leaves."""
    data = b""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from((CHAT, COMPLETE, RESPOND, PIECES, TOKENIZE, GENERATE)))
        data += post(path, as_json(draw(bodies(path))))
        if draw(st.integers(0, 4)) == 0:
            data += b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    if draw(st.booleans()):
        head, blank, rest = data.partition(b"\r\n\r\n")
        data = draw(mutated_text(head.decode(), words("http"), 3)).encode("utf-8", "surrogatepass") + blank + rest
    if draw(st.booleans()):
        data = draw(mutated_bytes(data, 2_000))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    sent: list[Part] = [
        ("send", data[start:end]) for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end
    ]
    return Case("http", ("raw",), (*sent, (draw(st.sampled_from(ENDS)), None)))


TARGETS: dict[str, st.SearchStrategy[Case]] = {
    "request": requests(),
    "grammar": grammars(),
    "schema": schemas(),
    "http": wires(),
}
