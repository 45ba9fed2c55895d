"""The cases that fake members write, all digits of them; as a program: `unisono`, with these members known to it."""

from __future__ import annotations

import itertools
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = {
    "a": (" the", " cat", " sat", "the", " on", " mat", "日本", " Sofia", "la", " la"),
    "b": (" the", " ca", " sat", "the ", "on", " mat", "é", "la", " a"),
    "c": (" th", " cat", "sat on", " mat", "日", "本", "la la"),
}
A, B, C = ({"name": name, "model": f"fake:{name}"} for name in WORDS)
RAW = "the cat sat on"
CHAT = [
    {"role": "system", "content": "Be brief — 日本."},
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": " sat"},
    {"role": "user", "content": "on <|user|> the mat?"},
]
PIECES = 24
RULES = ("mean", "geometric", "max")
WEIGHTS = ("fixed", "entropy", "consistency", "perplexity")
COMBINES = (
    *("mean truncate:5", "geometric truncate:20", "max truncate:1", "mean sharpen:0.02", "max sharpen:0.1"),
    *("geometric floor:1e-5", "mean weights:perplexity temperature:0.2", "geometric weights:entropy truncate:8"),
    "mean weights:consistency sharpen:0.05",
)
CONTRASTS = ("contrastive", "contrastive alpha:0.5", "contrastive floor:1e-4 alpha:0.01")
GATES = (
    *("always", "confidence:0", "confidence:0.2", "confidence:0.4", "confidence:1", "margin:0.05", "margin:0.3"),
    *("entropy:2", "entropy:3", "every:1", "every:3", "first:0", "first:4"),
)
DRAFTERS = ("a", "b:1", "c:12", "ngram", "ngram:2", "auto", "off")
DRAWS = (
    *("greedy", "0", "0.7 seed:1", "1 seed:2", "5 seed:3", "1 top_k:4 seed:4", "1 top_p:0.5 seed:5"),
    *("1 min_p:0.2 seed:6", "1 typical_p:0.6 seed:7", "repetition_penalty:3", "presence_penalty:1.5"),
    *("frequency_penalty:-1.5", "1 repetition_penalty:1.5 frequency_penalty:0.7 presence_penalty:0.2 seed:8"),
    *("bias:%20the=4", "0.8 bias:日本=5 top_k:30 seed:9", "logit_bias:9=8", "1 logit_bias:9=6 seed:10"),
    *("1 member_temperature:0.5 seed:11", "1 member_top_k:3 seed:12", "1 member_top_p:0.4 seed:13"),
    *("1 member_min_p:0.3 seed:14", "1 member_typical_p:0.5 seed:15", "member_repetition_penalty:3"),
    *("member_presence_penalty:1", "member_frequency_penalty:1", "member_bias:%20cat=5", "member_temperature:0.3"),
    *("0.9 top_k:50 top_p:0.95 min_p:0.01 typical_p:0.95 member_top_k:80 seed:16", "1 seed:0"),
    *(
        "one-member seed:17",
        "one-member member_temperature:0.6 member_top_p:0.9 seed:18",
        "one-member member_top_k:3 seed:19",
        "one-member top_k:3",
        "1 top_p:2",
    ),
    *("beam_width:1", "beam_width:2", "beam_width:4", "beam_width:4 length_penalty:0", "beam_width:3 length_penalty:2"),
    "beam_width:3 repetition_penalty:2",
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
CONSTRAINTS: dict[str, Any] = {
    "regex": {"regex": "(la )+the (cat|日本)"},
    "regex-word": "regex:[a-z]{3,9}",
    "lark": {"lark": 'start: "the " animal (" and the " animal)*\nanimal: "cat" | "bee" | "日本"\n'},
    "schema": {"json_schema": SCHEMA},
    "object": "json_object",
    "broken": {"regex": "("},
    "unknown": {"json_schema": {"type": "object", "minimun": 3}},
}
SPECS: dict[str, dict[str, Any]] = {
    "trio": {"members": [A, B, C]},
    "duo": {"members": [{**A, "weight": 2}, {**B, "weight": 0.5}]},
    "one": {"members": [A]},
    "sentencepiece": {"members": [B]},
    "twins": {"members": [A, {**A, "name": "again"}]},
    "silent": {"members": [{**B, "weight": 0}, A, C]},
    "amateur": {"members": [A, B, {**C, "weight": -0.5}], "combine": "contrastive"},
    "sharing": {
        "members": [
            A,
            {"name": "teacher", "weights_of": "a", "system": "Teach."},
            {"name": "shots", "weights_of": "a", "prefix": "cat cat\n", "weight": 0.5},
            {
                "name": "own",
                "weights_of": "a",
                "chat_template": "{% for m in messages %}Q {{ m.content }} A{% endfor %}",
            },
        ]
    },
    "short": {"members": [{**A, "context": 24}, B]},
    "keys": {
        "members": [A, B, C],
        "combine": {"rule": "geometric", "weights": "entropy"},
        "lead": "b",
        "gate": {"kind": "confidence", "threshold": 0.3, "boundary": True},
        "draw": {"temperature": 0.9, "top_p": 0.9, "seed": 5},
    },
}


def register() -> None:
    """Make the members known as ``fake:a`` and so on."""
    from unisono.testing import fake_member

    for seed, (name, words) in enumerate(WORDS.items()):
        fake_member(name, words, seed=seed, family="sentencepiece" if name == "b" else "byte-level")


def cases(work: Any) -> Iterator[Any]:
    """All cases of fake members through Python and the command line."""
    register()
    yield from _methods(work)
    yield from _shapes(work)
    yield from _several(work)
    yield from _scores(work)
    yield from _commands(work)


def _methods(work: Any) -> Iterator[Any]:
    """Each key of the method, and some together, with a trace of each step."""
    from same_bytes_cases import Case, written

    def case(name: str, spec: str, prompt: str | None = RAW, **keys: Any) -> Any:
        drafts = keys.get("speculate") is not None
        say: dict[str, Any] = {"max_new_tokens": PIECES, "trace": True, **keys}
        words = () if prompt is None else (prompt,)
        return Case(name, lambda: written(work.ensemble(spec, SPECS[spec], batch=4), *words, **say), drafts)

    for number, (rule, weights) in enumerate(itertools.product(RULES, WEIGHTS)):
        yield case(f"combine.{number:02}-{rule}-{weights}", "trio", combine=f"{rule} weights:{weights}")
        yield case(
            f"combine.{number:02}-{rule}-{weights}-seed", "duo", combine=f"{rule} weights:{weights}", draw="1 seed:7"
        )
    for number, combine in enumerate(COMBINES):
        yield case(f"combine.keys-{number:02}", "trio", combine=combine)
    for number, combine in enumerate(CONTRASTS):
        yield case(f"combine.contrastive-{number}", "amateur", combine=combine)
        yield case(f"combine.contrastive-{number}-seed", "amateur", combine=combine, draw="0.8 seed:3")
    for (number, gate), boundary in itertools.product(enumerate(GATES), ("", " boundary")):
        name = f"gate.{number:02}-{gate.replace(':', '-')}{boundary.replace(' ', '-')}"
        yield case(name, "trio", gate=gate + boundary)
        yield case(f"{name}-lead", "trio", None, messages=CHAT, gate=gate + boundary, lead="b", draw="0.9 seed:4")
    for number, drafter in enumerate(DRAFTERS):
        name = f"draft.{number}-{drafter.replace(':', '-')}"
        yield case(name, "trio", speculate=drafter)
        yield case(f"{name}-seed", "trio", speculate=drafter, draw="1 top_k:40 seed:6")
        yield case(f"{name}-gate", "trio", speculate=drafter, gate="confidence:0.2", lead="c")
        yield case(f"{name}-bound", "trio", speculate=drafter, constraint=CONSTRAINTS["regex"], combine="geometric")
    for number, draw in enumerate(DRAWS):
        yield case(f"draw.{number:02}", "trio", draw=draw)
        yield case(f"draw.{number:02}-gate", "duo", None, messages=CHAT, draw=draw, gate="margin:0.2 boundary")
    for name, constraint in CONSTRAINTS.items():
        yield case(f"constraint.{name}", "trio", constraint=constraint, max_new_tokens=60)
        yield case(f"constraint.{name}-seed", "duo", constraint=constraint, max_new_tokens=60, draw="0.9 seed:5")
        yield case(f"constraint.{name}-beam", "duo", constraint=constraint, max_new_tokens=40, draw="beam_width:3")
        yield case(f"constraint.{name}-gate", "trio", constraint=constraint, max_new_tokens=60, gate="every:2")
    yield case("spelling.piecewise", "trio", spelling="piecewise")


def _shapes(work: Any) -> Iterator[Any]:
    """Each ensemble, each kind of prompt, each end of a text, and what is refused."""
    from same_bytes_cases import Case, written

    system = [{"role": "system", "content": "Sing."}, {"role": "user", "content": "the cat"}]
    prompts: dict[str, dict[str, Any]] = {
        "raw": {"prompt": RAW},
        "unicode": {"prompt": "日本 é\n\t  the"},
        "chat": {"messages": CHAT},
        "system": {"messages": system},
        "ends": {"messages": system, "stop": ["a", "e", "\n"], "max_new_tokens": 80},
        "seed": {"messages": system, "draw": "0.8 seed:2"},
    }
    wrong: dict[str, dict[str, Any]] = {
        "empty": {"prompt": ""},
        "both": {"prompt": "a", "messages": system},
        "neither": {},
        "long": {"prompt": "cat " * 5000},
        "surrogate": {"prompt": "\ud800"},
        "role": {"messages": [{"role": "usr", "content": "x"}]},
        "tokens": {"prompt": "a", "max_new_tokens": 0},
        "stop": {"prompt": "a", "stop": ""},
        "lead": {"prompt": "a", "lead": "d"},
        "gate": {"prompt": "a", "gate": "confidense:0.5"},
        "combine": {"prompt": "a", "combine": "mean wieghts:entropy"},
        "draw": {"prompt": "a", "draw": "0.7 top_q:1"},
        "drafter": {"prompt": "a", "speculate": "d"},
        "beam-drafts": {"prompt": "a", "speculate": "a", "draw": "beam_width:2"},
        "contrastive": {"prompt": "a", "combine": "contrastive"},
        "one-member": {"prompt": "a", "draw": "one-member", "combine": "geometric"},
    }

    def case(name: str, spec: str, keys: dict[str, Any]) -> Any:
        say = {"max_new_tokens": PIECES, "trace": True, **keys}
        return Case(name, lambda: written(work.ensemble(spec, SPECS[spec], batch=4), **say))

    for spec, (name, keys) in itertools.product(SPECS, prompts.items()):
        yield case(f"shape.{spec}-{name}", spec, keys)
    for name, keys in wrong.items():
        yield case(f"wrong.{name}", "duo", keys)


def _several(work: Any) -> Iterator[Any]:
    """Several texts of one prompt, and streamed ones."""
    from same_bytes_cases import Case

    def drawn(n: int, **keys: Any) -> Any:
        ensemble = work.ensemble("batch", SPECS["trio"], batch=3)
        return [each.to_json() for each in ensemble.continuations(n, RAW, max_new_tokens=PIECES, trace=True, **keys)]

    def streamed(**keys: Any) -> Any:
        return list(work.ensemble("batch", SPECS["trio"], batch=3).stream(RAW, max_new_tokens=PIECES, **keys))

    yield Case("several.three", lambda: drawn(3, draw="1 seed:1"))
    yield Case("several.five", lambda: drawn(5, draw="0.8 top_k:30 seed:9", gate="confidence:0.3"))
    yield Case("several.drafts", lambda: drawn(4, draw="1 seed:4", speculate="a:3"), drafts=True)
    yield Case("several.bound", lambda: drawn(3, draw="1 seed:4", constraint=CONSTRAINTS["regex-word"]))
    yield Case("several.one-member", lambda: drawn(3, draw="one-member seed:4"))
    yield Case("stream.greedy", streamed)
    yield Case("stream.seed", lambda: streamed(draw="0.8 seed:3", stop=["e"]))


def _scores(work: Any) -> Iterator[Any]:
    """How likely given texts are."""
    from same_bytes_cases import Case

    def scored(spec: str, **keys: Any) -> Any:
        ensemble = work.ensemble(spec, SPECS[spec], batch=4)
        found = ensemble.score([" the mat", " 日本 la la", "é\n"], **{"prompt": RAW, **keys})
        pieces = [[(each.piece, each.logp, each.is_likeliest, each.voted) for each in score.pieces] for score in found]
        return [
            {"logp": score.logp, "greedy": score.is_greedy, "prompt_tokens": score.prompt_tokens, "pieces": told}
            for score, told in zip(found, pieces, strict=True)
        ]

    for spec in ("trio", "duo", "one", "sharing"):
        yield Case(f"score.{spec}", lambda spec=spec: scored(spec, prompt=None, messages=CHAT))
    for number, keys in enumerate(
        (
            {"combine": "geometric weights:entropy"},
            {"combine": "max truncate:9", "lead": "b"},
            {"gate": "confidence:0.3", "lead": "c"},
            {"gate": "every:2 boundary"},
            {"draw": "1 member_temperature:0.5"},
            {"prompt": ""},
        )
    ):
        yield Case(f"score.keys-{number}", lambda keys=keys: scored("trio", **keys))


def _commands(work: Any) -> Iterator[Any]:
    """The command line with fake members."""
    from same_bytes_cases import Case

    trio = work.file("fakes/trio.yaml", SPECS["trio"])
    work.file("fakes/keys.yaml", SPECS["keys"])
    work.file("fakes/sharing.yaml", SPECS["sharing"])
    work.file("fakes/schema.json", SCHEMA)
    odd = [{"id": "bad", "prompt": ""}, {"id": 3, "messages": CHAT[:2]}, {"id": 4}, {"id": "x", "prompt": "é"}]
    prompts = [{"id": f"p{n}", "prompt": f"{n} the cat"} for n in range(20)]
    work.lines("fakes/prompts.jsonl", [*prompts, *odd])

    def run(name: str, words: str, *more: object, spec: Path = trio, stdin: str | None = None) -> Any:
        line = ("run", spec, *words.split(), *more)
        return Case(
            f"cli.{name}", lambda: work.unisono(*line, "--max-new-tokens", PIECES, "-q", fakes=True, stdin=stdin)
        )

    yield run("chat", "--json", "the cat")
    yield run("raw", "--raw --json", RAW)
    yield run("text", "--raw", RAW)
    yield run("stdin", "--raw --json --stop e", stdin="日本 the")
    yield run("system", "--json --system Sing.", "the cat")
    yield run("n", "--n 3 --json", "the cat", "--draw", "1 seed:3")
    yield run("n-text", "--n 2", "the cat", "--draw", "1 seed:3")
    yield run("schema", "--json --json-schema fakes/schema.json", "the cat", "--draw", "0.5 seed:3")
    yield run("regex", "--json", "the cat", "--constraint", "regex:(la )+the")
    yield run("method", "--json --gate confidence:0.2 --boundary --lead c", RAW, "--combine", "max truncate:9")
    yield run("keys", "--json", RAW, spec=Path("fakes/keys.yaml"))
    yield run("sharing", "--json", RAW, spec=Path("fakes/sharing.yaml"))
    for name, words in {
        "greedy": ("--batch", "1"),
        "batch": ("--batch", "8", "--draw", "0.9 seed:1"),
        "gate": ("--batch", "3", "--gate", "confidence:0.3"),
    }.items():
        yield Case(f"cli.prompts-{name}", lambda name=name, words=words: _answers(work, name, words))
    yield Case("cli.trace", lambda: _trace(work))
    for each in ("doctor fakes/trio.yaml --json", "doctor fakes/keys.yaml", "doctor fakes/sharing.yaml --json"):
        line = each.split()
        yield Case(
            f"cli.{'-'.join(line).replace('fakes/', '')}", lambda line=line: work.unisono(*line, "-q", fakes=True)
        )


def _answers(work: Any, name: str, words: tuple[str, ...]) -> Any:
    """A file of prompts, answered; lines by their ids, for who ends first is no promise between batches."""
    out = work.scratch / f"fakes/answers-{name}.jsonl"
    line = ("run", "fakes/trio.yaml", "--prompts", "fakes/prompts.jsonl", "--out", out, "--max-new-tokens", PIECES)
    done = work.unisono(*line, *words, "-q", "--trace", "--overwrite", fakes=True)
    return {**done, "out": [json.loads(line) for line in out.read_text().splitlines()]}


def _trace(work: Any) -> Any:
    trace = work.scratch / "fakes/trace.jsonl"
    words = ("--raw", RAW, "--gate", "margin:0.1", "--max-new-tokens", PIECES, "-q", "--trace", trace)
    done = work.unisono("run", "fakes/trio.yaml", *words, fakes=True)
    return {**done, "trace": [json.loads(line) for line in trace.read_text().splitlines()]}


if __name__ == "__main__":
    register()
    runpy.run_module("unisono", run_name="__main__", alter_sys=True)
