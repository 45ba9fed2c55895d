"""What a step costs of a member in vLLM, beside the engine's own streaming of as many texts.

    python benchmarks/vllm_steps.py MODEL --python .engines-venv/vllm/bin/python

MODEL is a folder that vLLM reads. Three ways take turns: the engine streams texts by itself; the backend asks it step
by step in the same process; and an ensemble's process asks the member's own (`options.python`). Prompts are read before
the clock starts. The table shows medians of milliseconds a step, and of the ratios to streaming of the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from unisono.backends.base import Backend, Feed, LoadRequest, ModelSource
from unisono.backends.registry import make_loader

CONTEXT = 1024


def load(model: str, python: str | None, given: argparse.Namespace) -> Backend:
    options: dict[str, object] = {"enforce_eager": not given.compile, "max_num_seqs": max(given.texts)}
    options |= {"kv_cache_memory_bytes": 2 << 30} | ({} if python is None else {"python": python})
    source = ModelSource("folder", str(Path(model).absolute()))
    request = LoadRequest(
        "far", source, dtype=given.dtype, context=CONTEXT, threads=1, slots=max(given.texts), options=options,
        alone=python is None,
    )  # fmt: skip
    return make_loader("vllm", request).load(lambda fraction, words: None)


def step_by_step(backend: Backend, prompts: list[list[int]], pieces: int) -> float:
    """Milliseconds a step."""
    slots = [backend.open() for _ in prompts]
    fed = prompts
    began = 0.0
    for number in range(pieces + 1):
        told: Any = backend.advance([Feed(slot, ids) for slot, ids in zip(slots, fed, strict=True)])
        fed = [[int(token)] for token in np.asarray(told).argmax(axis=1)]
        if number == 0:
            began = time.perf_counter()
    spent = time.perf_counter() - began
    for slot in slots:
        backend.close(slot)
    return 1000 * spent / pieces


def stream(core: Any, prompts: list[list[int]], pieces: int) -> float:
    """Milliseconds a step of the engine alone."""
    from unisono.backends.vllm import library

    engine = core._engine
    library_request: Any = library._Request
    for number, ids in enumerate(prompts):
        params = library.vllm.SamplingParams(max_tokens=pieces + 1, temperature=0.0, ignore_eos=True, detokenize=False)
        request = library_request(
            request_id=f"plain-{number}-{time.perf_counter_ns()}", prompt_token_ids=list(ids), mm_features=None,
            sampling_params=params, pooling_params=None, arrival_time=time.time(), lora_request=None,
            cache_salt=None, data_parallel_rank=None,
        )  # fmt: skip
        engine.add_request(*engine.preprocess_add_request(request))
    begun, began, steps = set[str](), 0.0, 0
    while engine.scheduler.has_unfinished_requests():
        outputs, _ = engine.step_fn()
        begun.update(library.answered(outputs[0].outputs if outputs and 0 in outputs else []))
        if began:
            steps += 1
        elif len(begun) == len(prompts):  # all have read their prompts
            began = time.perf_counter()
    return 1000 * (time.perf_counter() - began) / steps


def engine_role(given: argparse.Namespace) -> None:
    """In vLLM's own Python: answer each line of the input by what streaming and steps take."""
    said = sys.stdout
    sys.stdout = sys.stderr
    backend: Any = load(given.model, None, given)
    print("ready", file=said, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        own = stream(backend._core, asked["prompts"], asked["pieces"])
        ours = step_by_step(backend, asked["prompts"], asked["pieces"])
        print(json.dumps([own, ours]), file=said, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--prompts", type=int, nargs="+", default=[50, 800], help="ids of a prompt")
    parser.add_argument("--pieces", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", action="store_true", help="without enforce_eager")
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        engine_role(given)
        return
    command = [given.python, __file__, *sys.argv[1:], "--engine"]
    engine = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert engine.stdin is not None
    assert engine.stdout is not None
    if engine.stdout.readline() != "ready\n":
        sys.exit("vLLM cannot be started there")
    far = load(given.model, given.python, given)
    rng = np.random.default_rng(3)
    print(
        f"{'texts':>5} {'prompt':>6} {'streaming':>9} {'here':>7} {'ratio':>6} {'child':>7} {'ratio':>6} {'spread':>23}"
    )
    for length in given.prompts:
        for texts in given.texts:
            rounds = []
            for _ in range(given.rounds + 1):
                prompts = rng.integers(1000, 40000, (texts, length)).tolist()
                engine.stdin.write(json.dumps({"prompts": prompts, "pieces": given.pieces}) + "\n")
                engine.stdin.flush()
                own, here = json.loads(engine.stdout.readline())
                rounds.append((own, here, step_by_step(far, prompts, given.pieces)))
            rounds = rounds[1:]
            own, here, child = (statistics.median(each) for each in zip(*rounds, strict=True))
            ratios = [sorted(each[place] / each[0] for each in rounds) for place in (1, 2)]
            spread = "  ".join(f"{each[0]:.2f}-{each[-1]:.2f}" for each in ratios)
            middles = [statistics.median(each) for each in ratios]
            print(
                f"{texts:>5} {length:>6} {own:>9.1f} {here:>7.1f} {middles[0]:>6.2f} {child:>7.1f} {middles[1]:>6.2f}"
                f" {spread:>24}",
                flush=True,
            )
    engine.stdin.close()
    far.unload()


if __name__ == "__main__":
    main()
