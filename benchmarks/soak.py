"""Two thousand requests, a tenth of them cancelled, a tenth malformed: nothing leaks, nothing is lost or mixed up."""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
from typing import Any

import httpx2
import openai

from served import Served, serve

CLIENTS = 24
"""Requests that are under way at once; more than there are slots."""
QUESTIONS = (
    "Name a river.",
    "What is 2 + 3?",
    "Wie heißt die Hauptstadt von Österreich?",
    "日本の首都は?",
    "ما هي عاصمة مصر؟",
    "Say 🙂 twice.",
    "List three colours.",
    "Why is the sky blue?",
)
DRAWS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1, "top_p": 0.9, "seed": 11, "n": 2},
    {"frequency_penalty": 1.5},
    {"stop": ["e", "."]},
    {"extra_body": {"unisono": {"gate": "confidence:0.5"}}},
)
MALFORMED: tuple[bytes, ...] = (
    b"",
    b"{",
    b'{"model": "duo"}',
    b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}',
    b'{"model": "duo", "messages": [{"role": "user", "content": "x"}], "temperature": "hot"}',
    b'{"model": "duo", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
    b'{"model": "duo", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "duo", "messages": [], "n": 0}',
    b"\xff\xfe",
)


def soak(spec: dict[str, Any], requests: int, pieces: int, models: tuple[str, ...] = ("duo",)) -> dict[str, Any]:
    """Send requests of all kinds at random and hold every answer against what the request gives alone.

    Args:
        spec: of the ensemble.
        requests: how many.
        pieces: of each answer, at most.
        models: asked in turn.
    """
    kinds = [
        {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": pieces, **draw}
        for model, question, draw in itertools.product(models, QUESTIONS, DRAWS)
    ]
    with serve(spec, "--batch", 8, "--queue", 4 * CLIENTS) as served:
        alone = asyncio.run(_alone(served, kinds))
        memory = [served.memory()]
        outcome: collections.Counter[str] = collections.Counter()
        for share in range(4):  # memory is looked at between quarters
            outcome += asyncio.run(_quarter(served, kinds, alone, requests // 4, share))
            memory.append(served.memory())
        idle = {name: served.metric(name) for name in ("unisono_requests_running", "unisono_requests_waiting")}
        again = asyncio.run(_alone(served, kinds))
        return {
            "requests": requests,
            "outcome": dict(outcome),
            "alone_again_differs": sum(one != other for one, other in zip(alone, again, strict=True)),
            "memory_mb": memory,
            "idle": idle,
        }


async def _alone(served: Served, kinds: list[dict[str, Any]]) -> list[list[str]]:
    async with _client(served) as client:
        return [await _answer(client, kind) for kind in kinds]


async def _quarter(
    served: Served, kinds: list[dict[str, Any]], alone: list[list[str]], requests: int, seed: int
) -> collections.Counter[str]:
    chance, free = random.Random(seed), asyncio.Semaphore(CLIENTS)
    outcome: collections.Counter[str] = collections.Counter()

    async def ask(client: openai.AsyncOpenAI, number: int) -> None:
        async with free:
            place, fate = chance.randrange(len(kinds)), chance.random()
            if fate < 0.1:
                outcome[await _malformed(served, MALFORMED[number % len(MALFORMED)])] += 1
            elif fate < 0.2:
                outcome[await _cancelled(client, kinds[place], chance.random())] += 1
            else:
                found = await _answer(client, kinds[place], stream=chance.random() < 0.5)
                outcome["same as alone" if found == alone[place] else "other than alone"] += 1

    async with _client(served) as client:
        await asyncio.gather(*(ask(client, number) for number in range(requests)))
    return outcome


async def _answer(client: openai.AsyncOpenAI, kind: dict[str, Any], *, stream: bool = False) -> list[str]:
    """The texts of all choices, with why each ended."""
    if not stream:
        answer = await client.chat.completions.create(**kind)
        return [f"{choice.finish_reason}: {choice.message.content}" for choice in answer.choices]
    texts, reasons = collections.defaultdict(str), {}
    async for chunk in await client.chat.completions.create(**kind, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    return [f"{reasons[index]}: {texts[index]}" for index in sorted(reasons)]


async def _cancelled(client: openai.AsyncOpenAI, kind: dict[str, Any], patience: float) -> str:
    """Leave after a while, in the middle of a stream or of a plain request."""
    try:
        await asyncio.wait_for(_answer(client, kind, stream=patience < 0.5), patience)
    except TimeoutError:
        return "cancelled"
    return "ended before it was cancelled"


async def _malformed(served: Served, body: bytes) -> str:
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{served.url}/v1/chat/completions", content=body, timeout=60)
    refused = 400 <= answer.status_code < 500 and "message" in answer.json()["error"]
    return "malformed, refused" if refused else f"malformed, {answer.status_code}"


def _client(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", timeout=600, max_retries=0)
