"""What a member inside a `vllm serve` costs, and what it costs the others who are served there.

    python benchmarks/vllm_shared.py MODEL --engines .engines-venv [--texts 1 8 16] [--others 4] [--rounds 5]

MODEL is a folder that vLLM reads; `make test-engines` installs the engines. First, texts are streamed by ordinary
clients and then asked step by step by a member, in turn: milliseconds a step of all texts, with prompts read before
the clock starts. Then ``--others`` ordinary clients stream beside nobody, beside as many ordinary streams as there are
texts, and beside a member with that many texts: milliseconds a piece of the others. Everything is on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from unisono.backends.base import Backend, Feed, LoadRequest
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.registry import make_loader
from vllm_steps import step_by_step

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
ENTRY = "[vllm.general_plugins]\nunisono = unisono.backends.vllm.plugin:register\n"
Prompts = Sequence[Sequence[int]]


@contextlib.contextmanager
def server(model: Path, engines: Path, texts: int) -> Iterator[str]:
    """A `vllm serve` with our member, which takes so many texts at once."""
    os.environ["UNISONO_ENGINES"] = str(engines.absolute())
    from support.engine_processes import VLLM_SETTINGS, free_port, running, vllm_command

    port = free_port()
    command = [
        *vllm_command(model.absolute(), port), "--max-num-seqs", texts,
        "--middleware", "unisono.worker.vllm_middleware.UnisonoMember",
        "--logits-processors", "unisono.backends.vllm.library:Rows",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as made:
        info = Path(made) / "unisono-0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unisono\nVersion: 0\n")
        (info / "entry_points.txt").write_text(ENTRY)
        path = os.pathsep.join([str(ROOT / "src"), made])
        address = f"http://127.0.0.1:{port}"
        with running(command, f"{address}/health", 300, {**VLLM_SETTINGS, "PYTHONPATH": path}):
            yield address


async def stream(client: httpx2.AsyncClient, ids: Sequence[int], pieces: int, came: list[float]) -> None:
    """Read an answer, and note when each of its pieces came."""
    body = {
        "model": "smol",
        "prompt": list(ids),
        "max_tokens": pieces,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        came += [time.perf_counter() async for line in answer.aiter_lines() if line.startswith("data: {")]


def streamed(address: str, prompts: Prompts, pieces: int, over: threading.Event | None = None) -> list[list[float]]:
    """When the pieces of each of some texts came, which are streamed side by side: once, or again until it is over."""

    async def all_of_them() -> list[list[float]]:
        limits = httpx2.Limits(max_connections=len(prompts))
        came: list[list[float]] = [[] for _ in prompts]
        async with httpx2.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
            while True:
                await asyncio.gather(
                    *(stream(client, ids, pieces, its) for ids, its in zip(prompts, came, strict=True))
                )
                if over is None or over.is_set():
                    return came

    return asyncio.run(all_of_them())


def milliseconds_a_step(came: Sequence[Sequence[float]]) -> float:
    """From when all texts have begun until the first of them ends."""
    began, ended = max(its[0] for its in came), min(its[-1] for its in came)
    steps = statistics.mean(sum(began < each <= ended for each in its) for its in came)
    return 1000 * (ended - began) / steps


def member(address: str, texts: int) -> Backend:
    loader: Any = make_loader("endpoint", LoadRequest("smol", EndpointSource("endpoint", address), slots=texts))
    assert loader.description.engine.startswith("unisono "), "the member inside the server was not found"
    backend: Backend = loader.load(lambda fraction, words: None)
    return backend


def go_on(backend: Backend, prompts: Prompts, over: threading.Event) -> None:
    """Ask for steps of some texts until it is over."""
    slots = [backend.open() for _ in prompts]
    fed: Prompts = prompts
    while not over.is_set():
        told: Any = backend.advance([Feed(slot, list(ids)) for slot, ids in zip(slots, fed, strict=True)])
        fed = [[int(token)] for token in np.asarray(told).argmax(axis=1)]
    for slot in slots:
        backend.close(slot)


def beside(work: Callable[[threading.Event], object], measured: Callable[[], float]) -> float:
    """Measure something while other work goes on, which has begun a second before."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    time.sleep(1)
    try:
        return measured()
    finally:
        over.set()
        thread.join()


def told(what: str, values: dict[str, list[float]], base: str) -> None:
    words = [f"{name} {statistics.median(each):.1f} ms" for name, each in values.items()]
    for name in values.keys() - {base}:
        ratios = sorted(one / other for one, other in zip(values[name], values[base], strict=True))
        words.append(f"{name} ÷ {base} {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(f"{what}: {', '.join(words)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--prompts", type=int, nargs="+", default=[50], help="ids of a prompt")
    parser.add_argument("--others", type=int, default=4)
    parser.add_argument("--pieces", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    random, most = np.random.default_rng(3), max(given.texts)

    def prompts(count: int, length: int) -> Prompts:
        made: list[list[int]] = random.integers(1000, 40000, (count, length)).tolist()
        return made

    with server(given.model, given.engines, most + given.others) as address:
        backend = member(address, most)
        for length in given.prompts:
            for texts in given.texts:
                steps: dict[str, list[float]] = {"streaming": [], "the member": []}
                for number in range(given.rounds + 1):
                    asked = prompts(texts, length)
                    plain = milliseconds_a_step(streamed(address, asked, given.pieces + 1))
                    ours = step_by_step(backend, [list(ids) for ids in asked], given.pieces)
                    if number:
                        steps["streaming"].append(plain)
                        steps["the member"].append(ours)
                told(f"{texts} texts, prompts of {length}", steps, "streaming")
        for texts in given.texts:
            if not given.others:
                break
            waits: dict[str, list[float]] = {"nobody": [], "streams": [], "a member": []}
            for _ in range(given.rounds):
                asked = prompts(texts, 50)

                def others() -> float:
                    return milliseconds_a_step(streamed(address, prompts(given.others, 50), given.pieces))

                waits["nobody"].append(others())
                waits["streams"].append(
                    beside(lambda over, ids=asked: streamed(address, ids, given.pieces, over), others)  # type: ignore[misc]
                )
                waits["a member"].append(beside(lambda over, ids=asked: go_on(backend, ids, over), others))  # type: ignore[misc]
            told(f"{given.others} others beside {texts} texts of", waits, "streams")
        backend.unload()


if __name__ == "__main__":
    main()
