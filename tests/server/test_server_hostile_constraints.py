"""Constraints that are written to hurt: each is refused, in bounded time, and nobody else notices."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from unisono.backends.fake.backend import FAKE_MODELS

CHAIN = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(3000)) + '\nr3000: "a"\n'
LOOP = "start: r0\n" + "\n".join(f"r{i}: r{(i + 1) % 3000}" for i in range(3000)) + "\n"
RELEVANT = "start: X\nX: " + " & ".join(f"/(?s:.*)a.{{{i}}}b(?s:.*)/" for i in range(1, 25))
REFERENCES = {
    "$ref": "#/$defs/a0",
    "$defs": {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)} | {"a40": {"type": "string"}},
}
DEEP: Any = {"type": "string"}
for _ in range(90):
    DEEP = {"type": "array", "items": DEEP}

HOSTILE: dict[str, dict[str, Any]] = {
    "a chain of rules": {"lark": CHAIN},
    "a loop of rules": {"lark": LOOP},
    "open brackets": {"lark": "start: " + "[" * 60_000},
    "open parentheses": {"lark": "start: " + "(" * 60_000},
    "open quotes": {"lark": 'start: "' + '\\"' * 30_000},
    "open slashes": {"lark": "start: /" + "\\/" * 30_000},
    "schemas in schemas": {"lark": "start: " + '%json {"a": ' * 5_000},
    "terminals that are searched together": {"lark": RELEVANT},
    "repetitions of repetitions": {"regex": "(((a{1,999}){1,999}){1,999}){1,999}b" * 20},
    "alternatives in a regular expression": {"regex": "|".join(f"(x{i}.*){{2,50}}" for i in range(2000))},
    "groups in groups": {"regex": "(" * 20_000 + "a" + ")" * 20_000},
    "references that double": {"json_schema": REFERENCES},
    "arrays of arrays": {"json_schema": DEEP},
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving({"duo": {"members": [A, B]}}) as server:
        yield server
    FAKE_MODELS.clear()


def ask(served: Served, **keys: Any) -> httpx.Response:
    body = {"model": "duo", "messages": SAY, "max_tokens": 2, **keys}
    return httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_constraint_is_refused_or_kept_and_the_server_goes_on(served: Served, name: str) -> None:
    began = time.monotonic()
    answer = ask(served, unisono={"constraint": HOSTILE[name]})
    seconds = time.monotonic() - began
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["param"] == "unisono.constraint"
        assert len(answer.json()["error"]["message"]) < 1000
    assert seconds < 15  # about one second of processor time, on a busy machine
    assert ask(served).status_code == 200


def test_a_chain_of_rules_is_refused(served: Served) -> None:
    answer = ask(served, unisono={"constraint": {"lark": CHAIN}})
    assert answer.status_code == 400
    assert "too deep" in answer.json()["error"]["message"]


def test_good_constraints_are_kept_after_bad_ones_and_known_ones_are_not_tried_again(served: Served) -> None:
    for number in range(3):
        assert ask(served, unisono={"constraint": {"lark": CHAIN}}).status_code == 400
        schema = {"properties": {"a": {"const": number}}, "required": ["a"], "additionalProperties": False}
        answer = ask(served, max_tokens=100, unisono={"constraint": {"json_schema": {"type": "object", **schema}}})
        assert json.loads(answer.json()["choices"][0]["message"]["content"])["a"] == number
    trials = served.engine._preparer._trials
    [trial] = [trial for trial in trials._trials.values() if trial._process is not None][:1]
    before = trial._process
    ask(served, unisono={"constraint": {"json_schema": {"type": "object", **schema}}})
    assert trial._process is before


def test_tools_are_tried_too(served: Served) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": DEEP}}}}
    answer = ask(served, tools=[tool], tool_choice="required")
    assert answer.status_code in (200, 400)
    assert ask(served).status_code == 200


def test_nobody_waits_for_a_hostile_client(served: Served) -> None:
    """The bystander's median beside hostile clients is a small multiple of what it is alone."""

    def seconds_of(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            began = time.monotonic()
            assert ask(served).status_code == 200
            taken.append(time.monotonic() - began)
        return taken

    alone = statistics.median(seconds_of(20))
    stop = threading.Event()

    def attack() -> None:
        number = random.Random(0)
        while not stop.is_set():
            ask(served, unisono={"constraint": {"lark": f"// {number.random()}\n{RELEVANT}"}})

    threads = [threading.Thread(target=attack) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        beside = statistics.median(seconds_of(20))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert beside < 10 * alone + 0.25
