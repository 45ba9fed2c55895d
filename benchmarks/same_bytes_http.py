"""The cases of `unisono serve`: answers whole and streamed, tools, errors, the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from same_bytes_cases import Case, Json, Workplace

TOOLS_TEMPLATE = (
    "{%- if tools %}<|system|>Call these:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif -%}"
    "{%- for m in messages -%}{%- if m.role == 'tool' %}<|user|>[answer {{ m.content }}]"
    "{%- elif m.role == 'assistant' and m.tool_calls %}<|assistant|>{% if m.content %}{{ m.content }}\n{% endif %}"
    "{% for c in m.tool_calls %}{% if not loop.first %}{{ '\\n' }}{% endif %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}{{ eos_token }}{% endfor -%}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SAY: list[Any] = [{"role": "user", "content": "the cat"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather somewhere.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Sofia", "日本"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PING = {"type": "function", "function": {"name": "ping"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Sofia"}}\n</tool_call>'
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
ANSWERED = [
    *SAY,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "one", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Sofia"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "one", "content": "rain"},
]
CHATS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "logprobs": {"logprobs": True, "top_logprobs": 3},
    "seed": {"temperature": 0.9, "top_p": 0.8, "seed": 5, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "n": {"n": 3, "temperature": 1, "seed": 2},
    "stop": {"stop": ["e", "a"], "max_tokens": 40},
    "member": {"model": "duo/{second}", "logprobs": True},
    "bias": {"logit_bias": {"100": 20, "9": -100}},
    "object": {"response_format": FORM, "max_tokens": 60},
    "trace": {"unisono": {"gate": "confidence:0.3", "trace": True, "lead": "{second}"}},
    "method": {"unisono": {"combine": "geometric weights:entropy", "draw": "0.8 seed:4", "boundary": True}},
    "beam": {"unisono": {"draw": "beam_width:3"}},
    "drafts": {"unisono": {"speculate": "{first}", "max_pieces": 3}},
    "bound": {"unisono": {"constraint": "regex:(la )+the"}, "max_tokens": 30},
    "parts": {
        "messages": [
            {"role": "developer", "content": "Brief."},
            {"role": "user", "content": [{"type": "text", "text": "日"}, {"type": "text", "text": "本?"}]},
        ]
    },
}
TOOLS: dict[str, dict[str, Any]] = {
    "required": {"tool_choice": "required"},
    "named": {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    "auto": {"max_tokens": 12},
    "none": {"tool_choice": "none", "max_tokens": 12},
    "found": {"unisono": {"constraint": {"lark": f"start: {json.dumps('Well. ' + CALL + ' So.')}"}}},
    "broken": {"unisono": {"constraint": {"lark": f"start: {json.dumps(CALL[:60])}"}}},
    "answered": {"messages": ANSWERED, "max_tokens": 12},
}
COMPLETIONS: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": "the cat sat"},
    "list": {"prompt": ["the cat", "日本", "on"], "max_tokens": 8},
    "echo": {"prompt": "the cat", "echo": True},
    "logprobs": {"prompt": "the cat", "logprobs": 2},
    "n": {"prompt": ["the cat", "on"], "n": 2, "temperature": 1, "seed": 3, "stop": "e"},
    "trace": {"prompt": "the cat", "unisono": {"trace": True}, "max_tokens": 6},
}
WRONG: tuple[dict[str, Any], ...] = (
    {"temprature": 1},
    {"temperature": "hot"},
    {"temperature": -1},
    {"top_p": 1.5},
    {"n": 0},
    {"n": 17},
    {"max_tokens": 0},
    {"max_tokens": 10**6},
    {"stop": ""},
    {"stop": ["x"] * 17},
    {"seed": 2**64},
    {"logit_bias": {"x": 1}},
    {"logit_bias": {"99999999": 1}},
    {"top_logprobs": 3},
    {"stream_options": {"include_usage": True}},
    {"stream": "yes"},
    {"messages": []},
    {"messages": [{"role": "usr", "content": "x"}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    {"messages": [{"role": "user", "content": "\ud800"}]},
    {"messages": [{"role": "user", "content": "cat " * 9000}]},
    {"model": "dou"},
    {"model": 3},
    {"response_format": {"type": "yaml"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wish"}}}},
    {"response_format": {"type": "json_object"}, "unisono": {"constraint": "regex:a"}},
    {"unisono": {"constraint": "regex:("}},
    {"unisono": {"gate": "confidence:2"}},
    {"unisono": {"gat": "x"}},
    {"unisono": {"combine": "mode"}},
    {"unisono": {"lead": "nobody"}},
    {"unisono": {"draw": "0.7 top_q:1"}},
    {"unisono": {"combine": "geometric", "draw": "one-member"}},
    {"n": 2, "unisono": {"draw": "beam_width:2"}},
    {"functions": []},
    {"store": True},
    {"reasoning_effort": "high"},
    {"tools": [PING, PING]},
    {"tools": [WEATHER], "tool_choice": "any"},
    {"tool_choice": "auto"},
)
BODIES = (b"", b"{", b"[1]", b"\xff", b'{"model": NaN}', b'{"model": "a", "model": "b"}', b'{"n": ' + b"[" * 20_000)


def fakes(work: Workplace) -> Iterator[Case]:
    """Fake members behind HTTP, all digits."""
    from same_bytes_fakes import SPECS, A, B

    duo = work.file("http/duo.yaml", {"members": [A, B]})
    tools = work.file("http/tools.yaml", {"members": [{**A, "chat_template": TOOLS_TEMPLATE}, B | _TOOLS]})
    drawn = work.file("http/drawn.yaml", SPECS["keys"])
    yield from _cases(work, (duo, tools, drawn), ("a", "b"), None, "fake-server", 16)


def demo(work: Workplace) -> Iterator[Case]:
    """The demo pair behind HTTP, through llama.cpp."""
    from same_bytes_demo import duo

    spec = duo("llamacpp", context=1024)
    knowing = [{**member, "chat_template": TOOLS_TEMPLATE} for member in spec["members"]]
    files = work.file("http/duo.yaml", spec), work.file("http/tools.yaml", {"members": knowing})
    yield from _cases(work, files, ("smol", "gemma"), 6, "demo-server", 12)


_TOOLS = {"chat_template": TOOLS_TEMPLATE}


def _cases(
    work: Workplace, files: tuple[Path, ...], members: tuple[str, str], digits: int | None, name: str, pieces: int
) -> Iterator[Case]:
    def address() -> str:
        return work.server(name, *files, "--batch", 4, "--gac-api", fakes=name == "fake-server")

    def case(title: str, ask: Callable[[str], Json], **keys: Any) -> Case:
        return Case(f"http.{title}", lambda: ask(address()), digits=digits, **keys)

    def filled(body: dict[str, Any]) -> Json:
        text = json.dumps(body).replace("{first}", members[0]).replace("{second}", members[1])
        return json.loads(text)

    for path in ("/v1/models", "/v1/models/duo", "/v1/models/dou", "/health", "/ready", "/status", "/v1/nothing"):
        yield case(f"get{path.replace('/', '-')}", lambda url, path=path: _get(url + path))
    yield case("openapi", lambda url: _structure(_get(url + "/openapi.json")), unordered=True)
    for number, text in enumerate(("the cat sat on 日本", "", "é\n<|user|>")):
        for model in ("duo", f"duo/{members[1]}"):
            body: dict[str, Any] = {"model": model, "text": text}
            title = f"pieces-{number}-{model.replace('/', '-')}"
            yield case(title, lambda url, body=body: _post(f"{url}/v1/pieces", body))
    kinds: tuple[tuple[str, dict[str, dict[str, Any]], dict[str, Any]], ...] = (
        ("chat", CHATS, {"model": "duo", "messages": SAY, "max_tokens": pieces}),
        ("tools", TOOLS, {"model": "tools", "messages": SAY, "tools": [PING, WEATHER], "max_tokens": 100}),
        ("completion", COMPLETIONS, {"model": "duo", "max_tokens": pieces}),
    )
    for kind, bodies, common in kinds:
        route = "/v1/completions" if kind == "completion" else "/v1/chat/completions"
        for title, change in bodies.items():
            body, drafts = filled({**common, **change}), title == "drafts"
            yield case(f"{kind}.{title}", lambda url, to=route, body=body: _post(url + to, body), drafts=drafts)
            if title not in ("bias", "beam", "parts", "named", "echo", "drafts"):
                stream = {**body, "stream": True, "stream_options": {"include_usage": title != "stop"}}
                told = f"{kind}.{title}-stream"
                yield case(told, lambda url, to=route, body=stream: _stream(url + to, body), drafts=drafts)
    for number, change in enumerate(WRONG):
        body = {"model": "duo", "messages": SAY, "max_tokens": 2, **change}
        title = f"wrong.{number:02}-{'-'.join(change)}"
        yield case(title, lambda url, body=body: _post(f"{url}/v1/chat/completions", body))
    for number, raw in enumerate(BODIES):
        yield case(f"wrong.body-{number}", lambda url, raw=raw: _send(f"{url}/v1/chat/completions", raw))
    for number, wrong in enumerate(({"prompt": [1, 2]}, {"prompt": ""}, {"prompt": "a", "best_of": 3}, {})):
        body = {"model": "duo", **wrong}  # type: ignore[dict-item]
        yield case(f"wrong.completion-{number}", lambda url, body=body: _post(f"{url}/v1/completions", body))
    gac: dict[str, Any] = {"messages_list": [[{"role": "user", "content": "the cat"}]], "max_new_tokens": 8}
    for number, more in enumerate(({}, {"apply_chat_template": True, "until": ["e"]}, {"max_length": 9})):
        body = {**gac, **more}  # type: ignore[dict-item]
        yield case(f"gac.{number}", lambda url, body=body: _post(f"{url}/api/generate/", body))
    yield case("client.chat", lambda url: _client(url, "chat", pieces))
    yield case("client.stream", lambda url: _client(url, "stream", pieces))
    yield case("client.completion", lambda url: _client(url, "completion", pieces))


def _get(url: str) -> Json:
    import httpx2

    return _told(httpx2.get(url, timeout=600))


def _post(url: str, body: Json) -> Json:
    return _send(url, json.dumps(body).encode())


def _send(url: str, content: bytes) -> Json:
    import httpx2

    return _told(httpx2.post(url, content=content, headers={"content-type": "application/json"}, timeout=600))


def _told(response: Any) -> Json:
    kind = response.headers.get("content-type")
    body = response.json() if kind and kind.startswith("application/json") else response.text
    return {"status": response.status_code, "type": kind, "retry": response.headers.get("retry-after"), "body": body}


def _stream(url: str, body: Json) -> Json:
    """The chunks of a stream, choice by choice: choices take turns as they please."""
    import httpx2

    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    with httpx2.stream("POST", url, content=content, headers=headers, timeout=600) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    chunks = [json.loads(line) if line.startswith("{") else line for line in lines]

    def place(chunk: Json) -> int:
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        return choices[0]["index"] if choices else 99

    return {
        "status": response.status_code,
        "type": response.headers.get("content-type"),
        "chunks": sorted(chunks, key=place),
    }


def _client(url: str, kind: str, pieces: int) -> Json:
    from openai import OpenAI

    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client:
        if kind == "completion":
            return client.completions.create(model="duo", prompt="the cat", max_tokens=pieces, logprobs=1).model_dump()
        if kind == "chat":
            found = client.chat.completions.create(model="duo", messages=SAY, max_tokens=pieces, logprobs=True)
            return found.model_dump()
        chunks = client.chat.completions.create(model="duo", messages=SAY, max_tokens=pieces, stream=True)
        return [chunk.model_dump() for chunk in chunks]


def _structure(value: Json, named: bool = False) -> Json:
    """An OpenAPI document without its prose; below `properties`, keys are names and no prose."""
    if isinstance(value, dict):
        prose = () if named else ("description", "summary", "title", "example", "examples")
        return {key: _structure(each, key == "properties") for key, each in value.items() if key not in prose}
    return [_structure(each) for each in value] if isinstance(value, list) else value
