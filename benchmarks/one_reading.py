"""Scored questions: one reading for all settings, beside one setting at a time, and beside the members alone.

Usage: python benchmarks/one_reading.py --data DIR [--tasks piqa] [--questions N] [--rounds N] [--old]

Prints JSON: seconds a question of members alone, and of members alone, mean, geometric and 20 weightings together, and
their ratio, each the median with the smallest and largest round; ``--old`` adds members alone setting by setting.
Rounds take other questions each and begin with an empty prefix cache; within a round the order rotates. The models are
demo models.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MEMBERS = {
    "smol": "demo:smollm2-135m-instruct",
    "gemma": "demo:gemma3-270m",
    "qwen": "demo:qwen2.5-coder-0.5b-instruct",
}
WEIGHTINGS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", default="piqa")
    parser.add_argument("--questions", type=int, default=16, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--old", action="store_true")
    options = parser.parse_args()
    print(json.dumps(measure(options), indent=2))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from unisono.config.ensemble import load_spec
    from unisono.evals import systems as make
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.tasks import load_tasks

    count = options.questions * options.rounds
    [task] = load_tasks([options.tasks], data=options.data, limit=count)
    members = [{"name": name, "model": model} for name, model in MEMBERS.items()]
    with ModelPool(load_spec({"members": members})) as pool:
        pool.load_weights()
        alone = make.members(pool)
        weightings = [
            make.variant(pool, f"weights=smol:{1 + n},gemma:{3 + n % 7},qwen:{9 - n % 5}") for n in range(WEIGHTINGS)
        ]
        settings = [*alone, make.ensemble(pool), make.variant(pool, "combine=geometric"), *weightings]
        ways: dict[str, Callable[[Sequence[Any]], Any]] = {
            "members alone": lambda asked: pool.score_all(alone, asked),
            f"{len(settings)} settings": lambda asked: pool.score_all(settings, asked),
        }
        if options.old:
            ways["members alone, one at a time"] = lambda asked: [pool.score(system, asked) for system in alone]
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.rounds):
            questions = task.questions[turn * options.questions : (turn + 1) * options.questions]
            batches = [questions[start : start + 8] for start in range(0, len(questions), 8)]
            names = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
            for name in names:
                began = time.perf_counter()
                for batch in batches:
                    pool.forget()
                    ways[name]([(each.prompt, choice) for each in batch for choice in each.choices])
                seconds[name].append((time.perf_counter() - began) / len(questions))
    first, *others = seconds
    ratios = {name: [one / base for one, base in zip(seconds[name], seconds[first], strict=True)] for name in others}
    return {
        "seconds a question": {name: spread(its) for name, its in seconds.items()},
        f"÷ {first}": {name: spread(its) for name, its in ratios.items()},
    }


def spread(values: Sequence[float]) -> list[float]:
    return [round(each, 4) for each in (statistics.median(values), min(values), max(values))]


if __name__ == "__main__":
    main()
