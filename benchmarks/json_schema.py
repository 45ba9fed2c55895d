"""A hundred answers of the demo pair, each bound to a JSON schema: how many validate, and what the mask costs a step.

    .venv/bin/python benchmarks/json_schema.py [--count 100] [--batch 8] [--answers FILE]

The figures are printed as JSON. Schemas are bounded, so that answers end: ten forms (nested objects, enumerations,
arrays, maps, numbers within bounds, patterns, formats, alternatives), each for ten subjects, some of them not ASCII.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema

from unisono import Ensemble, Generation, Limits, Prompt, Request, load_spec
from unisono.chat.messages import Message

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "duo.yaml"
SUBJECTS = (
    "a lighthouse keeper",
    "the city of São Paulo",
    "東京の駅",
    "a recipe for soup",
    "Ein Fahrrad für Kinder",
    "the planet Mars",
    "القاهرة",
    "a second-hand guitar 🎸",
    "un café à Lyon",
    "the novel «Война и мир»",
)
LONGEST = 320
THREADS = 1
"""Of every model: where other work is going on, two would wait for each other, and times would tell of that work."""
TIMED = 8
"""Answers that are written once more, one by one, with and without their schemas."""


class Task(NamedTuple):
    """One answer to be written."""

    id: str
    question: str
    schema: dict[str, Any]


def tasks() -> Iterator[Task]:
    """A hundred, all different."""
    for number, subject in enumerate(SUBJECTS):
        for form, schema in forms(subject, number).items():
            yield Task(f"{form} {number}", f"Describe {subject} as JSON with the form {form!r}.", schema)


def forms(subject: str, number: int) -> dict[str, dict[str, Any]]:
    """Ten schemas for one subject."""
    word = text(20 + number)
    return {
        "card": closed(name=word, subject={"const": subject}, score=whole(0, 10 + number)),
        "choice": closed(subject={"enum": [subject, "something else", "日本", 3, None]}, sure={"type": "boolean"}),
        "list": closed(items=array(word, 1, 3), total=whole(1, 3 + number)),
        "nested": closed(
            what=closed(name=word, where=closed(place=text(16), floor=whole(-2, 9 + number))), ok={"const": True}
        ),
        "rows": closed(
            rows=array(closed(key=text(8), value=whole(0, 990 + number)), 1, 2), unit={"enum": ["kg", "m²", "°C"]}
        ),
        "pattern": closed(code=matching(f"^[A-Z]{{2}}-\\d{{{1 + number % 4}}}$"), note=text(16 + number)),
        "format": closed(
            day={"type": "string", "format": "date"},
            year=whole(1900, 2000 + number),
            id={"type": "string", "format": "uuid"},
        ),
        "either": closed(value={"anyOf": [whole(100, 199), array({"type": "boolean"}, 2, 2), closed(text=word)]}),
        "optional": {**closed(Größe=number_of(0, 2.5 + number), 名前=word, ünï=text(6)), "required": ["名前"]},
        "shared": {
            **closed(first={"$ref": "#/$defs/point"}, second={"$ref": "#/$defs/point"}),
            "$defs": {"point": closed(x=whole(0, 90 + number), y=whole(0, 99), label=text(10))},
        },
    }


def closed(**properties: Any) -> dict[str, Any]:
    """An object of just these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def text(longest: int) -> dict[str, Any]:
    """A string that is not empty."""
    return {"type": "string", "minLength": 1, "maxLength": longest}


def matching(pattern: str) -> dict[str, Any]:
    """A string that a pattern matches."""
    return {"type": "string", "pattern": pattern}


def whole(least: int, most: int) -> dict[str, Any]:
    """A whole number."""
    return {"type": "integer", "minimum": least, "maximum": most}


def number_of(least: float, most: float) -> dict[str, Any]:
    """A number of few digits."""
    return {"type": "number", "minimum": least, "maximum": most, "multipleOf": 0.5}


def array(items: dict[str, Any], least: int, most: int) -> dict[str, Any]:
    """So many of something."""
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def problem(generation: Generation, schema: dict[str, Any]) -> str | None:
    """What is wrong with an answer."""
    if generation.finish_reason != "end":
        return f"ended by {generation.finish_reason}"
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(generation.data))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def count(ensemble: Ensemble, wanted: list[Task], answers: Path | None) -> dict[str, Any]:
    """Write all answers; say how many parse and validate."""
    by_id = {task.id: task for task in wanted}
    requests = [
        Request(task.id, prompt(task), Limits(LONGEST), constraint={"json_schema": task.schema}) for task in wanted
    ]
    problems: dict[str, str] = {}
    pieces, began, lines = 0, time.perf_counter(), []
    for request, result in ensemble.generate_batch(requests):
        if isinstance(result, Generation):
            wrong, pieces = problem(result, by_id[request.id].schema), pieces + result.usage.pieces
            lines.append({"id": request.id, "text": result.text, "problem": wrong})
        else:
            wrong = str(result)
        if wrong is not None:
            problems[request.id] = wrong
        print(f"{request.id}: {wrong or 'valid'}", file=sys.stderr, flush=True)
    if answers is not None:
        answers.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return {
        "answers": len(wanted),
        "valid": len(wanted) - len(problems),
        "problems": problems,
        "pieces": pieces,
        "seconds": round(time.perf_counter() - began, 1),
    }


def cost(ensemble: Ensemble, wanted: list[Task]) -> dict[str, Any]:
    """The time of a step that is not the members', in ms: bound, and free to the same number of pieces."""
    spent: dict[str, list[float]] = {"bound": [], "free": []}
    for task in wanted:
        conversation = prompt(task).messages
        bound = {"json_schema": task.schema}
        made = ensemble.generate(messages=conversation, max_new_tokens=LONGEST, constraint=bound, trace=True)
        free = ensemble.generate(messages=conversation, max_new_tokens=max(2, made.usage.pieces), trace=True)
        for name, generation in (("bound", made), ("free", free)):
            steps = [step.seconds for step in generation.steps or () if step.seconds is not None]
            spent[name] += [1e3 * (step.total - sum(step.members.values())) for step in steps[1:]]
    return {
        name: {"median_ms": round(statistics.median(times), 3), "steps": len(times)} for name, times in spent.items()
    }


def prompt(task: Task) -> Prompt:
    """The question as a conversation."""
    return Prompt(messages=(Message(role="user", content=task.question),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--answers", type=Path)
    given = parser.parse_args()
    wanted = list(tasks())[:: max(1, 100 // given.count)][: given.count]
    spec = load_spec(EXAMPLE)
    spec = spec.model_copy(
        update={"members": [member.model_copy(update={"threads": THREADS}) for member in spec.members]}
    )
    with Ensemble.load(spec, batch=given.batch) as ensemble:
        began = time.perf_counter()
        ensemble.prepared.check_constraint("json_object")
        found: dict[str, Any] = {"first_grammar_seconds": round(time.perf_counter() - began, 2)}
        found |= count(ensemble, wanted, given.answers)
        found["beside_the_members"] = cost(ensemble, wanted[:TIMED])
    print(json.dumps({"machine": platform.processor() or platform.machine(), **found}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
