"""Constraints on the real demo pair: answers validate, and the fast engine writes what the plain loop writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from support.covering import ALL, some
from unisono.chat.messages import Message, Prompt
from unisono.engine.reference import plain_steps
from unisono.engine.request import Request
from unisono.ensemble import Ensemble
from unisono.records import Generation, Limits

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import json_schema as benchmark

pytestmark = pytest.mark.models

WANTED = some(list(benchmark.tasks())[::11], 2)
"""Each of another subject and another form."""


def test_answers_parse_and_validate_against_their_schemas(load_demo: Callable[..., Ensemble]) -> None:
    ensemble = load_demo(backend="llamacpp")
    schemas = {task.id: task.schema for task in WANTED}
    assert len(schemas) == len(WANTED)
    requests = [
        Request(task.id, benchmark.prompt(task), Limits(300), constraint={"json_schema": task.schema})
        for task in WANTED
    ]
    answers = {request.id: result for request, result in ensemble.generate_batch(requests)}
    for name, schema in schemas.items():
        answer = answers[name]
        assert isinstance(answer, Generation)
        assert answer.finish_reason == "end", (name, answer.text)
        jsonschema.Draft202012Validator(schema).validate(json.loads(answer.data))


PIECES = 12 if ALL else 8


def test_a_bound_answer_equals_the_plain_loops(load_demo: Callable[..., Ensemble]) -> None:
    """Where the members would write something else first: an answer in prose."""
    engine = load_demo(backend="transformers", dtype="float32")._engine
    prompt = Prompt(messages=(Message(role="user", content="Where is the Eiffel Tower?"),))
    schema = benchmark.closed(city=benchmark.text(12), ok={"type": "boolean"})
    bound = {"json_schema": schema}
    text = engine.add(prompt, Limits(PIECES), constraint=bound, trace=True)
    while text.finish is None:
        engine.step()
    parse = engine.prepare(Request("", prompt, constraint=bound)).parse
    plain = list(plain_steps(engine.members, engine.union, prompt, PIECES, parse=parse))
    assert [step.piece for step in text.steps or ()] == [step.piece for step in plain]
    assert [step.p for step in text.steps or ()] == pytest.approx([step.p for step in plain], abs=1e-4)
    assert min(step.p for step in plain) < 0.5
