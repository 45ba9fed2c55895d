"""What a step costs of a member behind llama-server, beside the server's own streaming of as many texts.

    python benchmarks/engine_steps.py --url http://127.0.0.1:8081 --tokenizer demo:smollm2-135m-instruct

The server needs 16 slots: `llama-server -m MODEL -np 16 -c 16384`. Both ways write the same texts greedily, with their
prompts in the server's cache, and take turns; the table shows medians of milliseconds a step, and of their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import httpx2

from unisono.backends.base import Backend, Feed
from unisono.backends.top_logprobs import TopLogprobs
from unisono.build import prepare
from unisono.config.ensemble import load_spec

TEXTS = (1, 8, 16)


async def stream(url: str, prompts: list[list[int]], pieces: int) -> float:
    """Seconds that the server takes to stream this many tokens of each text, all at once."""

    async def one(client: httpx2.AsyncClient, slot: int, ids: list[int]) -> int:
        body = {"prompt": ids, "n_predict": pieces, "ignore_eos": True, "temperature": 0, "id_slot": slot}
        body |= {"cache_prompt": True, "stream": True}
        async with client.stream("POST", url + "/completion", json=body) as answer:
            return sum([line.startswith("data:") async for line in answer.aiter_lines()])

    async with httpx2.AsyncClient(timeout=600) as client:
        began = time.perf_counter()
        told = await asyncio.gather(*(one(client, slot, ids) for slot, ids in enumerate(prompts)))
        spent = time.perf_counter() - began
    assert min(told) >= pieces / 2, told  # a character may take several tokens
    return spent


def step_by_step(backend: Backend, prompts: list[list[int]], pieces: int) -> float:
    slots = [backend.open() for _ in prompts]
    began, fed = time.perf_counter(), prompts
    for _ in range(pieces):
        told = backend.advance([Feed(slot, ids) for slot, ids in zip(slots, fed, strict=True)])
        assert isinstance(told, TopLogprobs)
        fed = [[int(ids_K[0])] for ids_K in told.ids_NK]
    spent = time.perf_counter() - began
    for slot in slots:
        backend.close(slot)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--pieces", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=50, help="ids of each prompt")
    given = parser.parse_args()
    member = {"name": "far", "url": given.url, "tokenizer": given.tokenizer, "top": given.top}
    prepared = prepare(load_spec({"members": [member]}), batch=max(TEXTS)).members[0]
    backend = prepared.loader.load(lambda fraction, words: None)
    words = prepared.tokenizer.encode_prompt("The keeper of the lighthouse wrote a long letter to his sister. " * 60)
    print(f"{'texts':>5} {'streaming':>10} {'a step':>8} {'ratio':>6} {'spread':>12}")
    for texts in TEXTS:
        prompts = [words[number : number + given.prompt] for number in range(texts)]
        pairs = []
        for _ in range(given.rounds + 1):  # the first fills the server's cache
            own = asyncio.run(stream(given.url, prompts, given.pieces))
            pairs.append((own, step_by_step(backend, prompts, given.pieces)))
        pairs = pairs[1:]
        ratios = sorted(ours / own for own, ours in pairs)
        own, ours = (1000 * statistics.median(each) / given.pieces for each in zip(*pairs, strict=True))
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        print(f"{texts:>5} {own:>10.1f} {ours:>8.1f} {statistics.median(ratios):>6.2f} {spread:>12}")
    backend.unload()


if __name__ == "__main__":
    main()
