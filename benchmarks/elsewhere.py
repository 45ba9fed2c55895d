"""What a step costs when members are behind `unisono member serve`.

    python benchmarks/elsewhere.py [--steps 200] [--rows 262144]
    python benchmarks/elsewhere.py --parallel [--rounds 20] [--spec two.yaml]

The first compares one member with the same one in this process. The model costs nothing: a fake whose rows are made
beforehand. The worker is a process on this machine, so the figures are what the wire costs; "sent" is a worker that
sends its rows, as to another machine, and does not leave them in memory. A pass is what the backend is called for; a
step is all that an ensemble of this member does for a piece, where a truncated member needs no softmax of the row at
hand. Ways take turns, pass by pass and text by text; the tables show the medians in milliseconds, and quartiles.

The second compares an ensemble of two members in two workers with each of them alone: fakes that sleep, and that
compute, for the same time, and the demo models with a thread each; or the two members of an ensemble file, wherever
these live. Ensembles take turns, text by text; the table shows the median of what both take, over what the slower one
takes alone, and quartiles.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unisono.backends.base import Backend, Feed, LoadRequest, ModelSource
from unisono.backends.endpoint import row_memory
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.registry import make_loader
from unisono.ensemble import Ensemble
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake

TEXTS = (1, 8)
TOP = 20
STEP_ROUNDS = 24
STEP_PIECES = 48
BUSY_SECONDS = 0.02
PIECES = 32
DEMO = {"smol": "demo:smollm2-135m-instruct", "gemma": "demo:gemma3-270m"}
PROMPT = "The keeper of the lighthouse wrote a long letter to his sister."


def make_fakes(rows: int) -> None:
    """``still`` costs nothing; ``sleeps`` and ``computes`` take some time for each id."""
    random = np.random.default_rng(0)
    made = random.standard_normal((16, rows), np.float32) * 2
    tokenizer = LongestMatchTokenizer(byte_level_table(f" {number:x}" for number in range(rows - 512)))
    for row_V in made:  # few ids are likely, as of a model
        row_V[random.integers(512, rows - 512, TOP)] = np.linspace(20, 12, TOP)
    register_fake("still", FakeModel(tokenizer, lambda read: made[len(read) % 16], rows=rows))
    small = LongestMatchTokenizer(byte_level_table())
    rule = hashed_rule(len(small.table.texts))
    for name, spend in (("sleeps", lambda: time.sleep(BUSY_SECONDS)), ("computes", compute)):
        register_fake(name, FakeModel(small, after(spend, rule)))


def after(spend: Callable[[], object], rule: Callable[[tuple[int, ...]], Any]) -> Callable[[tuple[int, ...]], Any]:
    def next_token(read: tuple[int, ...]) -> Any:
        spend()
        return rule(read)

    return next_token


def compute() -> None:
    """Take a core for some time of its own, however long that takes."""
    until = time.thread_time() + BUSY_SECONDS
    while time.thread_time() < until:
        pass


@contextlib.contextmanager
def worker(model: str, rows: int) -> Iterator[str]:
    """A worker in a process of its own; yields its address."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "served.yaml"
        member = {"name": "served", "model": model} | ({} if model.startswith("fake:") else {"threads": 1})
        spec.write_text(json.dumps({"members": [member]}))
        command = [sys.executable, __file__, "--serve", str(spec), "--rows", str(rows)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            port = None
            for line in process.stderr:
                if not line.startswith(b"{"):
                    continue
                told = json.loads(line)
                port = told.get("port", port)
                if told["event"] == "ready":
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def loaded(name: str, source: ModelSource, *, memory: bool = True) -> Backend:
    possible, row_memory.POSSIBLE = row_memory.POSSIBLE, row_memory.POSSIBLE and memory
    try:
        return make_loader(name, LoadRequest("still", source, slots=max(TEXTS))).load(lambda fraction, words: None)
    finally:
        row_memory.POSSIBLE = possible


def measure(backends: dict[str, Backend], texts: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each step, by way; the ways take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    slots = {name: [backend.open() for _ in range(texts)] for name, backend in backends.items()}
    for _ in range(steps):
        for name, backend in backends.items():
            began = time.perf_counter()
            backend.advance([Feed(slot, [7]) for slot in slots[name]])
            seconds[name].append(time.perf_counter() - began)
    for name, backend in backends.items():
        for slot in slots[name]:
            backend.close(slot)
    return seconds


def compare_with_home(rows: int, steps: int) -> None:
    make_fakes(rows)
    with worker("fake:still", rows) as url:
        backends = {
            "in process": loaded("fake", ModelSource("fake", "still")),
            "worker": loaded("endpoint", EndpointSource("endpoint", url)),
            "worker, sent": loaded("endpoint", EndpointSource("endpoint", url), memory=False),
            f"worker, top {TOP}": loaded("endpoint", EndpointSource("endpoint", url, top=TOP)),
        }
        for texts in TEXTS:
            measure(backends, texts, 20)
            found = measure(backends, texts, steps)
            tell("pass", texts, found)
        for backend in backends.values():
            backend.unload()
        members = {"in process": {"model": "fake:still"}, "worker": {"url": url}}
        members[f"worker, top {TOP}"] = {"url": url, "top": TOP}
        with contextlib.ExitStack() as used:
            specs = {name: {"members": [{"name": "still", **said}]} for name, said in members.items()}
            ensembles = {
                name: used.enter_context(Ensemble.load(spec, batch=max(TEXTS))) for name, spec in specs.items()
            }
            for texts in TEXTS:
                tell("step", texts, step_seconds(ensembles, [f"{PROMPT} {place}" for place in range(texts)]))


def step_seconds(ensembles: dict[str, Ensemble], prompts: list[str]) -> dict[str, list[float]]:
    """Seconds of a step of texts that are written together, by ensemble; the ensembles take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ensembles}
    for turn in range(STEP_ROUNDS + 1):
        names = list(ensembles)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            wrote = ensembles[name].generate(prompts, max_new_tokens=STEP_PIECES)
            spent = (time.perf_counter() - began) / max(each.usage.pieces for each in wrote)
            assert not any(each.usage.uncertain for each in wrote), "a choice was not proved"
            seconds[name] += [spent] if turn else []
    return seconds


def tell(what: str, texts: int, found: dict[str, list[float]]) -> None:
    own = statistics.median(found["in process"])
    for name, seconds in found.items():
        low, middle, high = (1e3 * each for each in statistics.quantiles(seconds, n=4))
        print(
            f"{what}, {texts} texts  {name:16} {middle:7.2f} ms ({low:.2f} to {high:.2f})"
            f"  in process + {middle - 1e3 * own:.2f} ms"
        )


def compare_together(rows: int, rounds: int) -> None:
    pairs = {name: (f"fake:{name}", f"fake:{name}") for name in ("sleeps", "computes")}
    for name, models in {**pairs, " + ".join(DEMO): tuple(DEMO.values())}.items():
        with contextlib.ExitStack() as used:
            urls = [used.enter_context(worker(model, rows)) for model in models]
            compare_pair(name, [{"name": f"member-{place}", "url": url} for place, url in enumerate(urls)], rounds)


def compare_pair(name: str, members: list[Any], rounds: int) -> None:
    specs = {"first": members[:1], "second": members[1:], "both": members}
    with contextlib.ExitStack() as used:
        ensembles = {name: used.enter_context(Ensemble.load({"members": each})) for name, each in specs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ensembles}
        for turn in range(rounds + 1):
            for which, ensemble in ensembles.items():
                began = time.perf_counter()
                wrote = ensemble.generate(PROMPT, max_new_tokens=PIECES)
                spent = (time.perf_counter() - began) / max(1, wrote.usage.pieces)
                seconds[which] += [spent] if turn else []
    slower = max(statistics.median(seconds["first"]), statistics.median(seconds["second"]))
    low, middle, high = (each / slower for each in statistics.quantiles(seconds["both"], n=4))
    steps = "  ".join(f"{which} {1e3 * statistics.median(each):.1f} ms" for which, each in seconds.items())
    print(f"{name:14} {steps}  ratio {middle:.3f} ({low:.3f} to {high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--parallel", action="store_true", help="two members in two workers, beside each alone")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--spec", type=Path, help="an ensemble file whose two members are compared")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        make_fakes(given.rows)
        sys.argv = ["unisono", "member", "serve", given.serve, "--member", "served", "--port", "0", "--slots", "64"]
        from unisono.cli.main import main as unisono

        unisono()
    elif given.parallel and given.spec:
        compare_pair(given.spec.stem, yaml.safe_load(given.spec.read_text())["members"], given.rounds)
    elif given.parallel:
        compare_together(given.rows, given.rounds)
    else:
        compare_with_home(given.rows, given.steps)


if __name__ == "__main__":
    main()
