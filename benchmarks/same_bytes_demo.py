"""The cases of the demo pair, SmolLM2 135M and Gemma 3 270M, through llama.cpp and transformers in float32."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from same_bytes_cases import Case, Json, Workplace, written

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}Answer: {{ m.content }}\n\n"
    "{% else %}Question: {{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)
BACKENDS = ("llamacpp", "transformers")
ASK = [{"role": "user", "content": "Name three rivers."}]
RAW = "The lighthouse keeper opened the door and"
PIECES = 16
DIGITS = 6
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
METHODS: dict[str, dict[str, Any]] = {
    "raw": {},
    "geometric": {"combine": "geometric truncate:20"},
    "max": {"combine": "max sharpen:0.2"},
    "entropy": {"combine": "mean weights:entropy"},
    "consistency": {"combine": "geometric weights:consistency"},
    "perplexity": {"combine": "mean weights:perplexity temperature:0.5"},
    "confidence": {"gate": "confidence:0.5", "lead": "gemma"},
    "margin": {"gate": "margin:0.2 boundary"},
    "gate-entropy": {"gate": "entropy:1.5"},
    "every": {"gate": "every:3 boundary", "lead": "gemma"},
    "first": {"gate": "first:4"},
    "seed": {"draw": "0.8 top_p:0.9 seed:1"},
    "member-seed": {"draw": "1 member_temperature:0.7 member_top_k:20 seed:2"},
    "penalties": {"draw": "repetition_penalty:1.5 bias:%20lighthouse=-100"},
    "one-member": {"draw": "one-member seed:3"},
    "beam": {"draw": "beam_width:3", "max_new_tokens": 10},
    "draft": {"speculate": "smol:4"},
    "draft-seed": {"speculate": "smol:3", "draw": "0.8 top_k:20 seed:4"},
    "draft-gate": {"speculate": "ngram:4", "gate": "confidence:0.4"},
    "regex": {"constraint": "regex:[A-Z][a-z]{2,8}( and [A-Z][a-z]{2,8})?"},
    "schema": {"constraint": {"json_schema": SCHEMA}, "max_new_tokens": 30},
    "lark": {"constraint": {"lark": 'start: "rain" (" or " "snow")*\n'}, "gate": "every:2"},
    "piecewise": {"spelling": "piecewise"},
}


def duo(backend: str, **keys: Any) -> dict[str, Any]:
    """The demo pair through one backend."""
    common = {"backend": backend, **({"dtype": "float32"} if backend == "transformers" else {}), **keys}
    return {
        "members": [
            {"name": "smol", "model": "demo:smollm2-135m-instruct", **common},
            {"name": "gemma", "model": "demo:gemma3-270m", "chat_template": TEMPLATE, **common},
        ]
    }


def cases(work: Workplace) -> Iterator[Case]:
    """All cases of the demo pair through Python and the command line."""
    for backend in BACKENDS:
        yield from _python(work, backend)
    yield from _amateur(work)
    yield from _commands(work)
    for verb in ("run", "eval", "tune", "match", "report", "doctor", "bench", "serve", "models"):
        yield Case(f"cli.help-{verb}", lambda verb=verb: _flags(work, verb))


def _python(work: Workplace, backend: str) -> Iterator[Case]:
    spec = duo(backend, context=512)

    def case(name: str, *prompt: str, drafts: bool = False, **keys: Any) -> Case:
        say = {"max_new_tokens": PIECES, "trace": not drafts, **keys}  # numbers of a block follow its length
        return Case(
            f"{backend}.{name}", lambda: written(work.ensemble(backend, spec, batch=3), *prompt, **say), drafts, DIGITS
        )

    for name, keys in METHODS.items():
        yield case(name, RAW, drafts="speculate" in keys, **keys)
    yield case("chat", messages=ASK, stop="Question:")
    yield case("chat-gate", messages=ASK, gate="confidence:0.6", draw="0.7 seed:6")
    yield case("unicode", "Grüße aus 日本: ")

    def drawn() -> Json:
        ensemble = work.ensemble(backend, spec, batch=3)
        return [each.to_json() for each in ensemble.continuations(3, RAW, max_new_tokens=8, draw="0.8 seed:1")]

    def scored() -> Json:
        found = work.ensemble(backend, spec, batch=3).score([" Paris.", " London, I think."], "The capital is")
        return [[(each.piece, each.logp, each.is_likeliest) for each in score.pieces] for score in found]

    yield Case(f"{backend}.several", drawn, digits=DIGITS)
    yield Case(f"{backend}.score", scored, digits=DIGITS)


def _amateur(work: Workplace) -> Iterator[Case]:
    """Rules and members that need a file of their own."""
    pair = duo("llamacpp", context=512)
    first, second = pair["members"]
    specs = {
        "contrastive": {"members": [second, {**first, "weight": -0.3}], "combine": "contrastive"},
        "alone": {"members": [first]},
        "sharing": {
            "members": [
                first,
                {"name": "teacher", "weights_of": "smol", "system": "You are a careful teacher."},
                {"name": "shots", "weights_of": "smol", "prefix": "Q: 2 + 2?\nA: 4\n\nQ: ", "weight": 0.5},
            ]
        },
    }
    for name, spec in specs.items():
        yield Case(
            f"llamacpp.spec-{name}",
            lambda name=name, spec=spec: written(
                work.ensemble(f"spec-{name}", spec), messages=ASK, max_new_tokens=PIECES, trace=True
            ),
            digits=DIGITS,
        )


def _commands(work: Workplace) -> Iterator[Case]:
    """The command line, with the demo pair and with the tree's own examples."""
    work.file("demo/duo.yaml", duo("llamacpp", context=512))
    work.file("demo/torch.yaml", duo("transformers", context=512))
    work.file("demo/schema.json", SCHEMA)
    towns = ("Sofia", "Kyoto", "Lima", "Turin", "Graz")
    rows: list[Json] = [{"id": town, "prompt": f"The town of {town} lies"} for town in towns]
    work.lines("demo/prompts.jsonl", [*rows, {"id": 6, "messages": ASK}, {"id": 7, "prompt": ""}])
    examples = work.root / "examples"

    def run(name: str, spec: str | Path, *words: object, pieces: int = PIECES) -> Case:
        line = ("run", spec, *words, "-q", "--max-new-tokens", pieces)
        return Case(f"cli.{name}", lambda: work.unisono(*line), drafts="gated" in name, digits=DIGITS)

    for name in ("duo", "duo-gated", "prompts-ensemble"):
        yield run(f"example-{name}", examples / f"{name}.yaml", "Name three rivers.", "--json", "--stop", "Question:")
    yield run("raw", "demo/duo.yaml", "--raw", RAW)
    yield run("n", "demo/duo.yaml", RAW, "--n", 2, "--draw", "0.8 seed:1", "--json")
    yield run("schema", "demo/duo.yaml", "A person.", "--json-schema", "demo/schema.json", "--json", pieces=30)
    yield run("torch", "demo/torch.yaml", "Name three rivers.", "--json", "--gate", "margin:0.3", "--boundary")
    yield Case("cli.trace", lambda: _file(work, "trace", "--raw", RAW, "--gate", "confidence:0.5"), digits=DIGITS)
    for batch in (1, 4):
        words = ("--prompts", "demo/prompts.jsonl", "--batch", batch)
        yield Case(f"cli.prompts-{batch}", lambda words=words: _file(work, "out", *words), digits=DIGITS)
    for spec in ("demo/duo.yaml", "demo/torch.yaml"):
        name = Path(spec).stem
        yield Case(f"cli.doctor-{name}", lambda spec=spec: work.unisono("doctor", spec, "--json", "-q"), digits=DIGITS)
    yield Case("cli.doctor-text", lambda: work.unisono("doctor", examples / "duo.yaml", "-q"))
    bench = ("bench", "demo/duo.yaml", "--rounds", 1, "--pieces", 4, "--compare", "gate=first:2", "--json", "-q")
    yield Case("cli.bench", lambda: _shape(work.unisono(*bench)))
    yield Case("cli.models", lambda: work.unisono("models", "--json"))


def _file(work: Workplace, flag: str, *words: object) -> Json:
    """A run that writes JSON lines to the file of a flag, in the order of their ids."""
    path = work.scratch / f"demo/{flag}.jsonl"
    path.unlink(missing_ok=True)
    done = work.unisono("run", "demo/duo.yaml", *words, "-q", "--max-new-tokens", PIECES, f"--{flag}", path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {**done, flag: rows if flag == "trace" else sorted(rows, key=lambda row: str(row["id"]))}


def _flags(work: Workplace, verb: str) -> Json:
    """The flags that a verb's help names: its prose may change."""
    done = work.unisono(verb, "--help")
    text = "\n".join(done["stdout"])
    words = {word.strip(",.;:()[]│ ") for word in text.replace("/", " ").split() if word.startswith("--")}
    return {"exit": done["exit"], "flags": sorted(words)}


def _shape(value: Json) -> Json:
    """Keys and words without numbers: all numbers of a benchmark follow the clock."""
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return type(value).__name__ if isinstance(value, (int, float)) and not isinstance(value, bool) else value
