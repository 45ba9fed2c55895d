"""Combining, drawing and searching on real models: one member a piece, a beam, and what every option costs."""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BACKENDS = ("llamacpp", "transformers")
PIECES = {"llamacpp": 32, "transformers": 16}
"""Of each answer, timed in a round."""
THREADS = 1
"""Of every model: where other work is going on, two would wait for each other, and times would tell of that work."""
WIDTH = 4
SMALL = 512
"""Tokens of a slot beside llama.cpp's default, for its copies take all that a slot has room for."""
EVERY = 6
"""Pieces from one position at which distributions are kept to the next one; eight of each answer."""
END_TO_END = ("combine=geometric", "combine=mean,truncate:100", "sampling=0.7,top_k:50,top_p:0.9,min_p:0.05")


def drawing(data: Path) -> dict[str, Any]:
    """Every part, each in a process of its own, on the questions of `key_tokens`."""
    parts = [
        *(("one_member", backend, 0) for backend in BACKENDS),
        *(("beam", backend, context) for backend, context in (("llamacpp", 0), ("llamacpp", SMALL), (BACKENDS[1], 0))),
        ("options", "llamacpp", 0),
        ("end_to_end", "llamacpp", 0),
    ]
    found = {}
    for part, backend, context in parts:
        name = f"{part}, {backend}" + (f", context {context}" if context else "")
        command = [sys.executable, __file__, part, backend, str(context), str(data.resolve())]
        shown = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        found[name] = json.loads(shown.stdout.splitlines()[-1])
        print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
    return found


def one_member(backend: str, context: int, data: str) -> dict[str, Any]:
    """A piece drawn from one member beside one drawn from all, at temperature 1, each text with a fresh seed."""
    return _measured(_spec(backend, context, "1"), data, ["sampling=one-member"])


def beam(backend: str, context: int, data: str) -> dict[str, Any]:
    """A piece of a text that a beam searches beside a greedy one's, and where its time goes."""
    spec = _spec(backend, context)
    return {
        **_measured(spec, data, [f"sampling=beam_width:{WIDTH}"], batch=WIDTH),
        "parts": _beam_parts(spec, data, PIECES[backend]),
    }


def end_to_end(backend: str, context: int, data: str) -> dict[str, Any]:
    """Some of the options where they are used: the time that is not the members'."""
    return _measured(_spec(backend, context), data, list(END_TO_END))


def options(backend: str, context: int, data: str) -> dict[str, Any]:
    """Milliseconds a token of every way to combine and to draw, on distributions of real answers."""
    heard, union, prefixes = _hear(_spec(backend, context), data)
    took: defaultdict[str, list[float]] = defaultdict(list)
    for turn in range(2):
        for position in heard:
            for name, work in _works(position, prefixes):
                began = time.perf_counter()
                work()
                if turn:
                    took[name].append((time.perf_counter() - began) * 1e3)
    smooth = sum(float(position.q_BU.max()) < 0.5 for position in heard)
    return {
        "columns": union,
        "positions": len(heard),
        "smooth": smooth,
        "ms": {name: _spread(times) for name, times in took.items()},
    }


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was known at one position of an answer."""

    p_BU_K: list[Any]
    q_BU: Any
    counts: Counter[int]


def _hear(spec: dict[str, Any], data: str) -> tuple[list[_Heard], int, Any]:
    """The members' distributions at some positions of every answer, and the plan to sharpen them by."""
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.fusion import rules
    from unisono.fusion.sharpen import plan_prefixes
    from unisono.loaded_models import load_engine
    from unisono.records import Limits

    prepared = prepare(load_spec(spec))
    heard: list[_Heard] = []
    plain, counts = rules.mean, Counter[int]()
    pieces = 0

    def listening(p_BU_K: Sequence[Any], weights: Sequence[Any]) -> Any:
        q_BU = plain(p_BU_K, weights)
        if pieces % EVERY == EVERY // 2:
            heard.append(_Heard([p_BU.copy() for p_BU in p_BU_K], q_BU.copy(), counts.copy()))
        return q_BU

    rules.COMBINE_RULES["mean"] = listening
    with load_engine(prepared) as engine:
        for prompt in _questions(data):
            text = engine.add(prompt, Limits(max_new_tokens=8 * EVERY))
            while text.finish is None:
                counts, pieces = text.counts, text.pieces
                engine.step()
    rules.COMBINE_RULES["mean"] = plain
    union = prepared.union
    return heard, union.size, plan_prefixes([union.piece(column) or b"" for column in range(union.end)])


def _works(heard: _Heard, prefixes: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every option, ready to be timed."""
    from unisono.config.combine import Combine
    from unisono.config.sampling import Sampling
    from unisono.fusion.logits_processors import shape
    from unisono.fusion.sampling import Purpose, RandomNumbers, accepts, draw_from, greedy, residual
    from unisono.fusion.sharpen import sharpen
    from unisono.fusion.weights import top_columns

    p_BU_K, q_BU, half = heard.p_BU_K, heard.q_BU, [0.5, 0.5]
    losses = [[1.2], [1.0]]
    for text in (
        "mean",
        "geometric",
        "max",
        "mean weights:entropy",
        "mean weights:consistency",
        "mean weights:perplexity",
        "mean truncate:10",
        "mean truncate:100",
        "geometric truncate:10",
    ):
        yield f"combine {text}", functools.partial(Combine.parse(text), p_BU_K, half, losses)
    yield "combine contrastive", lambda: Combine("contrastive")(p_BU_K, [1.0, -0.5])
    yield "sharpen 0.1", lambda: sharpen(q_BU, prefixes, 0.1)
    biases = {int(column): -1.0 for column in top_columns(q_BU[0], 3)}
    for text in (
        "0.7",
        "1 top_k:50",
        "1 top_p:0.9",
        "1 min_p:0.05",
        "1 typical_p:0.9",
        "1 top_k:50 top_p:0.9 min_p:0.05",
        "0.7 top_k:50 top_p:0.9 min_p:0.05",
        "greedy repetition_penalty:1.2",
        "greedy presence_penalty:0.5",
        "greedy frequency_penalty:0.5",
        "greedy frequency_penalty:0.5 repetition_penalty:1.2",
    ):
        yield f"shape {text}", functools.partial(shape, q_BU, [Sampling.parse(text)], [heard.counts], [{}])
    yield "shape greedy bias", lambda: shape(q_BU, [Sampling()], [heard.counts], [biases])
    p_U, q_U = p_BU_K[0][0], q_BU[0]
    draft = int(p_U.argmax())
    yield "draw: the likeliest", lambda: greedy(q_BU)
    numbers = RandomNumbers(1, 1, Purpose.PIECE)
    yield "draw: one of the columns", lambda: draw_from(q_U, numbers)
    yield "draw: accept a draft", lambda: accepts(p_U, q_U, draft, numbers)
    yield "draw: residual", lambda: residual(p_U, q_U)
    yield "draw: the eight likeliest", lambda: top_columns(q_U, 2 * WIDTH)


def _beam_parts(spec: dict[str, Any], data: str, pieces: int) -> dict[str, Any]:
    """Where the milliseconds of a step go: passes without copies, copies, and what is ours.

    Through llama.cpp copies are made by the next pass: their time is what passes take longer behind copies.
    """
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.config.method import Method
    from unisono.loaded_models import load_engine
    from unisono.records import Limits

    prepared = prepare(load_spec(spec), batch=WIDTH)
    passes: defaultdict[str, list[tuple[int, int, float]]] = defaultdict(list)
    opened, steps = Counter[str](), []
    copying = 0.0

    def watch(member: Any) -> None:
        backend = member.backend
        plain_open, plain_advance = backend.open, backend.advance

        def open_(copy_of: Any = None) -> Any:
            nonlocal copying
            began = time.perf_counter()
            slot = plain_open(copy_of)
            if copy_of is not None:
                copying += time.perf_counter() - began
                opened[member.name] += 1
            return slot

        def advance(feeds: Any) -> Any:
            began = time.perf_counter()
            logits = plain_advance(feeds)
            if all(len(feed.ids) == 1 for feed in feeds):
                passes[member.name].append((len(feeds), opened[member.name], (time.perf_counter() - began) * 1e3))
            opened[member.name] = 0
            return logits

        backend.open, backend.advance = open_, advance

    with load_engine(prepared) as engine:
        method = Method(sampling=f"beam_width:{WIDTH}")  # type: ignore[arg-type]
        for member in engine.members:
            watch(member)
        for prompt in _questions(data)[::2]:
            text = engine.add(prompt, Limits(max_new_tokens=pieces + 3), method=method)
            for _ in range(2):
                if text.finish is None:
                    engine.step()
            while text.finish is None:
                copying, spent = 0.0, sum(member.seconds for member in engine.members)
                began = time.perf_counter()
                engine.step()
                whole = time.perf_counter() - began
                forward = sum(member.seconds for member in engine.members) - spent
                steps.append([each * 1e3 for each in (whole, forward, copying)])
            engine.drop(text)
    full = {name: [each for each in own if each[0] == WIDTH] for name, own in passes.items()}
    bare = {name: statistics.median(ms for _, copies, ms in own if not copies) for name, own in full.items()}
    whole, forward, inside = (statistics.mean(column) for column in zip(*steps, strict=True))
    return {
        "steps": len(steps),
        "step": whole,
        "forward": forward,
        "copying_outside_passes": inside,
        "ours": whole - forward - inside,
        "pass_without_copies": bare,
        "copies_a_step": {name: statistics.mean(copies for _, copies, _ in own) for name, own in full.items()},
        "a_copy": {name: _slope([each[1:] for each in own], bare[name]) for name, own in full.items()},
    }


def _slope(points: Sequence[tuple[int, float]], bare: float) -> float:
    """Milliseconds that a copy adds to the pass behind it."""
    return statistics.median((ms - bare) / copies for copies, ms in points if copies)


def _measured(spec: dict[str, Any], data: str, compare: list[str], batch: int = 1) -> dict[str, Any]:
    """`measure`, one round a question, texts one at a time."""
    from unisono.benchmark import measure
    from unisono.benchmark_figures import Setting
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.config.setting import parse_setting

    checked, prompts = load_spec(spec), _questions(data)
    settings = [Setting(text, checked.but(**parse_setting(text)).method) for text in compare]
    pieces = PIECES[spec["members"][0]["backend"]]
    prepared = prepare(checked, batch=batch)
    return measure(prepared, rounds=len(prompts), pieces=pieces, compare=settings, prompts=prompts).to_json()


def _spec(backend: str, context: int, draw: str = "greedy") -> dict[str, Any]:
    from run import spec

    ensemble: dict[str, Any] = spec(("smol", "gemma"), backend)
    for member in ensemble["members"]:
        member.update(threads=THREADS, **({"context": context} if context else {}))
    return {**ensemble, "draw": draw}


def _questions(data: str) -> list[Any]:
    """Every third one of `key_tokens`: of all four kinds."""
    from key_tokens import questions

    return questions(Path(data))[::3]


def _spread(times: Sequence[float]) -> dict[str, float]:
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return {"median": statistics.median(times), "low": tenths[0], "high": tenths[-1]}


if __name__ == "__main__":
    parts = {"one_member": one_member, "beam": beam, "options": options, "end_to_end": end_to_end}
    print(json.dumps(parts[sys.argv[1]](sys.argv[2], int(sys.argv[3]), sys.argv[4])))
