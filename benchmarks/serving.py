"""`unisono serve` under load: what concurrent streams get, and what HTTP and scheduling add to a step."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai

from served import Served, serve

STREAMS = (1, 2, 4, 8, 16)
PROMPTS = (
    "Write a long story about a lighthouse keeper and a storm.",
    "Explain in detail how bread is made, from the field to the table.",
    "Describe a walk through a market on a summer morning.",
    "Tell me everything you know about the moons of Jupiter.",
    "Give a detailed history of the bicycle.",
    "Describe how a steam engine works, step by step.",
    "Write a letter to a friend about a journey through the mountains.",
    "Explain to a child why the seasons change.",
)


@dataclass(frozen=True, slots=True)
class Stream:
    """What one client saw."""

    pieces: int
    began: float
    times: list[float]
    """When each chunk with text came."""

    @property
    def first(self) -> float:
        return self.times[0] - self.began

    @property
    def between(self) -> list[float]:
        """Seconds between pieces; a chunk of several counts for each of them."""
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]


def compare(spec: dict[str, Any], rounds: int, pieces: int) -> dict[str, Any]:
    """Measure a spec.

    Args:
        spec: of the ensemble, with a context that its prompts and answers fit into.
        rounds: turns of every number of streams, in random order; in each the library writes alone too.
        pieces: of each answer.

    Returns:
        By the number of streams: pieces a second in total, seconds to the first piece and between pieces; the ratios to
        one stream by round; what a piece takes over HTTP beside what it takes in a loop of the library; and the time to
        the first piece of a conversation with a long system message, and of its second turn.
    """
    from unisono.ensemble import Ensemble

    totals: dict[int, list[float]] = {count: [] for count in STREAMS}
    streams: dict[int, list[Stream]] = {count: [] for count in STREAMS}
    overheads: list[dict[str, float]] = []
    prefixes: list[tuple[float, float]] = []
    with serve(spec, "--batch", max(STREAMS)) as served, Ensemble.load(spec) as ensemble:
        asyncio.run(_load(served, max(STREAMS), 4, 0))
        for number in range(rounds):
            for count in random.sample(STREAMS, len(STREAMS)):
                seconds, found = asyncio.run(_load(served, count, pieces, number))
                totals[count].append(sum(stream.pieces for stream in found) / seconds)
                streams[count] += found
            overheads += [_overhead(served, ensemble, pieces, prompt) for prompt in PROMPTS[:2]]
            prefixes.append(asyncio.run(_prefix(served, number)))
    return {
        "streams": {
            count: {
                "pieces_per_second": _spread(totals[count]),
                "to_one": _spread([many / one for many, one in zip(totals[count], totals[1], strict=True)]),
                "first_piece_ms": _percentiles([1e3 * stream.first for stream in streams[count]]),
                "between_pieces_ms": _percentiles([1e3 * gap for stream in streams[count] for gap in stream.between]),
            }
            for count in STREAMS
        },
        "overhead": {
            "library_ms": _spread([each["library"] for each in overheads]),
            "http_ms": _spread([each["http"] for each in overheads]),
            "ratio": _spread([each["http"] / each["library"] for each in overheads]),
        },
        "prefix": {
            "first_time_ms": _spread([1e3 * first for first, _ in prefixes]),
            "second_turn_ms": _spread([1e3 * second for _, second in prefixes]),
            "ratio": _spread([first / second for first, second in prefixes]),
        },
    }


def _overhead(served: Served, ensemble: Any, pieces: int, prompt: str) -> dict[str, float]:
    """Milliseconds a piece behind the first one, over HTTP and in a loop of the library, one after the other."""
    _, [stream] = asyncio.run(_load(served, 1, pieces, PROMPTS.index(prompt)))
    http = (stream.times[-1] - stream.times[0]) / (stream.pieces - 1)
    _, library = in_loop(ensemble, prompt, pieces)
    return {"http": 1e3 * http, "library": 1e3 * library}


def in_loop(ensemble: Any, prompt: str, pieces: int) -> tuple[float, float]:
    """Seconds to the first piece of an answer in a loop of the library, and for each piece after it."""
    times: list[float] = []
    began = time.perf_counter()
    with ensemble.stream(messages=[{"role": "user", "content": prompt}], max_new_tokens=pieces) as written:
        times.extend(time.perf_counter() for _ in written)
    return times[0] - began, (times[-1] - times[0]) / (written.generation.usage.pieces - 1)


async def _prefix(served: Served, turn: int) -> tuple[float, float]:
    """Seconds to the first piece of a conversation, and of its next turn."""
    system = {"role": "system", "content": f"Conversation {turn}. " + "You are brief, polite and exact. " * 40}
    asked = {"role": "user", "content": PROMPTS[0]}
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", timeout=600) as client:
        first = await _stream(client, [system, asked], 2)
        answer = {"role": "assistant", "content": "Once upon a time."}
        second = await _stream(client, [system, asked, answer, {"role": "user", "content": PROMPTS[1]}], 2)
    return first.first, second.first


async def _load(served: Served, count: int, pieces: int, turn: int) -> tuple[float, list[Stream]]:
    """Let some streams begin at once; return how long it takes until all have ended."""
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", timeout=600) as client:
        began = time.perf_counter()
        prompts = [PROMPTS[(turn + number) % len(PROMPTS)] for number in range(count)]
        found = await asyncio.gather(
            *(_stream(client, [{"role": "user", "content": prompt}], pieces) for prompt in prompts)
        )
        return time.perf_counter() - began, list(found)


async def _stream(client: openai.AsyncOpenAI, messages: list[Any], pieces: int) -> Stream:
    began, times, written = time.perf_counter(), [], 0
    stream = await client.chat.completions.create(
        model="duo",
        messages=messages,
        max_tokens=pieces,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            times.append(time.perf_counter())
        if chunk.usage is not None:
            written = chunk.usage.completion_tokens
    return Stream(written, began, times)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    ranks = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50": ranks[9], "p95": ranks[18]}
