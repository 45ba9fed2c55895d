"""What a step costs of a member inside a `vllm serve`, beside the server's own streaming, and what its others lose.

    python benchmarks/vllm_shared.py MODEL --python .engines-venv/vllm/bin/python

MODEL is a folder that vLLM reads. The server is asked by HTTP in two ways, in turns: its own completions stream as many
texts; and the backend asks the member inside it, step by step. Then a person's text streams beside either. Prompts are
read before the clock starts. The tables show medians of milliseconds, and of the ratios of the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np

from served import READY_SECONDS, free_port
from unisono.backends.base import Backend, Feed, LoadRequest, Slot
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.registry import make_loader

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = 1024
PLUGIN = "[vllm.general_plugins]\nunisono = unisono.backends.vllm.plugin:register\n"
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR",
}  # fmt: skip

Prompts = Sequence[Sequence[int]]


@contextlib.contextmanager
def vllm_serve(given: argparse.Namespace) -> Iterator[str]:
    """The address of a server that has a member."""
    address = f"http://127.0.0.1:{free_port()}"
    command = [
        Path(given.python).parent / "vllm", "serve", given.model, "--served-model-name", "own", "--host", "127.0.0.1",
        "--port", address.rpartition(":")[2], "--dtype", given.dtype, "--max-model-len", CONTEXT,
        "--max-num-seqs", 2 * max(given.texts) + 2, "--block-size", 32, "--enable-prefix-caching", "--enforce-eager",
        "--middleware", "unisono.worker.vllm_middleware.UnisonoMember",
        "--logits-processors", "unisono.backends.vllm.library:Rows",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as installed:
        info = Path(installed) / "unisono-0.dist-info"  # as if it was installed there
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unisono\nVersion: 0\n")
        (info / "entry_points.txt").write_text(PLUGIN)
        path = os.pathsep.join([str(ROOT / "src"), installed])
        process = subprocess.Popen(
            [*map(str, command)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **SETTINGS, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            _await(address, process)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"vLLM cannot be started there: it ended with {process.returncode}")
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{address}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    sys.exit("the server is not ready")


class Came(NamedTuple):
    """A chunk of a stream."""

    at: float
    pieces: int
    """Of the text so far: a server that is ahead of its client sends several at once."""


class Streams:
    """Texts that the server streams to others by itself."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def run(self, prompts: Prompts, pieces: int) -> list[list[Came]]:
        """What came of each text, and when."""
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=self._address, timeout=600, limits=limits) as client:
            return await asyncio.gather(*(self._stream(client, ids, pieces) for ids in prompts))

    async def _stream(self, client: httpx2.AsyncClient, ids: Sequence[int], pieces: int) -> list[Came]:
        asked = {
            "model": "own", "prompt": list(ids), "max_tokens": pieces, "temperature": 0, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }  # fmt: skip
        async with client.stream("POST", "/v1/completions", json=asked) as answer:
            answer.raise_for_status()
            lines = [
                (time.perf_counter(), json.loads(line[6:]))
                async for line in answer.aiter_lines()
                if line.startswith("data: {")
            ]
        return [Came(at, told["usage"]["completion_tokens"]) for at, told in lines if told["choices"]]


def pace(texts: Sequence[Sequence[Came]]) -> float:
    """Milliseconds a piece of a text, while all texts are being written."""
    begun, ended = max(each[0].at for each in texts), min(each[-1].at for each in texts)
    together = [[came for came in each if begun <= came.at <= ended] for each in texts]
    if min(map(len, together)) < 3:
        raise RuntimeError("the texts were not written at the same time: give more --pieces")
    spans = [(each[-1].at - each[0].at) / (each[-1].pieces - each[0].pieces) for each in together]
    return 1000 * statistics.median(spans)


class Steps:
    """Texts that an ensemble writes with the member, one step after the other."""

    def __init__(self, member: Backend) -> None:
        self._member = member
        self.began, self.stopped = threading.Event(), threading.Event()

    def run(self, prompts: Prompts, pieces: int | None) -> float:
        """Milliseconds a step; without ``pieces``, until it is stopped."""
        slots = [self._member.open() for _ in prompts]
        try:
            return self._write(slots, prompts, pieces)
        finally:
            self.began.set()
            for slot in slots:
                self._member.close(slot)

    def _write(self, slots: Sequence[Slot], prompts: Prompts, pieces: int | None) -> float:
        fed = [list(ids) for ids in prompts]
        began, done = 0.0, 0
        while done < pieces if pieces is not None else not self.stopped.is_set():
            told: Any = self._member.advance([Feed(slot, ids) for slot, ids in zip(slots, fed, strict=True)])
            fed = [[int(token)] for token in np.asarray(told).argmax(axis=1)]
            if began:
                done += 1
            else:
                began = time.perf_counter()
                self.began.set()
        return 1000 * (time.perf_counter() - began) / max(1, done)


def beside(member: Backend, streams: Streams, own: Prompts, other: Sequence[int], pieces: int) -> float:
    """Milliseconds a piece of a person's text, beside texts of an ensemble."""
    writing = Steps(member)
    thread = threading.Thread(target=writing.run, args=(own, None))
    thread.start()
    try:
        writing.began.wait()
        return pace(asyncio.run(streams.run([other], pieces)))
    finally:
        writing.stopped.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--prompts", type=int, nargs="+", default=[50, 800], help="ids of a prompt")
    parser.add_argument("--pieces", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    with vllm_serve(given) as address:
        source = EndpointSource(kind="endpoint", location=address, timeout=600.0)
        loader: Any = make_loader("endpoint", LoadRequest("far", source, slots=max(given.texts)))
        if not loader.description.engine.startswith("unisono"):
            sys.exit(f"no member was found inside the server, but {loader.description.engine}")
        member = loader.load(lambda fraction, words: None)
        measure(given, address, member)
        member.unload()


def measure(given: argparse.Namespace, address: str, member: Backend) -> None:
    rng = np.random.default_rng(3)
    streams, steps = Streams(address), Steps(member)
    print(f"{'texts':>5} {'prompt':>6} {'':>8} {'streaming':>9} {'steps':>7} {'ratio':>6} {'spread':>12}")
    for length in given.prompts:
        for texts in given.texts:
            other, *own = rng.integers(1000, 40000, (texts + 1, length)).tolist()
            asyncio.run(streams.run([other, *own], 1))  # from here on, its cache of prefixes has the prompts
            more = given.pieces + 4 * texts  # as texts of people begin one after the other
            rounds = []
            for _ in range(given.rounds + 1):
                plain, ours = pace(asyncio.run(streams.run(own, more))), steps.run(own, given.pieces)
                beside_plain = pace(asyncio.run(streams.run([other, *own], more))[:1])
                rounds.append(((plain, ours), (beside_plain, beside(member, streams, own, other, more))))
            for name, pairs in zip(("a step", "others"), zip(*rounds[1:], strict=True), strict=True):
                report(f"{texts:>5} {length:>6} {name:>8}", pairs)


def report(name: str, pairs: Sequence[tuple[float, float]]) -> None:
    plain, ours = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratios = sorted(each[1] / each[0] for each in pairs)
    spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
    print(f"{name} {plain:>9.1f} {ours:>7.1f} {statistics.median(ratios):>6.2f} {spread:>12}", flush=True)


if __name__ == "__main__":
    main()
