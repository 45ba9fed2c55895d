"""What the records of written texts cost `unisono eval`: a whole trace, first choices, and nothing, by turns.

    python benchmarks/eval_records.py [SPEC] [--batch N] [--pieces N] [--rounds N] > records.json

Each round lets the ensemble, and each member alone, write the same texts three times, in an order that turns: with
whole traces, with each voter's first choice at every piece, which is what evaluations read, and without any record.
The ratio of a round is over the processor time without, which other programs of the machine change little.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from unisono.chat.messages import Prompt
from unisono.config.ensemble import load_spec
from unisono.engine.request import GenerationRequest
from unisono.evals import model_pool, systems
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import System
from unisono.records import Limits

SPEC = Path(__file__).resolve().parent.parent / "examples" / "duo.yaml"
QUESTIONS = ("Why is the sky blue?", "Name three rivers.", "What is seven times eight?", "Tell a story about a storm.")
KINDS = {"without": {}, "first choices": {"first_choices": True}, "trace": {"trace": True}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", type=Path, default=SPEC)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pieces", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    report: dict[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "batch": given.batch,
        "pieces": given.pieces,
    }
    with ModelPool(load_spec(given.spec), batch=given.batch) as pool:
        pool.load_weights()
        for system in (systems.ensemble(pool), *systems.members(pool)):
            report[system.name] = measured(pool, system, given.pieces, given.rounds)
    json.dump(report, sys.stdout, indent=2)
    print()


def measured(pool: ModelPool, system: System, pieces: int, rounds: int) -> dict[str, object]:
    """The ratios of a system's rounds, by what is kept."""
    seconds(pool, system, pieces, "trace")  # prompts are read, and caches are filled
    found: dict[str, list[float]] = {name: [] for name in KINDS if name != "without"}
    for number in range(rounds):
        names = [*KINDS][number % 3 :] + [*KINDS][: number % 3]
        took = {name: seconds(pool, system, pieces, name) for name in (names if number % 2 else names[::-1])}
        for name, ratios in found.items():
            ratios.append(took[name] / took["without"])
    return {
        name: {"median": round(statistics.median(each), 4), "least": round(min(each), 4), "most": round(max(each), 4)}
        for name, each in found.items()
    }


def seconds(pool: ModelPool, system: System, pieces: int, kind: str) -> float:
    """The processor time of texts that are written with records of a kind."""
    asked = [(Prompt(text=question), Limits(pieces, min_new_tokens=pieces)) for question in QUESTIONS]
    own = model_pool.GenerationRequest
    model_pool.GenerationRequest = partial(as_asked, kind)  # type: ignore[misc, assignment]
    try:
        began = time.process_time()
        pool.generate(system, asked)
        return time.process_time() - began
    finally:
        model_pool.GenerationRequest = own  # type: ignore[misc]


def as_asked(kind: str, *values: object, **keys: object) -> GenerationRequest:
    """The request of an evaluation, with records of a kind in the place of its own."""
    kept = {name: value for name, value in keys.items() if name not in ("trace", "first_choices")}
    return GenerationRequest(*values, **kept, **KINDS[kind])  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
